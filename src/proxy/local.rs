//! Commands that a node answers itself, without a server.
//! Knows nothing of servers; the settings of a client are kept in its session.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    check::ServeCheck,
    client::{ClientState, ReplyMode},
    dispatch::CallContext,
    session::Session,
    worker::Worker,
};
use crate::{
    commands::{self, Args, Local, ResolveError, Spec},
    model::route::ProductRoutes,
    resp::{
        number,
        write::{self, Version},
    },
};

/// Longest name of a client, in bytes. Redis has no limit, but a name occupies memory as long as the client is
/// connected.
const NAME_MAX: usize = 256;

/// Bytes of a client's own text that an error repeats; the same as in Redis.
const QUOTED_MAX: usize = 128;

/// What the session does after the reply.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answer {
    pub(super) close: bool,
    /// The new setting of `CLIENT REPLY`, not the old one, decides whether this reply is sent.
    pub(super) mode_changed: bool,
}

/// Writes the reply to `command` into `out`.
pub(super) fn answer(
    worker: &Worker,
    session: &Session,
    routes: &ProductRoutes,
    command: Local,
    call: &CallContext<'_>,
    out: &mut Vec<u8>,
) -> Answer {
    let version = session.client.borrow().version;
    let mut after = Answer::default();
    match command {
        Local::Ping if call.args.len() > 2 => write::error(out, "ERR wrong number of arguments for 'ping' command"),
        Local::Ping if call.args.len() == 2 => write::bulk(out, call.get(1)),
        Local::Ping => write::simple(out, "PONG"),
        Local::Echo => write::bulk(out, call.get(1)),
        Local::Quit => {
            write::simple(out, "OK");
            after.close = true;
        }
        Local::Auth => auth(session, routes, call, out),
        Local::Hello => hello(session, routes, call, out),
        Local::Select => select(session, routes, call.get(1), out),
        Local::Reset => {
            // RESET ends `CLIENT REPLY OFF`, so its own reply is sent.
            after.mode_changed = session.client.borrow().replies == ReplyMode::Off;
            *session.client.borrow_mut() = ClientState { logged_in: routes.auth.is_none(), ..ClientState::default() };
            session.forget_backend_set();
            write::simple(out, "RESET");
        }
        Local::Time => time(out),
        Local::Info => write::verbatim(out, &info(worker, session, routes, call), version),
        Local::ConfigGet => config_get(worker, routes, call, version, out),
        Local::CommandAll => command_all(out, version),
        Local::CommandCount => write::int(out, commands::all().count() as i64),
        Local::CommandInfo => command_info(call, out, version),
        Local::CommandList => command_list(out),
        Local::CommandGetkeys => command_getkeys(call, out),
        Local::ClientId => write::int(out, session.id as i64),
        Local::ClientInfo => write::verbatim(out, &client_info(session), version),
        Local::ClientGetname => match session.client.borrow().name.as_str() {
            "" => write::null(out, version),
            name => write::bulk(out, name.as_bytes()),
        },
        Local::ClientSetname => match name(call.get(2)) {
            Ok(name) => {
                session.client.borrow_mut().name = name;
                write::simple(out, "OK");
            }
            Err(error) => write::error(out, error),
        },
        Local::ClientSetinfo => client_setinfo(session, call, out),
        Local::ClientNoEvict | Local::ClientNoTouch => match on_or_off(call.get(2)) {
            Some(_) => write::simple(out, "OK"),
            None => write::error(out, "ERR syntax error"),
        },
        Local::ClientReply => after.mode_changed = client_reply(session, call, out),
        Local::ClientGetredir => write::int(out, -1),
        Local::ClientTrackinginfo => {
            write::map(out, 3, version);
            write::bulk(out, b"flags");
            write::set(out, 1, version);
            write::bulk(out, b"off");
            write::bulk(out, b"redirect");
            write::int(out, -1);
            write::bulk(out, b"prefixes");
            write::array(out, 0);
        }
        Local::ConfigHelp | Local::CommandHelp | Local::ClientHelp => {
            write::array(out, 1);
            write::simple(out, "See https://redis.io/commands; the proxy offers the commands that COMMAND LIST shows.");
        }
        Local::CommandGetkeysandflags => {
            write::error(out, "ERR 'command|getkeysandflags' is not offered by the proxy. Use COMMAND GETKEYS");
        }
    }
    after
}

