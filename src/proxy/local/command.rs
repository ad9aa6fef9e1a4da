//! COMMAND and its subcommands, from the command table, what the servers have, and what one of them answers. Knows nothing of
//! how servers are asked.

use std::sync::LazyLock;

use crate::{
    commands::{
        self, AllGroups, Args, Flags, Handling, KeySpec, LearntCommand, Local, ResolveError, ServerCommands, Spec,
    },
    proxy::dispatch::CallContext,
    resp::{
        number::{Header, header},
        reply::ReplyScanner,
        write::{self, Version},
    },
};

/// The replies to COMMAND in RESP2 and RESP3 while nothing is known of the servers: long, always the same, and asked for by
/// every client library.
static ALL: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    [Version::Resp2, Version::Resp3].map(|version| {
        let mut out = Vec::new();
        write_all(None, &mut out, version);
        out
    })
});

/// What a product offers: commands of the table that its servers have, and those that were learnt from them.
#[derive(Clone, Copy)]
pub(super) struct Offered<'a>(pub(super) Option<&'a ServerCommands>);

impl<'a> Offered<'a> {
    /// Whether a command of the table is offered. `None`, nothing is known of the servers: all are.
    pub(super) fn has(self, spec: &Spec) -> bool {
        self.0.is_none_or(|servers| is_own(spec) || servers.has(spec.name))
    }

    fn specs(self) -> impl Iterator<Item = &'static Spec> + 'a {
        commands::all().filter(move |spec| self.has(spec))
    }

    fn learnt(self) -> impl Iterator<Item = &'a LearntCommand> {
        // Subcommands belong to their containers.
        self.learnt_with_subcommands().filter(|command| !command.name().contains('|'))
    }

    fn learnt_with_subcommands(self) -> impl Iterator<Item = &'a LearntCommand> {
        self.0.into_iter().flat_map(ServerCommands::served)
    }

    pub(super) fn count(self) -> usize {
        self.specs().count() + self.learnt().count()
    }

    /// Whether the product offers a command or subcommand with this name, in lower case.
    pub(super) fn has_name(self, name: &str) -> bool {
        match find(name) {
            Some(spec) => self.has(spec),
            None => self.0.into_iter().flat_map(ServerCommands::served).any(|command| command.name() == name),
        }
    }
}

/// Whether the proxy offers a command that servers need not have.
fn is_own(spec: &Spec) -> bool {
    let container = spec.name.split('|').next().unwrap_or_default();
    container == "pontoon"
        || matches!(
            spec.handling,
            Handling::Local(Local::Slotsmapping | Local::Slotshashkey)
                | Handling::AllGroups(AllGroups::Slotsinfo | AllGroups::Slotsscan)
        )
}

/// The reply to COMMAND while no server answers.
pub(in crate::proxy) fn all(servers: Option<&ServerCommands>, out: &mut Vec<u8>, version: Version) {
    match servers {
        None => out.extend_from_slice(&ALL[usize::from(version == Version::Resp3)]),
        Some(_) => write_all(servers, out, version),
    }
}

fn write_all(servers: Option<&ServerCommands>, out: &mut Vec<u8>, version: Version) {
    let offered = Offered(servers);
    write::array(out, offered.count());
    offered.specs().for_each(|spec| describe(spec, out, version));
    offered.learnt().for_each(|command| describe_learnt(command, out, version));
}

/// The reply to COMMAND INFO while no server answers.
pub(in crate::proxy) fn info(
    servers: Option<&ServerCommands>,
    call: &CallContext<'_>,
    out: &mut Vec<u8>,
    version: Version,
) {
    if call.args.len() == 2 {
        return all(servers, out, version);
    }
    write::array(out, call.args.len() - 2);
    for i in 2..call.args.len() {
        let name = String::from_utf8_lossy(call.get(i)).to_ascii_lowercase();
        let learnt = || servers?.served().find(|command| command.name() == name);
        match find(&name) {
            Some(spec) if Offered(servers).has(spec) => describe(spec, out, version),
            Some(_) => write::null(out, version),
            None => match learnt() {
                Some(command) => describe_learnt(command, out, version),
                None => write::null(out, version),
            },
        }
    }
}

