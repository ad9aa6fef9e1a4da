//! Tests of the command line: what clap accepts.
#![allow(clippy::unwrap_used)]

use super::*;

mod dry_run;
mod fake;
mod group;
mod json;
mod json_doc;
mod migrate;
mod nodes;
mod retries;
mod schema;

#[test]
fn the_definition_is_valid() {
    Cli::command().debug_assert();
}

#[test]
fn documented_commands_are_accepted() {
    let check = |line: &str, good: bool| {
        let parsed = Cli::try_parse_from(line.split_whitespace());
        assert_eq!(parsed.is_ok(), good, "{line}: {:?}", parsed.err().map(|e| e.to_string()));
    };
    check("pontoon status --output json", true);
    check("pontoon status --check", true);
    check(
        "pontoon serve --id 1 --admin 127.0.0.1:1 --peers 1=127.0.0.1:1 --bind 127.0.0.1 --port-offset 1 --data-dir d --secret-file s --workers 2",
        true,
    );
    check("pontoon serve --id 4 --join 127.0.0.1:1 --peers 1=127.0.0.1:1", false);
    check("pontoon recover --data-dir d --from-survivor --the-others-are-gone", true);
    check("pontoon recover --data-dir d --from-survivor", false);
    check("pontoon playground --nodes 3 --groups 2 --replicas 1 --port 19000 --dir d --redis-server p", true);
    check("pontoon playground --nodes 0", false);
    check("pontoon node remove 3 --assume-dead --dry-run", true);
    check("pontoon node set-role 3 voter", true);
    check("pontoon node set-role 3 king", false);
    check("pontoon product create shop --port 19010 --layout redis --password-file f --wait", true);
    check("pontoon product create shop --port 70000", false);
    check("pontoon product create shop --port 1 --username u", false);
    check("pontoon product set shop port=1", true);
    check("pontoon product set shop --password-file -", true);
    check("pontoon product set shop", false);
    check("pontoon --product shop group create 1 --primary a:1 --replica b:1 --replica c:1 --timeout 5m", true);
    check("pontoon group create 0 --primary a:1", false);
    check("pontoon slot assign 0-511 1 --node 127.0.0.1:1", true);
    check("pontoon slot key {user}x --timeout 2h", false);
    check("pontoon cluster set voters=5 hold-max=250ms", true);
    check("pontoon cluster set", false);
    check("pontoon cluster show --output json", true);
    check("pontoon slot assign 0-511 1 --abandon-data", true);
    check("pontoon slot release 0-511 --abandon-data", true);
    check("pontoon product remove shop --abandon-data", true);
    check("pontoon product set shop auto-rebalance=on", true);
    check("pontoon migrate start 0-255 --to 2 --verify full --wipe --wait", true);
    check("pontoon migrate start 0-255 --to 2 --hold-max 100ms --keys-per-second 1000", true);
    check("pontoon migrate start 0-255", false);
    check("pontoon migrate start 0-255 --to 2 --verify some", false);
    check("pontoon migrate ls --output json --all", true);
    check("pontoon migrate show 17", true);
    check("pontoon migrate watch", true);
    check("pontoon migrate watch 17", true);
    check("pontoon migrate cancel 17 --wait", true);
    check("pontoon migrate pause", false);
    check("pontoon migrate resume 17", true);
    check("pontoon migrate set 17 keys-per-second=1000 bytes-per-second=0 hold-max=250ms", true);
    check("pontoon migrate set 17", false);
    check("pontoon events --follow", true);
    check("pontoon events --since 30m -n 5 --product shop --group 3 -o json", true);
    check("pontoon events --since yesterday", false);
    check("pontoon product show shop", true);
    check("pontoon node show 3", true);
    check("pontoon server ls", true);
    check("pontoon slot ls --all", true);
    check("pontoon version --node a:1,b:2", true);
    check("pontoon completions bash", true);
    check("pontoon completions cmd.exe", false);
    check("pontoon man /tmp/man1", true);
    check("pontoon rebalance", true);
    check("pontoon rebalance --by memory --weights g1=1,g2=2 --apply", true);
    check("pontoon rebalance --by size", false);
    check("pontoon group drain 3", true);
    check("pontoon group drain 0", false);
    check("pontoon group ls --output json", true);
    check("pontoon group show 3", true);
    check("pontoon group show", false);
    check("pontoon group promote 3 127.0.0.1:7002 --wait", true);
    check("pontoon group promote 3 127.0.0.1:7002 --force --dry-run", true);
    check("pontoon group promote 3", false);
    check("pontoon group set 3 down-after=5s maintenance=on", true);
    check("pontoon group set 3", false);
    check("pontoon server set 127.0.0.1:7002 priority=200 zone=rack-7", true);
    check("pontoon server set 127.0.0.1:7002", false);
    check("pontoon maintenance on", true);
    check("pontoon maintenance off 3", true);
    check("pontoon maintenance status", true);
    check("pontoon maintenance", false);
    check("pontoon maintenance perhaps", false);
    check("pontoon cluster set failover-share-max=50", true);
}