/// The error for a call that resolves to no command, with Redis' wording.
pub(super) fn unresolved(error: &ResolveError, call: &CallContext<'_>) -> String {
    let quoted = |arg: &[u8]| String::from_utf8_lossy(&arg[..arg.len().min(QUOTED_MAX)]).into_owned();
    match error {
        ResolveError::Unknown => {
            let mut text = format!("ERR unknown command '{}', with args beginning with: ", quoted(call.get(0)));
            for i in 1..call.args.len() {
                if text.len() > QUOTED_MAX {
                    break;
                }
                text += &format!("'{}' ", quoted(call.get(i)));
            }
            text
        }
        ResolveError::UnknownSubcommand(_) => {
            let name = quoted(call.get(0));
            let sub = if call.args.len() > 1 { quoted(call.get(1)) } else { String::new() };
            format!("ERR unknown subcommand '{sub}'. Try {} HELP.", name.to_uppercase())
        }
        ResolveError::WrongArity(_) => format!("ERR {error}"),
    }
}

fn auth(session: &Session, routes: &ProductRoutes, call: &CallContext<'_>, out: &mut Vec<u8>) {
    let (user, password) = match call.args.len() {
        2 => (None, call.get(1)),
        3 => (Some(call.get(1)), call.get(2)),
        _ => return write::error(out, "ERR syntax error"),
    };
    match log_in(session, routes, user, password) {
        Ok(()) => write::simple(out, "OK"),
        Err(error) => write::error(out, error),
    }
}

fn log_in(session: &Session, routes: &ProductRoutes, user: Option<&[u8]>, password: &[u8]) -> Result<(), &'static str> {
    let Some(wanted) = &routes.auth else {
        return match user {
            // As Redis' default user without a password: any will do.
            Some(b"default") => Ok(()),
            Some(_) => Err("WRONGPASS invalid username-password pair or user is disabled."),
            None => {
                Err("ERR AUTH <password> called without any password configured for the default user. Are you sure \
                    your configuration is correct?")
            }
        };
    };
    let user_fits = user.unwrap_or(b"default") == wanted.username.as_deref().unwrap_or("default").as_bytes();
    // The password is compared in both cases, so that the time does not reveal which of the two was wrong.
    let password_fits = wanted.password.matches(password);
    if user_fits && password_fits {
        session.client.borrow_mut().logged_in = true;
        Ok(())
    } else {
        Err("WRONGPASS invalid username-password pair or user is disabled.")
    }
}

fn hello(session: &Session, routes: &ProductRoutes, call: &CallContext<'_>, out: &mut Vec<u8>) {
    let mut version = session.client.borrow().version;
    let mut at = 1;
    if call.args.len() > 1 {
        version = match call.get(1) {
            b"2" => Version::Resp2,
            b"3" => Version::Resp3,
            other if number::parse(other).is_none() => {
                return write::error(out, "ERR Protocol version is not an integer or out of range");
            }
            _ => return write::error(out, "NOPROTO unsupported protocol version"),
        };
        at = 2;
    }
    let mut new_name = None;
    while at < call.args.len() {
        let left = call.args.len() - at - 1;
        let option = call.get(at);
        if option.eq_ignore_ascii_case(b"AUTH") && left >= 2 {
            if let Err(error) = log_in(session, routes, Some(call.get(at + 1)), call.get(at + 2)) {
                return write::error(out, error);
            }
            at += 3;
        } else if option.eq_ignore_ascii_case(b"SETNAME") && left >= 1 {
            match name(call.get(at + 1)) {
                Ok(name) => new_name = Some(name),
                Err(error) => return write::error(out, error),
            }
            at += 2;
        } else {
            let option = String::from_utf8_lossy(&option[..option.len().min(QUOTED_MAX)]).into_owned();
            return write::error(out, &format!("ERR Syntax error in HELLO option '{option}'"));
        }
    }
    let mut client = session.client.borrow_mut();
    if !client.logged_in {
        return write::error(
            out,
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
                <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        );
    }
    if let Some(name) = new_name {
        client.name = name;
    }
    client.version = version;
    drop(client);
    session.forget_backend_set();
    write::map(out, 7, version);
    for (key, value) in [("server", "redis"), ("version", SERVER_VERSION)] {
        write::bulk(out, key.as_bytes());
        write::bulk(out, value.as_bytes());
    }
    write::bulk(out, b"proto");
    write::int(out, if version == Version::Resp3 { 3 } else { 2 });
    write::bulk(out, b"id");
    write::int(out, session.id as i64);
    for (key, value) in [("mode", "standalone"), ("role", "master")] {
        write::bulk(out, key.as_bytes());
        write::bulk(out, value.as_bytes());
    }
    write::bulk(out, b"modules");
    write::array(out, 0);
}

/// The version of Redis whose commands the table has completely; client libraries choose their features by it.
const SERVER_VERSION: &str = "7.0.15";

