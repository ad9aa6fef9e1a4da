//! The commands that the data user of a server may run (`model::data_user`): what the proxy sends for clients, and what
//! their scripts need besides. Knows nothing of how a user is made.

use std::collections::BTreeSet;

use super::{
    lookup::all,
    spec::{Flags, Spec},
};

/// Commands that the proxy does not send, or answers itself, and that scripts call: they reach nothing outside of the
/// server, and clients of other products are at other servers.
const IN_SCRIPTS: [&str; 5] = ["echo", "ping", "publish", "spublish", "time"];

/// What the proxy sends by itself, on the connections of clients' requests, in front of an EVALSHA: the server gets nothing that
/// an EVAL would not give it.
const LOAD: &str = "script|load";

/// The names of the commands and subcommands that the data user may run at a server that has the commands `offered`, as
/// `COMMAND LIST` returns them (or `COMMAND`, before Redis 7, which leaves subcommands out). Sorted.
#[must_use]
pub fn allow_list(offered: &BTreeSet<String>) -> Vec<&'static str> {
    let with_subcommands = offered.iter().any(|name| name.contains('|'));
    let is_offered = |name: &str| match name.split_once('|') {
        Some((container, _)) if !with_subcommands => offered.contains(container),
        _ => offered.contains(name),
    };
    let specs =
        all().flat_map(|spec| if spec.subcommands.is_empty() { std::slice::from_ref(spec) } else { spec.subcommands });
    let mut names: Vec<_> =
        specs.filter(|spec| may_run(spec)).map(|spec| spec.name).filter(|name| is_offered(name)).collect();
    names.sort_unstable();
    names
}

fn may_run(spec: &Spec) -> bool {
    let sent = spec.is_sent() || spec.name == LOAD;
    (sent || IN_SCRIPTS.contains(&spec.name)) && !spec.flags.contains(Flags::ADMIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> BTreeSet<String> {
        all().flat_map(|spec| [spec].into_iter().chain(spec.subcommands)).map(|spec| spec.name.to_owned()).collect()
    }

    #[test]
    fn what_reaches_other_data_or_the_server_is_not_in_it() {
        let list = allow_list(&everything());
        for forbidden in [
            "migrate",
            "flushall",
            "flushdb",
            "swapdb",
            "move",
            "select",
            "keys",
            "randomkey",
            "scan",
            "dbsize",
            "info",
            "config",
            "debug",
            "slowlog",
            "monitor",
            "replicaof",
            "slaveof",
            "psync",
            "sync",
            "shutdown",
            "save",
            "bgsave",
            "acl",
            "auth",
            "cluster",
            "client",
            "script",
            "function",
            "module",
            "failover",
            "latency",
            "restore-asking",
            "pfdebug",
            "role",
        ] {
            let reaches = |name: &&&str| **name == forbidden || name.starts_with(&format!("{forbidden}|"));
            let found: Vec<_> =
                list.iter().filter(reaches).filter(|name| !name.ends_with("|help") && **name != LOAD).collect();
            assert!(found.is_empty(), "{found:?}");
        }
    }

    #[test]
    fn what_the_proxy_sends_is_in_it() {
        let list = allow_list(&everything());
        for spec in all().flat_map(|spec| [spec].into_iter().chain(spec.subcommands)) {
            if spec.is_sent() {
                assert!(list.contains(&spec.name), "{}", spec.name);
            }
        }
        assert!(list.contains(&"publish") && list.contains(&LOAD) && list.is_sorted());
    }

    #[test]
    fn it_names_what_the_server_has() {
        let offered = |names: &[&str]| allow_list(&names.iter().map(|name| (*name).to_owned()).collect());
        // Redis 7 names subcommands.
        assert_eq!(offered(&["get", "keys", "object", "object|encoding"]), ["get", "object|encoding"]);
        // Redis 6 does not.
        assert!(offered(&["get", "object"]).contains(&"object|encoding"));
        assert!(offered(&[]).is_empty());
    }
}
