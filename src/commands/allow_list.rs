//! The commands that the data user of a server may run (`model::data_user`): what the proxy sends for clients, and what
//! their scripts need besides. Knows nothing of how a user is made.

use super::{
    learnt::OfferedCommands,
    lookup::all,
    spec::{Flags, Spec},
};

/// Commands that the proxy does not send, or answers itself, and that scripts call: they reach nothing outside of the
/// server, and clients of other products are at other servers.
const IN_SCRIPTS: [&str; 5] = ["echo", "ping", "publish", "spublish", "time"];

/// What the proxy sends by itself, on the connections of clients' requests, in front of an EVALSHA: the server gets nothing that
/// an EVAL would not give it.
const LOAD: &str = "script|load";

/// The names of the commands and subcommands that the data user may run at a server that has the commands `offered`: those
/// of the table, and those that were learnt from the server. Sorted.
#[must_use]
pub fn allow_list(offered: &OfferedCommands) -> Vec<&str> {
    let specs =
        all().flat_map(|spec| if spec.subcommands.is_empty() { std::slice::from_ref(spec) } else { spec.subcommands });
    let known = specs.filter(|spec| may_run(spec)).map(|spec| spec.name).filter(|name| offered.has(name));
    let learnt = offered.learnt().filter(|command| !command.is_container() && command.refusal().is_none());
    let mut names: Vec<_> = known.chain(learnt.map(|command| command.name())).collect();
    names.sort_unstable();
    names
}

fn may_run(spec: &Spec) -> bool {
    let sent = spec.handling.is_sent() || spec.name == LOAD;
    (sent || IN_SCRIPTS.contains(&spec.name)) && !spec.flags.contains(Flags::ADMIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{KeyCount, KeySearch, ReportedCommand, ReportedKeys};

    fn everything() -> OfferedCommands {
        OfferedCommands::new(
            all().flat_map(|spec| [spec].into_iter().chain(spec.subcommands)).map(|spec| spec.name.to_owned()),
        )
    }

    #[test]
    fn what_reaches_other_data_or_the_server_is_not_in_it() {
        let everything = everything();
        let list = allow_list(&everything);
        for forbidden in [
            "migrate",
            "flushall",
            "flushdb",
            "swapdb",
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
        let everything = everything();
        let list = allow_list(&everything);
        for spec in all().flat_map(|spec| [spec].into_iter().chain(spec.subcommands)) {
            if spec.handling.is_sent() {
                assert!(list.contains(&spec.name), "{}", spec.name);
            }
        }
        assert!(list.contains(&"publish") && list.contains(&LOAD) && list.is_sorted());
    }

    #[test]
    fn it_names_what_the_server_has() {
        let offered = |names: &[&str]| OfferedCommands::new(names.iter().map(|name| (*name).to_owned()));
        // Redis 7 names subcommands.
        let redis_7 = offered(&["get", "keys", "object", "object|encoding"]);
        assert_eq!(allow_list(&redis_7), ["get", "object|encoding"]);
        // Redis 6 does not.
        assert!(allow_list(&offered(&["get", "object"])).contains(&"object|encoding"));
        assert!(allow_list(&offered(&[])).is_empty());
    }

    #[test]
    fn what_is_learnt_is_in_it_if_it_is_routed() {
        let key = ReportedKeys {
            begin: KeySearch::Index(1),
            find: KeyCount::Range { last: 0, step: 1, limit: 0 },
            incomplete: false,
        };
        let command = |name: &str, flag: &str, keys: &[ReportedKeys]| ReportedCommand {
            name: name.into(),
            arity: -2,
            flags: vec![flag.into()],
            keys: Some(keys.to_vec()),
            ..ReportedCommand::default()
        };
        let mut offered = OfferedCommands::new(["get".to_owned(), "graph.QUERY".into()]);
        offered.learn([
            command("graph.QUERY", "write", std::slice::from_ref(&key)),
            command("graph.list", "readonly", &[]),
            command("graph.admin", "admin", std::slice::from_ref(&key)),
            command("graph.partial", "write", &[ReportedKeys { incomplete: true, ..key.clone() }]),
        ]);
        assert_eq!(allow_list(&offered), ["get", "graph.query"]);
    }
}
