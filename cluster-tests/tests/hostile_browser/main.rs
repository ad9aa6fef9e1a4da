//! A web page in the browser of somebody who reaches the admin port of a cluster without a secret: it sends whatever a
//! browser can be made to send, and some things that only other programs send. Nothing of it changes the cluster or
//! tells the page anything. What operators, nodes and monitoring send is answered.

#![allow(clippy::unwrap_used)]

mod http1;
mod http2;
mod limits;
mod target;
mod welcome;
