//! Commands that a node answers itself, without a server.
//! Knows nothing of servers; the settings of a client are kept in its session.

mod acl;
mod codis;
mod command;
mod config;
mod debug;
mod help;
pub(super) mod info;
mod login;
mod memory;
mod module;
mod server_command;
mod unresolved;
mod version;

use std::time::{SystemTime, UNIX_EPOCH};

use command::Offered;
pub(super) use command::{
    all as command_all, for_server as command_for_server, info as command_info,
    info_by_server as command_info_by_server,
};
pub(super) use config::{
    Settings, changes as config_changes, get as config_get, merge as merge_config, of_servers as config_of_servers,
};
pub(super) use debug::{
    DebugPart, NOT_ALLOWED as DEBUG_NOT_ALLOWED, error as debug_error, is_sleep, protocol as debug_protocol,
    reload_is_safe, sleep_time,
};
pub(super) use help::debug as debug_help;
use login::Refusal;
pub(super) use server_command::{ServerCommand, is_shown};
pub(super) use unresolved::unresolved;

use super::{
    client::{ClientState, ReplyMode},
    dispatch::CallContext,
    learnt::server_commands,
    session::Session,
    worker::Worker,
};
use crate::{
    commands::{Args, Local, ServerCommands},
    model::route::ProductRoutes,
    resp::{number, write},
};

/// Longest name of a client, in bytes. Redis has no limit, but a name occupies memory as long as the client is
/// connected.
const NAME_MAX: usize = 256;

/// Bytes of a client's own text that an error repeats; the same as in Redis.
pub(super) const QUOTED_MAX: usize = 128;

/// What the session does after the reply.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answer {
    pub(super) close: bool,
    /// The new setting of `CLIENT REPLY`, not the old one, decides whether this reply is sent.
    pub(super) mode_changed: bool,
    /// The reply says that a login failed.
    pub(super) failed_login: bool,
    /// The client must log in again.
    pub(super) logged_out: bool,
}

/// Whether servers have to be asked for the reply.
#[inline]
pub(super) fn asks_servers(command: Local, call: &CallContext<'_>) -> bool {
    match command {
        Local::Info => info::Sections::of(call).of_servers().next().is_some(),
        Local::ConfigGet => !config::of_servers(call).is_empty(),
        Local::ConfigSet => !config::of_servers(call).is_empty() || config::may_change(call),
        Local::CommandAll
        | Local::CommandGetkeysandflags
        | Local::CommandInfo
        | Local::ConfigResetstat
        | Local::Debug
        | Local::LatencyHistogram
        | Local::PontoonOn => true,
        Local::CommandList | Local::AclCat => call.args.len() > 2,
        _ => false,
    }
}

