//! Groups and their servers as text and as JSON.
//! Knows nothing of where the answers come from.

use std::time::Duration;

use serde_json::{Value, json};

use super::output;
use crate::{
    cli::{duration, setting},
    wire::pb::admin::{Ejection, EjectionShare, Group, Promotion, Server, ServerSeen, ShowGroupReply},
};

/// All groups, a server a line.
pub(super) fn to_table(groups: &[Group]) -> String {
    let mut rows = Vec::new();
    for g in groups {
        for (i, s) in g.servers.iter().enumerate() {
            let first = |text: String| if i == 0 { text } else { String::new() };
            let login = match g.password {
                true if !g.username.is_empty() => format!("user {}", g.username),
                password => output::yes(password),
            };
            let mut row = vec![first(g.id.to_string()), s.address.clone()];
            row.extend(cells(s));
            row.extend([first(g.slots.to_string()), first(login), first(remark(g))]);
            rows.push(row);
        }
    }
    let headings = ["group", "server", "role", "seen as", "state", "link", "lag", "slots", "password", "remark"];
    output::table(&headings, &rows)
}

/// Role wanted, role seen, state, link, lag.
fn cells(s: &Server) -> [String; 5] {
    let role = s.role.clone();
    match &s.seen {
        None => [role, String::new(), "unknown".into(), String::new(), String::new()],
        Some(seen) => [role, seen.role.clone(), seen.state.clone(), seen.link.clone(), lag(seen)],
    }
}

/// What is going on, in a few words.
fn remark(g: &Group) -> String {
    let promotion = g.promotion.as_ref().map(|p| format!("{} {} to {}", p.kind, p.id, p.to));
    let maintenance = g.maintenance.then(|| "maintenance".to_owned());
    let out = g.ejection.as_ref().map(|l| {
        let to: Vec<String> = l.to.iter().map(|s| s.group.to_string()).collect();
        format!("out, ejects {} slots to {}", l.to.iter().map(|s| s.count).sum::<u32>(), to.join(" "))
    });
    promotion.into_iter().chain(out).chain(maintenance).collect::<Vec<_>>().join(", ")
}

/// How far a replica is behind; nothing of a primary.
fn lag(seen: &ServerSeen) -> String {
    if seen.role != "replica" {
        return String::new();
    }
    let bytes = seen.lag_bytes.map(output::size);
    let time = seen.lag_ms.map(time);
    match (bytes, time) {
        (None, None) => "not known".into(),
        (bytes, time) => bytes.into_iter().chain(time).collect::<Vec<_>>().join(", "),
    }
}

/// A span of time as it is probed at: `120 ms`, `3.2 s`, `75 s`, `6 min`.
fn time(ms: u64) -> String {
    match ms {
        0..=999 => format!("{ms} ms"),
        1000..=9999 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        10_000..=119_999 => format!("{} s", ms / 1000),
        _ => format!("{} min", ms / 60_000),
    }
}

/// A group, as `group ls` shows it. All but `seen` is replicated, so that it is equal on every node.
pub(super) fn to_json(g: &Group) -> Value {
    json!({
        "id": g.id,
        "servers": g.servers.iter().map(server).collect::<Vec<_>>(),
        "slots": g.slots,
        "password": g.password,
        "username": (!g.username.is_empty()).then_some(&g.username),
        "epoch": g.epoch,
        "down_after_ms": g.down_after_ms,
        "maintenance": g.maintenance,
        "promotion": g.promotion.as_ref().map(promotion),
        "eject_after_ms": g.eject_after_ms,
        "ejection": g.ejection.as_ref().map(ejection),
    })
}

fn ejection(l: &Ejection) -> Value {
    let share = |s: &EjectionShare| json!({"group": s.group, "slots": s.slots, "count": s.count});
    json!({"id": l.id, "since_ms": l.since_ms, "to": l.to.iter().map(share).collect::<Vec<_>>()})
}

