//! Finds the end of RESP messages and the positions of their parts, and writes messages. Pure functions of bytes.
//! Builds no tree, because messages are forwarded unchanged. Knows nothing of sockets, commands or routes.

pub mod inline;
pub mod limits;
pub mod login;
pub mod number;
pub mod reply;
pub mod request;
pub mod write;
