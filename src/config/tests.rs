//! Tests of the configuration: files, variables and flags.
#![allow(clippy::unwrap_used)]

use std::{net::IpAddr, time::Duration};

use super::*;

fn flags(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// A node that can start.
fn good() -> Config {
    let (config, _) = Config::load(
        None,
        [],
        &flags(&[("id", "1"), ("admin", "127.0.0.1:19101"), ("peers", "1=127.0.0.1:19101"), ("data_dir", "/tmp/x")]),
    )
    .unwrap();
    config.check().unwrap();
    config
}

#[test]
fn file_then_environment_then_flags() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.toml");
    std::fs::write(&path, "id = 1\nbind = \"127.0.0.9\"\n[proxy]\nworkers = 3\nclients_max = 7\npipeline_max = 9\n")
        .unwrap();
    let env = flags(&[
        ("PONTOON_PROXY_CLIENTS_MAX", "8"),
        ("PONTOON_PROXY_PIPELINE_MAX", "10"),
        ("PONTOON_TYPO", "1"),
        ("HOME", "/"),
    ]);
    let (config, notes) = Config::load(Some(&path), env, &flags(&[("proxy.pipeline_max", "11")])).unwrap();
    assert_eq!((config.proxy.workers, config.proxy.clients_max, config.proxy.pipeline_max), (3, 8, 11));
    assert_eq!(config.node.bind, IpAddr::from([127, 0, 0, 9]));
    assert_eq!(config.proxy.request_deadline, Duration::from_secs(5));
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("PONTOON_TYPO"));
}

#[test]
fn an_error_in_a_file_has_its_line_and_key() {
    let check = |text: &str, line: usize, part: &str| {
        let (at, what) = file::parse(text, &mut Config::default()).unwrap_err();
        assert!(at == line && what.contains(part), "{text:?}: line {at}: {what}");
    };
    check("id = 1\nidd = 2\n", 2, "idd: there is no such setting");
    check("[proxy]\n\nworker = 2\n", 3, "proxy.worker: there is no such setting; the settings are workers");
    check("[proxi]\nworkers = 2\n", 1, "proxi: there is no such setting");
    check("id = \"1\"\n", 1, "id: a decimal whole number is expected, not a TOML string");
    check("id = 1\ninsecure = 1\n", 2, "true or false");
    check("id = 0\n", 1, "begin at 1");
    check("port_offset = 70000\n", 1, "0 to 65535");
    check("\n\nbind = \"nowhere\"\n", 3, "bind: an IP address");
    check("peers = [1]\n", 1, "peers: a table");
    check("id = 1\nadmin_hosts = [\"a\", 1]\n", 2, "admin_hosts: an array of strings is expected");
    check("admin_hosts = 1\n", 1, "admin_hosts: an array of strings, or a string");
    check("[peers]\n1 = \"a:1\"\n2 = \"a:1\"\n", 1, "listed twice");
    check("id = 1\nid = 2\n", 2, "duplicate");
    check("id = \n", 1, "");
    check("[log]\nformat = \"xml\"\n", 2, "log.format: text or json");
}

#[test]
fn peers_as_table_and_as_string_are_one() {
    let (mut a, mut b) = (Config::default(), Config::default());
    file::parse("peers = { 1 = \"a:1\", 2 = \"b:2\" }\n", &mut a).unwrap();
    file::parse("peers = \"2=b:2,1=a:1\"\n", &mut b).unwrap();
    assert_eq!(a, b);
    assert_eq!(a.node.peers.len(), 2);
}

#[test]
fn admin_hosts_as_array_and_as_string_are_one() {
    let (mut a, mut b) = (good(), good());
    file::parse("admin_hosts = [\"db1.example.org\", \"proxy1\"]\n", &mut a).unwrap();
    let (from_env, _) = Config::load(None, flags(&[("PONTOON_ADMIN_HOSTS", "db1.example.org, proxy1")]), &[]).unwrap();
    b.node.admin_hosts = from_env.node.admin_hosts;
    assert_eq!(a, b);
    a.check().unwrap();
    assert_eq!(a.node.host_names(), ["127.0.0.1", "db1.example.org", "proxy1"]);
    a.set("admin_listen", "db1-internal:19101").unwrap();
    a.set("advertise", "clients.example.org").unwrap();
    let names = ["127.0.0.1", "db1-internal", "clients.example.org", "db1.example.org", "proxy1"];
    assert_eq!(a.node.host_names(), names);
}

#[test]
fn what_is_printed_is_read_back() {
    let mut config = good();
    config.proxy.clients_max = 77;
    config.log.level = "info,pontoon::cli=debug".into();
    let mut again = Config::default();
    file::parse(&config.print(), &mut again).unwrap();
    assert_eq!(again, config);
    // Also with every '# key = example' line made real: the examples are of the right kind.
    let uncommented: String = Config::default()
        .print()
        .lines()
        .map(|l| match l.strip_prefix("# ") {
            Some(rest) if Config::keys().any(|(_, k)| rest.starts_with(&format!("{} = ", k.name))) => {
                format!("{rest}\n")
            }
            _ => format!("{l}\n"),
        })
        .collect();
    let mut all = Config::default();
    file::parse(&uncommented, &mut all).unwrap();
    assert!(all.node.join.is_some() && all.node.secret_file.is_some() && all.node.peers.len() == 3);
}

