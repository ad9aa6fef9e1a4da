//! Where a RESP message ends, where its parts are, and how one is written. Pure: bytes in, positions or bytes out.
//! Knows nothing of sockets, commands or routes, and builds no tree: bytes are forwarded as they came.

pub mod inline;
pub mod limits;
pub mod login;
pub mod number;
pub mod reply;
pub mod request;
pub mod write;