/// Writes the reply to COMMAND or COMMAND INFO from that of a server to the same request, in the version of the client: what the
/// server says of the commands that the product offers, with the node's own ones. Returns false, and writes nothing, if the
/// server's reply is none.
pub(in crate::proxy) fn info_by_server(
    servers: Option<&ServerCommands>,
    call: &CallContext<'_>,
    reply: &[u8],
    out: &mut Vec<u8>,
    version: Version,
) -> bool {
    let Some(elements) = elements(reply) else { return false };
    let offered = Offered(servers);
    if call.args.len() == 2 || call.args.len() == 1 {
        let is_shown = |element: &&[u8]| name_of(element).is_some_and(|name| offered.has_name(&name));
        let of_servers: Vec<_> = elements.into_iter().filter(is_shown).collect();
        let own: Vec<_> = offered.specs().filter(|spec| is_own(spec)).collect();
        write::array(out, of_servers.len() + own.len());
        of_servers.iter().for_each(|element| out.extend_from_slice(element));
        own.iter().for_each(|spec| describe(spec, out, version));
        return true;
    }
    if elements.len() != call.args.len() - 2 {
        return false;
    }
    write::array(out, elements.len());
    for (i, element) in elements.iter().enumerate() {
        let name = String::from_utf8_lossy(call.get(2 + i)).to_ascii_lowercase();
        match find(&name) {
            Some(spec) if is_own(spec) => describe(spec, out, version),
            // A server before Redis 7 does not describe subcommands.
            Some(spec) if offered.has(spec) && is_null(element) => describe(spec, out, version),
            _ if offered.has_name(&name) => out.extend_from_slice(element),
            _ => write::null(out, version),
        }
    }
    true
}

fn is_null(element: &[u8]) -> bool {
    [&b"*-1\r\n"[..], b"$-1\r\n", b"_\r\n"].contains(&element)
}

/// The elements of a reply that is an array. `None`: it is another one, or incomplete.
fn elements(reply: &[u8]) -> Option<Vec<&[u8]>> {
    let (Some(b'*'), Header::Number(len, mut at)) = (reply.first(), header(reply, 1)) else { return None };
    // Every element has at least three bytes, so that a false length reserves no memory.
    let mut all = Vec::with_capacity(usize::try_from(len).ok()?.min(reply.len() / 3));
    for _ in 0..len {
        let rest = reply.get(at..)?;
        let len = ReplyScanner::default().scan(rest).ok()??;
        all.push(&rest[..len]);
        at += len;
    }
    Some(all)
}

/// The name in the description of a command, in lower case.
fn name_of(element: &[u8]) -> Option<String> {
    let Header::Number(_, at) = header(element, 1) else { return None };
    let (Some(b'$'), Header::Number(len, from)) = (element.get(at), header(element, at + 1)) else { return None };
    let end = from.checked_add(usize::try_from(len).ok()?)?;
    Some(String::from_utf8_lossy(element.get(from..end)?).to_ascii_lowercase())
}

/// The command or subcommand of the table with this name.
fn find(name: &str) -> Option<&'static Spec> {
    let mut words = name.splitn(2, '|').map(str::as_bytes);
    let spec = words.next().and_then(commands::lookup);
    match words.next() {
        Some(sub) => spec.and_then(|spec| spec.subcommand(sub)),
        None => spec,
    }
}

/// The ten fields of Redis 7, of a command that no server describes; tips, key specifications and subcommands are left empty.
pub(super) fn describe(spec: &Spec, out: &mut Vec<u8>, version: Version) {
    let (first, last, step) = spec.key_range();
    let range = [i64::from(first), i64::from(last), i64::from(step)];
    write_fields(spec.name, i64::from(spec.arity), spec.flags, range, out, version);
}

fn describe_learnt(command: &LearntCommand, out: &mut Vec<u8>, version: Version) {
    let (first, last, step) = command.key_range();
    write_fields(command.name(), command.arity(), command.flags(), [first, last, step], out, version);
}

