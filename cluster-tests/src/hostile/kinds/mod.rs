//! What each kind of hostile client does in a round. A kind is a row of [`KINDS`] and a function.
//!
//! All kinds use the keys that [`super::arena`] has created, and keys that begin with `hostile:`, of which there are
//! few: the attacked servers have a bound for their memory, and a full server refuses what the kinds depend on.

mod commands;
mod connections;
mod replies;
mod requests;

use std::{fmt, io, pin::Pin};

use super::link::Link;
use crate::client::request;

/// A round of a client.
type Round<'a> = Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>;

/// A kind of hostile client.
pub struct Kind {
    /// Its name in tables and for `--only`.
    pub name: &'static str,
    /// Whether a round moves tens of megabytes, so that only a few clients may be in one.
    pub heavy: bool,
    /// What a client does with a new connection.
    pub round: for<'a> fn(&'a mut Link) -> Round<'a>,
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! kinds {
    ($($name:literal, $heavy:ident, $module:ident::$function:ident;)+) => {
        /// All kinds.
        pub const KINDS: &[Kind] = &[$(Kind {
            name: $name,
            heavy: kinds!($heavy),
            round: |link| Box::pin($module::$function(link)),
        },)+];
    };
    (heavy) => { true };
    (light) => { false };
}

kinds! {
    "large replies that are never read", heavy, replies::never_read;
    "replies read byte by byte", light, replies::read_byte_by_byte;
    "100 GETs of 1 MB in one write", heavy, replies::large_burst;
    "300,000 GETs sent before reading", heavy, replies::pipeline_first;
    "pauses between reads", heavy, replies::read_with_pauses;
    "MGET of 32 MB that is not read", heavy, replies::large_mget;
    "replies of the node that are not read", light, replies::of_the_node;
    "errors that are not read", light, replies::errors;
    "an announced bulk of 512 MB", light, requests::announced_bulk;
    "an announced array of a million", light, requests::announced_array;
    "a line without an end", light, requests::endless_line;
    "a SET sent slowly", light, requests::slow_value;
    "SETs of 16 MB", heavy, requests::large_values;
    "a request sent byte by byte", light, requests::byte_by_byte;
    "a line of many words", light, requests::long_line;
    "empty requests", light, requests::empty;
    "random bytes", light, requests::random_bytes;
    "invalid headers", light, requests::invalid_headers;
    "commands with a million keys", heavy, commands::many_keys;
    "COMMAND INFO with a million names", heavy, commands::command_info;
    "transactions", light, commands::transactions;
    "wrong passwords", light, commands::wrong_passwords;
    "CLIENT REPLY OFF", heavy, commands::replies_off;
    "changes of the RESP version", light, commands::versions;
    "changes of the database", light, commands::databases;
    "refused commands", light, commands::refused;
    "half-closed connections", light, connections::half_closed;
    "connections without requests", light, connections::without_requests;
    "connections that end in the middle of a request", light, connections::in_a_request;
    "clients that leave before their replies", heavy, connections::before_replies;
}

/// Appends a request.
fn push(out: &mut Vec<u8>, args: &[&str]) {
    out.extend_from_slice(&request(args));
}
