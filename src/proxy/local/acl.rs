//! ACL: a product has one user, whose clients may do everything that the product offers. Knows nothing of the users of servers.

use crate::{
    commands::Args,
    model::{auth::ProductAuth, route::ProductRoutes, secret::Credentials},
    proxy::{dispatch::CallContext, session::Session},
    resp::write,
};

/// The categories of Redis 7, in its order.
const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// The name that clients log in with.
fn user(auth: &ProductAuth) -> &str {
    auth.credentials.as_ref().map_or("default", Credentials::user)
}

/// Writes the reply to ACL WHOAMI.
pub(super) fn whoami(routes: &ProductRoutes, out: &mut Vec<u8>) {
    write::bulk(out, user(&routes.auth).as_bytes());
}

/// Writes the reply to ACL USERS.
pub(super) fn users(routes: &ProductRoutes, out: &mut Vec<u8>) {
    write::array(out, 1);
    whoami(routes, out);
}

/// Writes the reply to ACL LIST, without the hash of the password.
pub(super) fn list(routes: &ProductRoutes, out: &mut Vec<u8>) {
    let password = if routes.auth.is_required() { "" } else { " nopass" };
    write::array(out, 1);
    write::bulk(out, format!("user {} on{password} sanitize-payload ~* &* +@all", user(&routes.auth)).as_bytes());
}

/// Writes the reply to ACL GETUSER, without the hash of the password.
pub(super) fn getuser(session: &Session, routes: &ProductRoutes, call: &CallContext<'_>, out: &mut Vec<u8>) {
    let version = session.client.borrow().version;
    if call.get(2) != user(&routes.auth).as_bytes() {
        return write::null(out, version);
    }
    let mut flags = vec!["on", "sanitize-payload"];
    if !routes.auth.is_required() {
        flags.insert(1, "nopass");
    }
    write::map(out, 6, version);
    write::bulk(out, b"flags");
    write::set(out, flags.len(), version);
    flags.iter().for_each(|flag| write::simple(out, flag));
    write::bulk(out, b"passwords");
    write::array(out, 0);
    for (name, value) in [("commands", "+@all"), ("keys", "~*"), ("channels", "&*")] {
        write::bulk(out, name.as_bytes());
        write::bulk(out, value.as_bytes());
    }
    write::bulk(out, b"selectors");
    write::array(out, 0);
}

/// Writes the reply to ACL CAT without a category.
pub(super) fn categories(out: &mut Vec<u8>) {
    write::array(out, CATEGORIES.len());
    CATEGORIES.iter().for_each(|category| write::simple(out, category));
}