fn server(s: &Server) -> Value {
    json!({
        "address": s.address,
        "role": s.role,
        "run_id": s.run_id,
        "keys_when_added": s.keys_when_added,
        "priority": s.priority,
        "zone": known(&s.zone),
        "diverged": s.diverged,
        "seen": s.seen.as_ref().map(seen),
    })
}

fn known(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn seen(s: &ServerSeen) -> Value {
    // Numbers of a probe that there never was are none.
    let of_probe = |number: u64| s.ago_ms.map(|_| number);
    let failing =
        |f: &crate::wire::pb::admin::FailureSeen| json!({"node": f.node, "for_ms": f.for_ms, "error": f.error});
    json!({
        "state": s.state,
        "role": known(&s.role),
        "follows": known(&s.follows),
        "link": known(&s.link),
        "lag_bytes": s.lag_bytes,
        "lag_ms": s.lag_ms,
        "used_memory": of_probe(s.used_memory),
        "keys": of_probe(s.keys),
        "ops_per_second": of_probe(s.ops_per_second),
        "ping_us": of_probe(s.ping_us),
        "run_id": known(&s.run_id),
        "replid": known(&s.replid),
        "offset": of_probe(s.offset),
        "ago_ms": s.ago_ms,
        "persistent": s.persistent,
        "failing": s.failing.iter().map(failing).collect::<Vec<_>>(),
        "no_candidate": known(&s.no_candidate),
    })
}

fn promotion(p: &Promotion) -> Value {
    json!({
        "id": p.id,
        "product": p.product,
        "group": p.group,
        "from": p.from,
        "to": p.to,
        "kind": p.kind,
        "forced": p.forced,
        "state": p.state,
        "why": p.why,
        "attempts": p.attempts,
        "started_ms": p.started_ms,
        "held_since_ms": (p.held_since_ms > 0).then_some(p.held_since_ms),
        "ended_ms": (p.ended_ms > 0).then_some(p.ended_ms),
        "failed": known(&p.failed),
    })
}

/// One group with everything, as `group show` shows it.
pub(super) fn shown_to_json(reply: &ShowGroupReply) -> Value {
    let mut shown = reply.group.as_ref().map(to_json).unwrap_or_default();
    shown["replid"] = json!(reply.group.as_ref().and_then(|g| known(&g.replid)));
    shown["waiting_on"] = json!(reply.waiting_on);
    shown["warnings"] = json!(reply.warnings);
    shown["ended_promotions"] = reply.ended.iter().map(promotion).collect();
    shown["without_live"] = json!(known(&reply.without_live));
    shown
}

/// One group with everything.
pub(super) fn to_text(reply: &ShowGroupReply, product: &str) -> String {
    let Some(g) = &reply.group else { return String::new() };
    let mut lines = vec![
        ("group", format!("{} of product '{product}'", g.id)),
        ("slots", g.slots.to_string()),
        ("primary since", format!("entry {}", g.epoch)),
        ("down-after", duration::show(Duration::from_millis(g.down_after_ms.into()))),
        ("maintenance", setting::show_switch(g.maintenance).to_owned()),
    ];
    if let Some(ms) = g.eject_after_ms {
        let after = if ms == 0 { "off".into() } else { duration::show(Duration::from_millis(ms.into())) };
        lines.push(("eject-after", after));
    }
    if let Some(l) = &g.ejection {
        let to: Vec<String> = l.to.iter().map(|s| format!("group {} ({})", s.group, s.slots)).collect();
        let to = if to.is_empty() { "nobody any more".into() } else { to.join(", ") };
        lines.push(("out, ejects", format!("its slots, to {to}, since {}", output::utc(l.since_ms))));
    }
    if let Some(p) = &g.promotion {
        lines.push(("promotion", sentence(p)));
    }
    if let Some(p) = reply.ended.last() {
        lines.push(("last promotion", sentence(p)));
    }
    let mut out: String = lines.into_iter().map(|(name, value)| format!("{name:15} {value}\n")).collect();
    out += "\n";
    out += &servers(&g.servers);
    for s in &g.servers {
        out += &remarks(s);
    }
    for (what, sentences) in [("waits for", &reply.waiting_on), ("warning", &reply.warnings)] {
        for sentence in sentences {
            out += &format!("{what}: {sentence}\n");
        }
    }
    out
}

fn sentence(p: &Promotion) -> String {
    let forced = if p.forced { ", forced" } else { "" };
    let holds = if p.attempts == 1 { "" } else { "s" };
    let now = match p.state.as_str() {
        "held" => format!("held since {}", output::utc(p.held_since_ms)),
        "started" => format!("started {}, not held now", output::utc(p.started_ms)),
        "done" => format!("done {}", output::utc(p.ended_ms)),
        _ => format!("given up {}: {}", output::utc(p.ended_ms), p.failed),
    };
    format!(
        "{} {}{forced}: {} in the place of {}; {now}; {} hold{holds}; because {}",
        p.kind, p.id, p.to, p.from, p.attempts, p.why
    )
}

fn servers(servers: &[Server]) -> String {
    let row = |s: &Server| {
        let mut row = vec![s.address.clone()];
        row.extend(cells(s));
        let probe = s.seen.as_ref().and_then(|seen| Some((seen, seen.ago_ms?)));
        row.extend(match probe {
            None => Default::default(),
            Some((seen, ago)) => [
                seen.keys.to_string(),
                output::size(seen.used_memory),
                seen.ops_per_second.to_string(),
                format!("{}.{} ms", seen.ping_us / 1000, seen.ping_us % 1000 / 100),
                format!("{} ago", time(ago)),
            ],
        });
        row.extend([s.priority.to_string(), s.zone.clone()]);
        row
    };
    let headings = [
        "server", "role", "seen as", "state", "link", "lag", "keys", "memory", "ops/s", "ping", "probed", "priority",
        "zone",
    ];
    output::table(&headings, &servers.iter().map(row).collect::<Vec<_>>())
}

/// What no column has room for, a line each.
fn remarks(s: &Server) -> String {
    let mut said = Vec::new();
    if let Some(seen) = &s.seen {
        for f in &seen.failing {
            said.push(match f.for_ms {
                Some(ms) => format!("node {} has seen it fail for {}: {}", f.node, time(ms), f.error),
                None => format!("it answers node {}, and cannot be asked: {}", f.node, f.error),
            });
        }
        if !seen.follows.is_empty() {
            said.push(format!("follows {}", seen.follows));
        }
        if !seen.run_id.is_empty() {
            let before = if seen.run_id == s.run_id { "as when it was added" } else { "another one when it was added" };
            let persists = match seen.persistent {
                Some(true) => ", persists",
                Some(false) => ", does not persist",
                None => "",
            };
            said.push(format!("run_id {} ({before}), history {}:{}{persists}", seen.run_id, seen.replid, seen.offset));
        }
        // (Of one that has diverged it says the same.)
        if !seen.no_candidate.is_empty() && !s.diverged {
            said.push(format!("is not promoted by itself: {}", seen.no_candidate));
        }
    }
    if s.diverged {
        said.push("diverged: it may have writes of its own, until it has copied its primary anew".into());
    }
    said.iter().map(|remark| format!("{}: {remark}\n", s.address)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pb::admin::FailureSeen;

    fn replica() -> Server {
        let seen = ServerSeen {
            state: "suspect".into(),
            role: "replica".into(),
            follows: "a:1".into(),
            link: "up".into(),
            lag_bytes: Some(1536),
            lag_ms: Some(1250),
            used_memory: 1 << 20,
            keys: 77,
            ops_per_second: 900,
            ping_us: 1210,
            run_id: "r2".into(),
            replid: "h".into(),
            offset: 5000,
            ago_ms: Some(340),
            persistent: Some(false),
            failing: vec![
                FailureSeen { node: 3, for_ms: Some(2100), error: "no connection in time".into() },
                FailureSeen { node: 4, for_ms: None, error: "it wants a password".into() },
            ],
            no_candidate: "it lags".into(),
        };
        let mut server =
            Server { address: "b:2".into(), role: "replica".into(), run_id: "r1".into(), ..Server::default() };
        server.priority = 100;
        server.zone = "rack-7".into();
        server.seen = Some(seen);
        server
    }

    fn group() -> Group {
        let primary = Server { address: "a:1".into(), role: "primary".into(), ..Server::default() };
        let promotion = Promotion {
            id: 27,
            kind: "switchover".into(),
            from: "a:1".into(),
            to: "b:2".into(),
            state: "held".into(),
            attempts: 2,
            held_since_ms: 1_700_000_000_123,
            why: "an operator asked for it".into(),
            ..Promotion::default()
        };
        let servers = vec![primary, replica()];
        Group { id: 3, servers, slots: 512, down_after_ms: 3000, promotion: Some(promotion), ..Group::default() }
    }

    #[test]
    fn a_list_has_roles_link_lag_and_state() {
        let table = to_table(&[group()]);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["3", "a:1", "primary", "unknown", "512", "switchover", "27", "to", "b:2"]);
        assert_eq!(lines[2], ["b:2", "replica", "replica", "suspect", "up", "1.5", "KB,", "1.2", "s"]);
    }

    #[test]
    fn everything_is_shown() {
        let ended = Promotion {
            kind: "failover".into(),
            state: "given-up".into(),
            failed: "it is back".into(),
            ..Promotion::default()
        };
        let reply = ShowGroupReply {
            group: Some(group()),
            warnings: vec!["a:1 does not persist".into()],
            waiting_on: vec!["the barrier".into()],
            ended: vec![ended],
            ..ShowGroupReply::default()
        };
        let text = to_text(&reply, "shop");
        for part in [
            "3 of product 'shop'",
            "switchover 27: b:2 in the place of a:1; held since 2023-11-14T22:13:20.123Z; 2 holds; because an operator",
            "it is back",
            "1.0 MB",
            "1.2 ms",
            "340 ms ago",
            "rack-7",
            "b:2: node 3 has seen it fail for 2.1 s: no connection in time",
            "b:2: it answers node 4, and cannot be asked: it wants a password",
            "b:2: run_id r2 (another one when it was added), history h:5000, does not persist",
            "b:2: is not promoted by itself: it lags",
            "waits for: the barrier",
            "warning: a:1 does not persist",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let json = shown_to_json(&reply);
        assert!(json["servers"][0]["seen"].is_null());
        let seen = &json["servers"][1]["seen"];
        assert_eq!((&seen["lag_bytes"], &seen["keys"], &seen["persistent"]), (&json!(1536), &json!(77), &json!(false)));
        assert_eq!(
            (&json["promotion"]["state"], &json["warnings"][0]),
            (&json!("held"), &json!("a:1 does not persist"))
        );
        assert_eq!(json["ended_promotions"][0]["failed"], "it is back");
    }

    #[test]
    fn of_a_server_that_never_answered_no_number_is_made_up() {
        let dead = ServerSeen { state: "down".into(), ..ServerSeen::default() };
        let server = Server { address: "a:1".into(), seen: Some(dead), ..Server::default() };
        let json = to_json(&Group { servers: vec![server.clone()], ..Group::default() });
        assert!(json["servers"][0]["seen"]["keys"].is_null() && json["servers"][0]["seen"]["state"] == "down");
        assert_eq!(remarks(&server), "");
        let times = [0, 999, 1000, 9999, 10_000, 119_999, 120_000].map(time);
        assert_eq!(times, ["0 ms", "999 ms", "1.0 s", "9.9 s", "10 s", "119 s", "2 min"]);
    }
}