#[test]
fn the_example_file_has_every_key() {
    let text = include_str!("../../examples/pontoon.toml");
    let mut config = Config::default();
    file::parse(text, &mut config).unwrap();
    config.check().unwrap();
    for (section, key) in Config::keys() {
        let shown = text.lines().any(|l| {
            let l = l.strip_prefix("# ").unwrap_or(l);
            l.starts_with(&format!("{} = ", key.name))
        });
        assert!(shown, "examples/pontoon.toml lacks {}", dotted(section, key.name));
        assert!(
            text.contains(key.help.trim()),
            "examples/pontoon.toml explains {} differently from --print-config",
            key.name
        );
    }
    // Apart from the identity of the node, it has the defaults.
    let plain = Config { node: config.node.clone(), ..Config::default() };
    assert_eq!(config, plain);
    assert!(
        text.ends_with(&config.print()),
        "write it again: pontoon serve --config examples/pontoon.toml --print-config"
    );
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let check = |change: &dyn Fn(&mut Config), part: &str| {
        let mut config = good();
        change(&mut config);
        let what = config.check().unwrap_err();
        assert!(what.contains(part), "{part}: {what}");
    };
    check(&|c| c.node.id = None, "id is not set; give --id 1");
    check(&|c| c.node.admin = None, "PONTOON_ADMIN");
    check(&|c| c.node.data_dir = None, "--data-dir");
    check(&|c| c.set("join", "127.0.0.1:1").unwrap(), "both set");
    check(&|c| c.set("peers", "2=127.0.0.1:19102").unwrap(), "add 1=127.0.0.1:19101");
    check(&|c| c.set("bind", "0.0.0.0").unwrap(), "no cluster secret");
    check(&|c| c.set("bind", "::").unwrap(), "no cluster secret");
    check(&|c| c.set("admin", "db1.example.org:1").unwrap(), "--insecure");
    check(&|c| c.set("admin_listen", "0.0.0.0:19101").unwrap(), "admin_listen: 0.0.0.0 is beyond loopback");
    check(&|c| c.set("advertise", "a:1").unwrap(), "advertise");
    // Regression: a node joined with such an address, and became a voter that nobody reaches.
    for nowhere in ["0.0.0.0", "0", "[::]", "[::ffff:0.0.0.0]"] {
        let port = |c: &mut Config, key: &str, before: &str| c.set(key, &format!("{before}{nowhere}:19101")).unwrap();
        check(&|c| port(c, "admin", ""), "admin: ");
        check(&|c| port(c, "peers", "1=127.0.0.1:19101,2="), "peers: ");
        check(&|c| (c.set("peers", "").unwrap(), port(c, "join", "")).1, "join: ");
        check(&|c| c.set("advertise", nowhere).unwrap(), "advertise: ");
    }
    for bad in ["proxy1,proxy2:80", "*.example.org", "*", "[::1]", "http://proxy1", "a b", &"x".repeat(254)] {
        check(&|c| c.set("admin_hosts", bad).unwrap(), "admin_hosts: '");
    }
    check(&|c| c.proxy.clients_max = 0, "proxy.clients_max");
    check(&|c| c.proxy.workers = 1000, "proxy.workers");
    check(&|c| c.timing.lease = Duration::from_millis(600), "timing.lease_ms");
    check(&|c| c.timing.election_min = Duration::from_millis(50), "timing.election_min_ms");
    check(&|c| c.log.level = "info,=x=y".into(), "log.level");

    let mut open = good();
    open.set("bind", "0.0.0.0").unwrap();
    open.node.insecure = true;
    open.check().unwrap();
    open.node.insecure = false;
    open.node.secret_file = Some("/etc/pontoon/secret".into());
    open.check().unwrap();
    assert_eq!(open.node.advertise_host(), "127.0.0.1");
    open.set("bind", "::ffff:0.0.0.0").unwrap();
    assert_eq!(open.node.advertise_host(), "127.0.0.1");
}

#[test]
fn the_bound_address_may_differ_from_the_announced_one() {
    let mut config = good();
    assert_eq!(config.node.admin_listen().unwrap().as_str(), "127.0.0.1:19101");
    config.set("peers", "").unwrap();
    config.set("join", "db2.example.org:19101").unwrap();
    config.set("admin", "db1.example.org:19101").unwrap();
    config.check().unwrap_err();
    // Others reach the node through a relay on this machine: nothing is bound beyond loopback.
    config.set("admin_listen", "127.0.0.1:19109").unwrap();
    config.set("source", "127.0.0.1").unwrap();
    config.check().unwrap();
    assert_eq!(config.node.admin_listen().unwrap().as_str(), "127.0.0.1:19109");
    assert_eq!(config.node.admin().unwrap().as_str(), "db1.example.org:19101");
}

#[test]
fn a_pristine_node_needs_peers_or_join() {
    let mut config = good();
    config.node.check_pristine().unwrap();
    config.set("admin", "127.0.0.1:19109").unwrap();
    assert!(config.node.check_pristine().unwrap_err().contains("make them equal"));
    config.node.peers.clear();
    config.check().unwrap();
    assert!(config.node.check_pristine().unwrap_err().contains("--join"));
    config.set("join", "127.0.0.1:19101").unwrap();
    config.node.check_pristine().unwrap();
}

#[test]
fn flags_and_variables_say_where_they_are_wrong() {
    let bad = Config::load(None, flags(&[("PONTOON_ID", "x")]), &[]).unwrap_err();
    assert!(bad.starts_with("PONTOON_ID in the environment"), "{bad}");
    let bad = Config::load(None, [], &flags(&[("proxy.nothing", "1")])).unwrap_err();
    assert!(bad.contains("proxy.nothing on the command line"), "{bad}");
}