fn write_fields(name: &str, arity: i64, flags: Flags, range: [i64; 3], out: &mut Vec<u8>, version: Version) {
    write::array(out, 10);
    write::bulk(out, name.as_bytes());
    write::int(out, arity);
    let flags: Vec<_> = flags.names().collect();
    write::set(out, flags.len(), version);
    for flag in flags {
        write::simple(out, &flag);
    }
    for number in range {
        write::int(out, number);
    }
    write::set(out, 0, version);
    for _ in 0..3 {
        write::array(out, 0);
    }
}

pub(super) fn list(servers: Option<&ServerCommands>, out: &mut Vec<u8>) {
    let offered = Offered(servers);
    // As in Redis, with the subcommands, which COMMAND COUNT does not count.
    let subcommands = |spec: &'static Spec| spec.subcommands.iter().filter(|sub| offered.has(sub));
    let specs = offered.specs().flat_map(|spec| std::iter::once(spec).chain(subcommands(spec))).map(|spec| spec.name);
    let names: Vec<_> = specs.chain(offered.learnt_with_subcommands().map(LearntCommand::name)).collect();
    write::array(out, names.len());
    names.iter().for_each(|name| write::bulk(out, name.as_bytes()));
}

pub(super) fn getkeys(servers: Option<&ServerCommands>, call: &CallContext<'_>, out: &mut Vec<u8>) {
    let inner = CallContext { bytes: call.bytes, args: &call.args[2..] };
    let mut keys = Vec::new();
    match commands::resolve(&inner) {
        Err(ResolveError::WrongArity(spec)) if has_keys(spec) => {
            return write::error(out, "ERR Invalid number of arguments specified for command");
        }
        Ok(spec) | Err(ResolveError::WrongArity(spec)) if !has_keys(spec) => {
            return write::error(out, "ERR The command has no key arguments");
        }
        Ok(spec) | Err(ResolveError::WrongArity(spec)) => {
            let is_valid = spec.keys(&inner, &mut keys).is_ok();
            if !is_valid || keys.is_empty() {
                return match spec.flags.contains(Flags::NO_MANDATORY_KEYS) {
                    true => write::array(out, 0),
                    false => write::error(out, "ERR Invalid arguments specified for command"),
                };
            }
        }
        Err(_) => match servers.and_then(|servers| servers.resolve(&inner, &mut keys)) {
            Some(Ok(_)) => {}
            Some(Err(_)) => return write::error(out, "ERR Invalid arguments specified for command"),
            None => return write::error(out, "ERR Invalid command specified"),
        },
    }
    if keys.is_empty() {
        return write::error(out, "ERR The command has no key arguments");
    }
    write::array(out, keys.len());
    for key in keys {
        write::bulk(out, inner.get(key));
    }
}

/// Whether calls of the command may have keys. A shard channel has a slot like a key, but is no key here.
fn has_keys(spec: &Spec) -> bool {
    spec.keys != KeySpec::None && !spec.flags.contains(Flags::PUBSUB)
}

/// What a call of COMMAND LIST or ACL CAT is, as it is sent to a server. The error is that of Redis.
pub(in crate::proxy) fn for_server(call: &CallContext<'_>) -> Result<Vec<Vec<u8>>, String> {
    let word = |i: usize| call.get(i).to_ascii_uppercase();
    let len = call.args.len();
    match word(0).as_slice() {
        b"ACL" if len == 3 => Ok(vec![word(0), word(1), call.get(2).to_vec()]),
        b"ACL" => {
            let quoted = String::from_utf8_lossy(call.get(1));
            Err(format!("ERR unknown subcommand or wrong number of arguments for '{quoted}'. Try ACL HELP."))
        }
        _ if word(1) == b"LIST" => {
            let is_filter =
                len == 5 && word(2) == b"FILTERBY" && [&b"MODULE"[..], b"ACLCAT", b"PATTERN"].contains(&&*word(3));
            match is_filter {
                true => Ok(vec![word(0), word(1), word(2), word(3), call.get(4).to_vec()]),
                false => Err("ERR syntax error".into()),
            }
        }
        _ => Ok((0..len).map(|i| call.get(i).to_vec()).collect()),
    }
}
