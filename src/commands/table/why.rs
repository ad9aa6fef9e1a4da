//! Reasons why commands are not offered, as texts that the proxy sends to clients after the name: `'NAME': ...`.
//! Knows nothing of which commands they are for.

pub(super) const PUBSUB_LATER: &str = "publish and subscribe is not supported by this proxy yet, not executed";
pub(super) const TRACKING: &str = "client-side caching is not supported by this proxy yet, not executed";

pub(super) const OPERATORS: &str =
    "it concerns one server, not the data, so the proxy refuses it, not executed. Send it to the server itself";
pub(super) const REPLICATION: &str =
    "the proxy cluster decides which server replicates from which, not executed. See pontoon group";
/// The whole error, since client libraries recognize it: that of a Redis without cluster mode. Connect without the client's
/// cluster mode.
pub const CLUSTER: &str = "This instance has cluster support disabled";
pub(super) const MIGRATE: &str =
    "keys are moved by the proxy cluster, not by clients, not executed. See pontoon migrate";
pub(super) const ACL: &str = "the proxy manages users, not the servers, not executed. See pontoon product";
pub(super) const CONFIG_REWRITE: &str = "what clients set lasts until the node is started again, not executed. Settings that stay are \
    those of pontoon product set, and those in the servers' own files";
pub(super) const SERVER_SESSIONS: &str = "it concerns a connection to a server, and clients share those, not executed";
pub(super) const INDEX: &str =
    "its index spans the keys of one server only, so the answer would be wrong here, not executed";
pub(super) const SCRIPT_DEBUG: &str = "the debugger would stop a server that other clients use, not executed. Debug the \
    script at a server of your own";
pub(super) const HTTP: &str = "this is HTTP, not Redis; possible attack through a browser. The connection is closed";