fn select(session: &Session, routes: &ProductRoutes, db: &[u8], out: &mut Vec<u8>) {
    match number::parse(db).map(u32::try_from) {
        None => write::error(out, "ERR invalid DB index"),
        Some(Ok(db)) if db < routes.databases => {
            session.client.borrow_mut().db = db;
            session.forget_backend_set();
            write::simple(out, "OK");
        }
        Some(_) => write::error(out, "ERR DB index is out of range"),
    }
}

fn time(out: &mut Vec<u8>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    write::array(out, 2);
    write::bulk(out, now.as_secs().to_string().as_bytes());
    write::bulk(out, now.subsec_micros().to_string().as_bytes());
}

fn name(given: &[u8]) -> Result<String, &'static str> {
    if given.len() > NAME_MAX || !given.iter().all(u8::is_ascii_graphic) {
        return Err("ERR Client names cannot contain spaces, newlines or special characters.");
    }
    Ok(String::from_utf8_lossy(given).into_owned())
}

fn on_or_off(given: &[u8]) -> Option<bool> {
    if given.eq_ignore_ascii_case(b"ON") {
        Some(true)
    } else if given.eq_ignore_ascii_case(b"OFF") {
        Some(false)
    } else {
        None
    }
}

fn client_setinfo(session: &Session, call: &CallContext<'_>, out: &mut Vec<u8>) {
    let Ok(value) = name(call.get(3)) else {
        return write::error(out, "ERR lib-name and lib-ver cannot contain spaces, newlines or special characters.");
    };
    let mut client = session.client.borrow_mut();
    match call.get(2) {
        what if what.eq_ignore_ascii_case(b"LIB-NAME") => client.library = value,
        what if what.eq_ignore_ascii_case(b"LIB-VER") => client.library_version = value,
        _ => return write::error(out, "ERR Unrecognized option"),
    }
    write::simple(out, "OK");
}

/// Sets the reply mode. Returns whether the new mode decides whether this command's own reply is sent.
fn client_reply(session: &Session, call: &CallContext<'_>, out: &mut Vec<u8>) -> bool {
    let mode = call.get(2);
    let mode = if mode.eq_ignore_ascii_case(b"SKIP") {
        ReplyMode::SkipNext
    } else {
        match on_or_off(mode) {
            Some(true) => ReplyMode::On,
            Some(false) => ReplyMode::Off,
            None => {
                write::error(out, "ERR syntax error");
                return false;
            }
        }
    };
    let mut client = session.client.borrow_mut();
    // SKIP has no effect while all replies are off.
    if !(mode == ReplyMode::SkipNext && client.replies == ReplyMode::Off) {
        client.replies = mode;
    }
    write::simple(out, "OK");
    true
}

fn client_info(session: &Session) -> String {
    let client = session.client.borrow();
    let resp = if client.version == Version::Resp3 { 3 } else { 2 };
    format!(
        "id={} addr={} name={} db={} resp={resp} lib-name={} lib-ver={}\n",
        session.id, session.addr, client.name, client.db, client.library, client.library_version
    )
}

fn info(worker: &Worker, session: &Session, routes: &ProductRoutes, call: &CallContext<'_>) -> String {
    let report = worker.shared.latest();
    let serve_check = if worker.serve_check_for(routes.isolated) == ServeCheck::Open { "ok" } else { "none" };
    let sections = [
        (
            "server",
            format!(
                "# Server\r\nredis_version:{SERVER_VERSION}\r\nredis_mode:standalone\r\npontoon_version:{}\r\n\
                    process_id:{}\r\ntcp_port:{}\r\n",
                worker.config.version,
                std::process::id(),
                routes.port.saturating_add(worker.config.port_offset)
            ),
        ),
        (
            "clients",
            format!(
                "# Clients\r\nconnected_clients:{}\r\nmaxclients:{}\r\nblocked_clients:0\r\n",
                worker.shared.clients(),
                worker.config.limits.clients_max
            ),
        ),
        ("memory", "# Memory\r\nmaxmemory:0\r\n".to_owned()),
        ("persistence", "# Persistence\r\nloading:0\r\n".to_owned()),
        (
            "stats",
            format!(
                "# Stats\r\ntotal_connections_received:{}\r\ntotal_commands_processed:{}\r\n",
                report.stats.accepted, report.stats.requests
            ),
        ),
        ("replication", "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n".to_owned()),
        ("cluster", "# Cluster\r\ncluster_enabled:0\r\n".to_owned()),
        ("keyspace", "# Keyspace\r\n".to_owned()),
        (
            "pontoon",
            format!(
                "# Pontoon\r\nnode_id:{}\r\nproduct:{}\r\nroute_epoch:{}\r\nlease:{serve_check}\r\nclient_id:{}\r\n\
                    forwarded:{}\r\nrefused:{}\r\nunknown:{}\r\nparked:{}\r\nreplica_reads:{}\r\nreplica_repeats:{}\r\n",
                worker.config.node,
                routes.name,
                worker.routes.epoch(),
                session.id,
                report.stats.forwarded,
                report.stats.refused,
                report.stats.unknown,
                report.stats.parked,
                report.stats.replica_reads,
                report.stats.replica_repeats
            ),
        ),
    ];
    let asked: Vec<&[u8]> = (1..call.args.len()).map(|i| call.get(i)).collect();
    let all = asked.is_empty()
        || asked.iter().any(|a| [&b"all"[..], b"default", b"everything"].iter().any(|w| a.eq_ignore_ascii_case(w)));
    let wanted = |name: &str| all || asked.iter().any(|a| a.eq_ignore_ascii_case(name.as_bytes()));
    let texts: Vec<String> = sections.into_iter().filter(|(name, _)| wanted(name)).map(|(_, text)| text).collect();
    texts.join("\r\n")
}

