//! COMMAND and its subcommands, from the command table.
//! Knows nothing of sessions.

use std::sync::LazyLock;

use crate::{
    commands::{self, Args, Flags, KeySpec, ResolveError, Spec},
    proxy::dispatch::CallContext,
    resp::write::{self, Version},
};

/// The replies to COMMAND in RESP2 and RESP3: long, always the same, and asked for by every client library.
static ALL: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    [Version::Resp2, Version::Resp3].map(|version| {
        let mut out = Vec::new();
        write::array(&mut out, commands::all().count());
        commands::all().for_each(|spec| describe(spec, &mut out, version));
        out
    })
});

pub(super) fn all(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(&ALL[usize::from(version == Version::Resp3)]);
}

pub(super) fn info(call: &CallContext<'_>, out: &mut Vec<u8>, version: Version) {
    if call.args.len() == 2 {
        return all(out, version);
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
        match spec {
            Some(spec) => describe(spec, out, version),
            None => write::null(out, version),
        }
    }
}

/// The ten fields of Redis 7; tips, key specifications and subcommands are left empty.
pub(super) fn describe(spec: &Spec, out: &mut Vec<u8>, version: Version) {
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

pub(super) fn list(out: &mut Vec<u8>) {
    write::array(out, commands::all().count());
    for spec in commands::all() {
        write::bulk(out, spec.name.as_bytes());
    }
}

pub(super) fn getkeys(call: &CallContext<'_>, out: &mut Vec<u8>) {
    let inner = CallContext { bytes: call.bytes, args: &call.args[2..] };
    let spec = match commands::resolve(&inner) {
        Ok(spec) => spec,
        Err(ResolveError::WrongArity(spec)) if has_keys(spec) => {
            return write::error(out, "ERR Invalid number of arguments specified for command");
        }
        Err(ResolveError::WrongArity(spec)) => spec,
        Err(_) => return write::error(out, "ERR Invalid command specified"),
    };
    if !has_keys(spec) {
        return write::error(out, "ERR The command has no key arguments");
    }
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

/// Whether calls of the command may have keys. A shard channel has a slot like a key, but is no key here.
fn has_keys(spec: &Spec) -> bool {
    spec.keys != KeySpec::None && !spec.flags.contains(Flags::PUBSUB)
}