/// Writes the reply to `command` into `out`, as far as it is known without servers.
pub(super) fn answer(
    worker: &Worker,
    session: &Session,
    routes: &ProductRoutes,
    command: Local,
    call: &CallContext<'_>,
    out: &mut Vec<u8>,
) -> Answer {
    let version = session.client.borrow().version;
    let servers = || server_commands(worker, &session.product);
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
        Local::Auth | Local::Hello => {
            let logged_in = match command {
                Local::Auth => login::auth(session, routes, call, out),
                _ => login::hello(session, routes, call, || version::software(worker, &session.product, routes), out),
            };
            if let Err(refusal) = logged_in {
                refusal.write(out);
                after.failed_login = matches!(refusal, Refusal::WrongPassword);
            }
        }
        Local::Select => select(session, routes, call.get(1), out),
        Local::Reset => {
            // RESET ends `CLIENT REPLY OFF`, so its own reply is sent.
            after.mode_changed = session.client.borrow().replies == ReplyMode::Off;
            let fieldsets = session.client.replace(ClientState::of(&routes.auth)).fieldsets;
            session.charge_split(worker, fieldsets.memory(), 0);
            after.logged_out = routes.auth.is_required();
            session.forget_backend_set();
            session.end_watch();
            session.is_monitor.set(false);
            write::simple(out, "RESET");
        }
        Local::Time => time(out),
        Local::Info => {
            let text = info::info(worker, session, routes, info::Sections::of(call), None);
            write::verbatim(out, &text, version);
        }
        Local::Role => role(out),
        Local::ConfigGet => config::get(worker, session, routes, call, &Settings::new(), out),
        Local::ConfigSet => match config::changes(worker, session, routes, call, &Settings::new()) {
            Ok(_) => write::simple(out, "OK"),
            Err(text) => write::error(out, &text),
        },
        Local::ConfigResetstat => {
            worker.shared.usage.reset(routes.id);
            write::simple(out, "OK");
        }
        Local::AclWhoami => acl::whoami(routes, out),
        Local::AclUsers => acl::users(routes, out),
        Local::AclList => acl::list(routes, out),
        Local::AclGenpass => acl::genpass(call, out),
        Local::AclLog => acl::log(call, out),
        Local::AclDryrun => acl::dryrun(routes, servers().as_deref(), call, out),
        Local::AclGetuser => acl::getuser(session, routes, call, out),
        // Nothing is measured, as by a Redis with its default settings.
        Local::LatencyLatest | Local::LatencyHistory => write::array(out, 0),
        Local::LatencyGraph => latency_graph(call, out),
        Local::LatencyReset => write::int(out, 0),
        Local::LatencyDoctor => write::verbatim(out, LATENCY_DOCTOR, version),
        Local::MemoryStats => memory::stats(worker, version, out),
        Local::MemoryDoctor => memory::doctor(worker, version, out),
        // Freed buffers are returned at once.
        Local::MemoryPurge => write::simple(out, "OK"),
        Local::MemoryMallocStats => write::verbatim(out, "Stats not supported for the current allocator", version),
        Local::ModuleList => module::list(&version::software(worker, &session.product, routes), version, out),
        Local::AclCat if call.args.len() == 2 => acl::categories(out),
        Local::CommandList if call.args.len() == 2 => command::list(servers().as_deref(), out),
        // The servers answer these: see `asks_servers`.
        Local::AclCat
        | Local::CommandAll
        | Local::CommandInfo
        | Local::CommandList
        | Local::CommandGetkeysandflags
        | Local::Debug
        | Local::LatencyHistogram
        | Local::PontoonOn => write::error(out, NOT_ASKED),
        Local::CommandCount => write::int(out, Offered(servers().as_deref()).count() as i64),
        Local::CommandGetkeys => command::getkeys(servers().as_deref(), call, out),
        Local::ClientId => write::int(out, session.id as i64),
        Local::ClientInfo => {
            let view = session.describe(worker).with_own_request(call.bytes.len());
            write::verbatim(out, &format!("{view}\n"), version);
        }
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
            Some(on) => {
                let mut client = session.client.borrow_mut();
                match command {
                    Local::ClientNoEvict => client.no_evict = on,
                    _ => client.no_touch = on,
                }
                write::simple(out, "OK");
            }
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
        Local::Slotsmapping => codis::mapping(routes, call, out),
        Local::Slotshashkey => codis::hash_key(routes, call, out),
        Local::ConfigHelp
        | Local::CommandHelp
        | Local::AclHelp
        | Local::LatencyHelp
        | Local::ModuleHelp
        | Local::PontoonHelp
        | Local::ClientHelp
        | Local::SlowlogHelp => help::help(command, out),
    }
    after
}

/// The reply to LATENCY DOCTOR of a Redis that measures nothing, with what to do here.
const LATENCY_DOCTOR: &str = "I'm sorry, Dave, I can't do that. Latency monitoring is disabled in this Redis instance. The \
    metrics of the node, and LATENCY DOCTOR at a server, say what is slow.\n";

/// Writes the reply to LATENCY GRAPH of a Redis that measures nothing.
fn latency_graph(call: &CallContext<'_>, out: &mut Vec<u8>) {
    let event = String::from_utf8_lossy(&call.get(2)[..call.get(2).len().min(QUOTED_MAX)]);
    write::error(out, &format!("ERR No samples available for event '{event}'"));
}

/// The error for a command that servers answer.
const NOT_ASKED: &str = "ERR its servers were not asked, not executed";

/// Whether a product whose servers have these commands offers the one with this name, in lower case.
pub(super) fn offers(servers: Option<&ServerCommands>, name: &str) -> bool {
    Offered(servers).has_name(name)
}

/// A node is a primary without replicas, and has no replication offset: those of the servers are not for clients.
fn role(out: &mut Vec<u8>) {
    write::array(out, 3);
    write::bulk(out, b"master");
    write::int(out, 0);
    write::array(out, 0);
}

fn select(session: &Session, routes: &ProductRoutes, db: &[u8], out: &mut Vec<u8>) {
    match number::parse(db).map(i32::try_from) {
        None => write::error(out, "ERR value is not an integer or out of range"),
        Some(Err(_)) => {
            let text = "ERR value is out of range, value must between -2147483648 and 2147483647";
            write::error(out, text);
        }
        Some(Ok(db)) if u32::try_from(db).is_ok_and(|db| db < routes.databases) => {
            let db = db.unsigned_abs();
            session.client.borrow_mut().db = db;
            session.forget_backend_set();
            write::simple(out, "OK");
        }
        Some(Ok(_)) => write::error(out, "ERR DB index is out of range"),
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
    let what = String::from_utf8_lossy(&call.get(2)[..call.get(2).len().min(QUOTED_MAX)]);
    let mut client = session.client.borrow_mut();
    let attribute = match () {
        () if what.eq_ignore_ascii_case("lib-name") => &mut client.library,
        () if what.eq_ignore_ascii_case("lib-ver") => &mut client.library_version,
        () => return write::error(out, &format!("ERR Unrecognized option '{what}'")),
    };
    match name(call.get(3)) {
        Ok(value) => *attribute = value,
        Err(_) => {
            let text = format!("ERR {what} cannot contain spaces, newlines or special characters.");
            return write::error(out, &text);
        }
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