fn config_get(worker: &Worker, routes: &ProductRoutes, call: &CallContext<'_>, version: Version, out: &mut Vec<u8>) {
    let known = [
        ("appendonly", "no".to_owned()),
        ("databases", routes.databases.to_string()),
        ("maxclients", worker.config.limits.clients_max.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("proto-max-bulk-len", crate::resp::limits::BULK_MAX.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ];
    // Supports only the patterns that people type: a prefix and a star.
    let fits = |pattern: &[u8], name: &[u8]| match pattern.strip_suffix(b"*") {
        Some(start) => name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start)),
        None => pattern.eq_ignore_ascii_case(name),
    };
    let asked = |name: &str| (2..call.args.len()).any(|i| fits(call.get(i), name.as_bytes()));
    let found: Vec<_> = known.iter().filter(|(name, _)| asked(name)).collect();
    write::map(out, found.len(), version);
    for (name, value) in found {
        write::bulk(out, name.as_bytes());
        write::bulk(out, value.as_bytes());
    }
}

fn command_all(out: &mut Vec<u8>, version: Version) {
    write::array(out, commands::all().count());
    for spec in commands::all() {
        describe(spec, out, version);
    }
}

fn command_info(call: &CallContext<'_>, out: &mut Vec<u8>, version: Version) {
    if call.args.len() == 2 {
        return command_all(out, version);
    }
    write::array(out, call.args.len() - 2);
    for i in 2..call.args.len() {
        let full = call.get(i);
        let mut names = full.splitn(2, |c| *c == b'|');
        let spec = names.next().and_then(commands::lookup);
        let spec = match names.next() {
            Some(sub) => spec.and_then(|spec| spec.subcommand(sub)),
            None => spec,
        };
        match (spec, version) {
            (Some(spec), _) => describe(spec, out, version),
            (None, Version::Resp2) => out.extend_from_slice(b"*-1\r\n"),
            (None, Version::Resp3) => write::null(out, version),
        }
    }
}

/// The ten fields of Redis 7; tips, key specifications and subcommands are left empty.
fn describe(spec: &Spec, out: &mut Vec<u8>, version: Version) {
    write::array(out, 10);
    write::bulk(out, spec.name.as_bytes());
    write::int(out, i64::from(spec.arity));
    let flags: Vec<_> = spec.flags.names().collect();
    write::set(out, flags.len(), version);
    for flag in flags {
        write::simple(out, &flag);
    }
    let (first, last, step) = spec.key_range();
    for number in [i64::from(first), i64::from(last), i64::from(step)] {
        write::int(out, number);
    }
    write::set(out, 0, version);
    for _ in 0..3 {
        write::array(out, 0);
    }
}

fn command_list(out: &mut Vec<u8>) {
    write::array(out, commands::all().count());
    for spec in commands::all() {
        write::bulk(out, spec.name.as_bytes());
    }
}

fn command_getkeys(call: &CallContext<'_>, out: &mut Vec<u8>) {
    let inner = CallContext { bytes: call.bytes, args: &call.args[2..] };
    let spec = match commands::resolve(&inner) {
        Ok(spec) => spec,
        Err(ResolveError::WrongArity(_)) => {
            return write::error(out, "ERR Invalid number of arguments specified for command");
        }
        Err(_) => return write::error(out, "ERR Invalid command specified"),
    };
    let mut keys = Vec::new();
    if spec.keys(&inner, &mut keys).is_err() {
        return write::error(out, "ERR Invalid arguments specified for command");
    }
    if keys.is_empty() {
        return write::error(out, "ERR The command has no key arguments");
    }
    write::array(out, keys.len());
    for key in keys {
        write::bulk(out, inner.get(key));
    }
}
