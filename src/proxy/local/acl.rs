//! ACL: a product has one user, whose clients may do everything that the product offers. Knows nothing of the users of servers.

use super::{QUOTED_MAX, command::Offered, unresolved};
use crate::{
    commands::{self, Args, Handling, ResolveError, ServerCommands},
    model::{auth::ProductAuth, route::ProductRoutes, secret::Credentials},
    proxy::{dispatch::CallContext, session::Session},
    resp::{number, write},
};

/// Bits of a password that ACL GENPASS makes, if the call does not say how many; the same as in Redis.
const PASSWORD_BITS: i64 = 256;

/// Most bits of one; the same as in Redis.
const PASSWORD_BITS_MAX: i64 = 4096;

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

/// Writes the reply to ACL GENPASS: a text that nobody can guess.
pub(super) fn genpass(call: &CallContext<'_>, out: &mut Vec<u8>) {
    let bits = match call.args.len() {
        2 => Some(PASSWORD_BITS),
        3 => number::parse(call.get(2)),
        _ => return wrong_arguments(call, out),
    };
    let digits = match bits {
        Some(bits @ 1..=PASSWORD_BITS_MAX) => usize::try_from(bits).unwrap_or_default().div_ceil(4),
        Some(_) => {
            let text = "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to \
                4096";
            return write::error(out, text);
        }
        None => return write::error(out, "ERR value is not an integer or out of range"),
    };
    let mut password = String::new();
    while password.len() < digits {
        // Bytes 6 and 8 of a UUID are not entirely random.
        let uuid = uuid::Uuid::new_v4().into_bytes();
        uuid[..6].iter().chain(&uuid[9..]).for_each(|byte| password.push_str(&format!("{byte:02x}")));
    }
    write::bulk(out, &password.as_bytes()[..digits]);
}

/// Writes the reply to ACL LOG: the user may do everything that is offered, so no command of it is ever denied.
pub(super) fn log(call: &CallContext<'_>, out: &mut Vec<u8>) {
    match call.args.len() {
        2 => write::array(out, 0),
        3 if call.get(2).eq_ignore_ascii_case(b"reset") => write::simple(out, "OK"),
        3 if number::parse(call.get(2)).is_some() => write::array(out, 0),
        3 => write::error(out, "ERR value is not an integer or out of range"),
        _ => wrong_arguments(call, out),
    }
}

/// Writes the reply to ACL DRYRUN: whether the product offers a call to its user.
pub(super) fn dryrun(
    routes: &ProductRoutes,
    servers: Option<&ServerCommands>,
    call: &CallContext<'_>,
    out: &mut Vec<u8>,
) {
    let quoted = |i: usize| String::from_utf8_lossy(&call.get(i)[..call.get(i).len().min(QUOTED_MAX)]).into_owned();
    if call.get(2) != user(&routes.auth).as_bytes() {
        return write::error(out, &format!("ERR User '{}' not found", quoted(2)));
    }
    let inner = CallContext { bytes: call.bytes, args: &call.args[3..] };
    let offered = match commands::resolve(&inner) {
        Ok(spec) => Offered(servers).has(spec) && !is_refused(spec.handling),
        Err(ResolveError::Unknown) => match servers.and_then(|servers| servers.resolve(&inner, &mut Vec::new())) {
            Some(_) => true,
            None => return write::error(out, &format!("ERR Command '{}' not found", quoted(3))),
        },
        Err(error) => return write::error(out, &unresolved(&error, &inner)),
    };
    match offered {
        true => write::simple(out, "OK"),
        false => {
            let text = format!("User {} has no permissions to run the '{}' command", quoted(2), quoted(3));
            write::bulk(out, text.as_bytes());
        }
    }
}

fn is_refused(handling: Handling) -> bool {
    matches!(handling, Handling::Refused(_) | Handling::Unsupported(_) | Handling::Close(_))
}

/// The error for a call with too many arguments. (Redis, `addReplySubcommandSyntaxError`.)
fn wrong_arguments(call: &CallContext<'_>, out: &mut Vec<u8>) {
    let name = String::from_utf8_lossy(&call.get(1)[..call.get(1).len().min(QUOTED_MAX)]);
    let text = format!("ERR unknown subcommand or wrong number of arguments for '{name}'. Try ACL HELP.");
    write::error(out, &text);
}
