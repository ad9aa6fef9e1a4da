//! Groups and their servers as text for people.

use std::{collections::BTreeMap, time::Duration};

use super::output;
use crate::{
    cli::{duration, setting, status},
    wire::pb::admin::{
        Ejection, Group, Promotion, PromotionState, Server, ServerObservation, ServerRole, Severity, ShowGroupReply,
    },
};

/// All groups, one server per line, and their warnings. Advice is only counted: `group show` has it.
pub(super) fn to_text_list(groups: &[Group]) -> String {
    let mut out = to_table(groups);
    let mut advice: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for g in groups {
        for w in &g.warnings {
            match w.severity() {
                Severity::Advice => advice.entry(w.code.as_str()).or_default().push(g.id.to_string()),
                Severity::Unspecified | Severity::Ok | Severity::Warning | Severity::Unknown | Severity::Critical => {
                    out += &status::warnings(std::slice::from_ref(w))
                }
            }
        }
    }
    for (code, groups) in advice {
        let n = groups.len();
        let (s, rest) = if n == 1 { ("", String::new()) } else { ("s", more(n)) };
        out += &format!("\nadvice: {code}: group{s} {}{rest}", groups[..n.min(NAMED_MAX)].join(", "));
    }
    if groups.iter().flat_map(|g| &g.warnings).any(|w| w.severity() == Severity::Advice) {
        out += "\n  pontoon group show GID says what it means\n";
    }
    out
}

/// Groups that are named in a line. The rest is only counted.
const NAMED_MAX: usize = 10;

fn more(n: usize) -> String {
    if n > NAMED_MAX { format!(" and {} more", n - NAMED_MAX) } else { String::new() }
}

/// All groups, one server per line.
fn to_table(groups: &[Group]) -> String {
    let mut rows = Vec::new();
    for g in groups {
        for (i, s) in g.servers.iter().enumerate() {
            let first = |text: String| if i == 0 { text } else { String::new() };
            let login = g.username.as_ref().map_or_else(|| output::yes(g.has_password), |user| format!("user {user}"));
            let mut row = vec![first(g.id.to_string()), s.address.clone()];
            row.extend(cells(s));
            row.extend([first(g.slot_count.to_string()), first(login), first(remark(g))]);
            rows.push(row);
        }
    }
    let headings = ["group", "server", "role", "reported role", "state", "link", "lag", "slots", "password", "remark"];
    output::table(&headings, &rows)
}

/// Role in the log, role that the server reports, state, link, lag.
fn cells(s: &Server) -> [String; 5] {
    let role = output::name(s.role());
    match &s.observed {
        None => [role, String::new(), "unknown".into(), String::new(), String::new()],
        Some(o) => [role, output::name(o.role()), output::name(o.state()), output::name(o.link()), lag(o)],
    }
}

/// What happens to a group now, in a few words.
fn remark(g: &Group) -> String {
    let promotion = g.promotion.as_ref().map(|p| format!("{} {} to {}", output::name(p.kind()), p.id, p.to));
    let ejection = g.ejection.as_ref().map(ejected);
    let bad = g.warnings.iter().filter(|w| w.severity() > Severity::Advice).map(|w| w.code.clone());
    promotion.into_iter().chain(ejection).chain(bad).collect::<Vec<_>>().join(", ")
}

/// `ejected, 400 slots at groups 2 and 3`.
fn ejected(ejection: &Ejection) -> String {
    let owners = &ejection.temporary_owners;
    let count: u32 = owners.iter().map(|owner| owner.slot_count).sum();
    let ids: Vec<String> = owners.iter().map(|owner| owner.group.to_string()).collect();
    match ids.as_slice() {
        [] => "ejected".into(),
        [id] => format!("ejected, {count} slots at group {id}"),
        [rest @ .., last] => format!("ejected, {count} slots at groups {} and {last}", rest.join(", ")),
    }
}

/// How far a replica is behind; empty for a primary.
fn lag(observed: &ServerObservation) -> String {
    if observed.role() != ServerRole::Replica {
        return String::new();
    }
    let bytes = observed.lag_bytes.map(output::size);
    let time = observed.lag_ms.map(time);
    match (bytes, time) {
        (None, None) => "not known".into(),
        (bytes, time) => bytes.into_iter().chain(time).collect::<Vec<_>>().join(", "),
    }
}

/// A time span, rounded: `120 ms`, `3.2 s`, `75 s`, `6 min`.
fn time(ms: u64) -> String {
    match ms {
        0..=999 => format!("{ms} ms"),
        1000..=9999 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        10_000..=119_999 => format!("{} s", ms / 1000),
        _ => format!("{} min", ms / 60_000),
    }
}

/// Everything about one group.
pub(super) fn to_text(reply: &ShowGroupReply, product: &str) -> String {
    let Some(g) = &reply.group else { return String::new() };
    let mut lines = settings(g, product);
    if let Some(ejection) = &g.ejection {
        let owner =
            |o: &crate::wire::pb::admin::TemporaryOwner| format!("group {} ({})", o.group, output::few(&o.slots));
        let owners: Vec<String> = ejection.temporary_owners.iter().map(owner).collect();
        let owners = if owners.is_empty() { "no group now".into() } else { owners.join(", ") };
        lines.push(("ejected", format!("since {}; its slots are at {owners}", output::utc(ejection.ejected_at_ms))));
    }
    if let Some(p) = &g.promotion {
        lines.push(("promotion", sentence(p)));
    }
    if let Some(p) = reply.ended_promotions.last() {
        lines.push(("last promotion", sentence(p)));
    }
    let mut out: String = lines.into_iter().map(|(name, value)| format!("{name:22} {value}\n")).collect();
    out += "\n";
    out += &servers(&g.servers);
    for s in &g.servers {
        out += &remarks(s);
    }
    for sentence in &reply.waiting_on {
        out += &format!("waiting on: {sentence}\n");
    }
    out += &status::warnings(&g.warnings);
    out
}

fn settings(g: &Group, product: &str) -> Vec<(&'static str, String)> {
    let duration = |ms: u32| duration::show(Duration::from_millis(ms.into()));
    let mut lines = vec![
        ("group", format!("{} of product '{product}'", g.id)),
        ("slots", g.slot_count.to_string()),
        ("primary since", format!("entry {}", g.epoch)),
        ("down-after", duration(g.down_after_ms)),
        ("maintenance", setting::show_switch(g.maintenance).to_owned()),
        ("data user", g.data_user.clone().unwrap_or_else(|| "none: scripts may do what the control user may".into())),
    ];
    if g.former_password {
        lines.push(("former password", "servers still accept it; it is being removed".to_owned()));
    }
    let or_off = |ms: u32| if ms == 0 { "off".into() } else { duration(ms) };
    if let Some(ms) = g.eject_after_ms {
        lines.push(("eject-after", or_off(ms)));
    }
    if let Some(impaired) = &g.impaired {
        lines.extend([
            ("busy-failover-after", or_off(impaired.busy_failover_after_ms)),
            ("loading-failover-after", or_off(impaired.loading_failover_after_ms)),
            ("misconf-failover-after", or_off(impaired.misconf_failover_after_ms)),
            ("script-kill-after", or_off(impaired.script_kill_after_ms)),
        ]);
    }
    lines
}

fn sentence(p: &Promotion) -> String {
    let forced = if p.forced { ", forced" } else { "" };
    let holds = if p.attempts == 1 { "" } else { "s" };
    let at = |ms: Option<u64>| ms.map_or_else(|| "?".into(), output::utc);
    let now = match p.state() {
        PromotionState::Held => format!("held since {}", at(p.held_at_ms)),
        PromotionState::Started => format!("started {}, not held now", output::utc(p.started_at_ms)),
        PromotionState::Done => format!("done {}", at(p.ended_at_ms)),
        PromotionState::GivenUp => {
            format!("given up {}: {}", at(p.ended_at_ms), p.given_up_because.as_deref().unwrap_or("no reason is known"))
        }
        PromotionState::Unspecified => "state unknown".into(),
    };
    format!(
        "{} {}{forced}: {} replaces {}; {now}; {} hold{holds}; reason: {}",
        output::name(p.kind()),
        p.id,
        p.to,
        p.from,
        p.attempts,
        p.why
    )
}

fn servers(servers: &[Server]) -> String {
    let row = |s: &Server| {
        let mut row = vec![s.address.clone()];
        row.extend(cells(s));
        let observed = s.observed.clone().unwrap_or_default();
        let text = |number: Option<u64>| number.map_or_else(String::new, |n| n.to_string());
        row.extend([
            text(observed.keys),
            observed.used_memory_bytes.map_or_else(String::new, output::size),
            text(observed.ops_per_second),
            observed.ping_us.map_or_else(String::new, |us| format!("{}.{} ms", us / 1000, us % 1000 / 100)),
            observed.probe_age_ms.map_or_else(String::new, |ms| format!("{} ago", time(ms))),
        ]);
        row.extend([s.priority.to_string(), s.zone.clone().unwrap_or_default()]);
        row
    };
    let headings = [
        "server",
        "role",
        "reported role",
        "state",
        "link",
        "lag",
        "keys",
        "memory",
        "ops/s",
        "ping",
        "probed",
        "priority",
        "zone",
    ];
    output::table(&headings, &servers.iter().map(row).collect::<Vec<_>>())
}

/// What does not fit into a column, one line each.
fn remarks(s: &Server) -> String {
    let mut remarks = s.observed.as_ref().map(|observed| observations(s, observed)).unwrap_or_default();
    if s.diverged {
        remarks.push("diverged: it may have writes of its own, until it has copied its primary's data again".into());
    }
    remarks.iter().map(|remark| format!("{}: {remark}\n", s.address)).collect()
}

fn observations(s: &Server, observed: &ServerObservation) -> Vec<String> {
    let mut remarks = Vec::new();
    for f in &observed.failures {
        remarks.push(match f.failing_for_ms {
            Some(ms) => format!("node {} has seen it fail for {}: {}", f.node, time(ms), f.error),
            None => format!("it answers node {}, but cannot be probed: {}", f.node, f.error),
        });
    }
    if let Some(primary) = &observed.follows {
        remarks.push(format!("follows {primary}"));
    }
    if let Some(run_id) = &observed.run_id {
        let same =
            if *run_id == s.run_id { "the same as when it was added" } else { "not the same as when it was added" };
        let persistence = match observed.persistent {
            Some(true) => ", persistent",
            Some(false) => ", not persistent",
            None => "",
        };
        let replid = observed.replid.as_deref().unwrap_or("?");
        let offset = observed.replication_offset.unwrap_or(0);
        remarks.push(format!("run_id {run_id} ({same}), history {replid}:{offset}{persistence}"));
    }
    // Of a diverged server, `remarks` says the same.
    if let Some(why) = observed.not_candidate_because.as_ref().filter(|_| !s.diverged) {
        remarks.push(format!("is not promoted automatically: {why}"));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pb::admin::{LinkState, ProbeFailure, PromotionKind, ServerState, TemporaryOwner, Warning};

    fn replica() -> Server {
        let observed = ServerObservation {
            state: ServerState::Suspect.into(),
            role: Some(ServerRole::Replica.into()),
            follows: Some("a:1".into()),
            link: Some(LinkState::Up.into()),
            lag_bytes: Some(1536),
            lag_ms: Some(1250),
            used_memory_bytes: Some(1 << 20),
            keys: Some(77),
            ops_per_second: Some(900),
            ping_us: Some(1210),
            run_id: Some("r2".into()),
            replid: Some("h".into()),
            replication_offset: Some(5000),
            probe_age_ms: Some(340),
            persistent: Some(false),
            failures: vec![
                ProbeFailure { node: 3, failing_for_ms: Some(2100), error: "no connection in time".into() },
                ProbeFailure { node: 4, failing_for_ms: None, error: "it wants a password".into() },
            ],
            not_candidate_because: Some("it lags".into()),
        };
        Server {
            address: "b:2".into(),
            role: ServerRole::Replica.into(),
            run_id: "r1".into(),
            priority: 100,
            zone: Some("rack-7".into()),
            observed: Some(observed),
            ..Server::default()
        }
    }

    fn group() -> Group {
        let primary = Server { address: "a:1".into(), role: ServerRole::Primary.into(), ..Server::default() };
        let promotion = Promotion {
            id: 27,
            kind: PromotionKind::Switchover.into(),
            from: "a:1".into(),
            to: "b:2".into(),
            state: PromotionState::Held.into(),
            attempts: 2,
            held_at_ms: Some(1_700_000_000_123),
            why: "an operator asked for it".into(),
            ..Promotion::default()
        };
        let servers = vec![primary, replica()];
        let advice = Warning {
            code: "not-persistent".into(),
            severity: Severity::Advice.into(),
            text: "a:1 does not persist".into(),
            to_clear: "turn it on".into(),
        };
        let (promotion, warnings) = (Some(promotion), vec![advice]);
        Group { id: 3, servers, slot_count: 512, down_after_ms: 3000, promotion, warnings, ..Group::default() }
    }

    #[test]
    fn a_list_has_roles_link_lag_and_state() {
        let table = to_table(&[group()]);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["3", "a:1", "primary", "unknown", "512", "switchover", "27", "to", "b:2"]);
        assert_eq!(lines[2], ["b:2", "replica", "replica", "suspect", "up", "1.5", "KB,", "1.2", "s"]);
    }

    #[test]
    fn a_list_knows_what_the_details_know() {
        let down = Warning {
            code: "primary-down".into(),
            severity: Severity::Critical.into(),
            text: "512 slots are not served".into(),
            to_clear: "start it".into(),
        };
        let bad = Group { id: 4, warnings: vec![down], servers: vec![replica()], ..Group::default() };
        let text = to_text_list(&[group(), bad]);
        for part in [
            "primary-down\n",
            "critical: 512 slots are not served\n  to clear: start it\n",
            "advice: not-persistent: group 3\n",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_list_says_where_the_slots_of_an_ejected_group_are() {
        let owner = |group, slot_count| TemporaryOwner { group, slot_count, slots: "0-9".into() };
        let of = |temporary_owners| Ejection { id: 9, ejected_at_ms: 1_700_000_000_123, temporary_owners };
        assert_eq!(ejected(&of(vec![owner(2, 300), owner(3, 100)])), "ejected, 400 slots at groups 2 and 3");
        assert_eq!(
            ejected(&of(vec![owner(2, 300), owner(3, 99), owner(4, 1)])),
            "ejected, 400 slots at groups 2, 3 and 4"
        );
        assert_eq!(ejected(&of(vec![owner(2, 300)])), "ejected, 300 slots at group 2");
        let group = Group { ejection: Some(of(vec![owner(2, 10)])), ..Group::default() };
        let text = to_text(&ShowGroupReply { group: Some(group), ..ShowGroupReply::default() }, "shop");
        let line = "ejected                since 2023-11-14T22:13:20.123Z; its slots are at group 2 (0-9)";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn everything_is_shown() {
        let ended = Promotion {
            kind: PromotionKind::Failover.into(),
            state: PromotionState::GivenUp.into(),
            given_up_because: Some("it is back".into()),
            ..Promotion::default()
        };
        let reply = ShowGroupReply {
            group: Some(group()),
            waiting_on: vec!["the barrier".into()],
            ended_promotions: vec![ended],
            ..ShowGroupReply::default()
        };
        let text = to_text(&reply, "shop");
        for part in [
            "3 of product 'shop'",
            "switchover 27: b:2 replaces a:1; held since 2023-11-14T22:13:20.123Z; 2 holds; reason: an operator asked",
            "it is back",
            "1.0 MB",
            "1.2 ms",
            "340 ms ago",
            "rack-7",
            "b:2: node 3 has seen it fail for 2.1 s: no connection in time",
            "b:2: it answers node 4, but cannot be probed: it wants a password",
            "b:2: run_id r2 (not the same as when it was added), history h:5000, not persistent",
            "b:2: is not promoted automatically: it lags",
            "waiting on: the barrier",
            "advice: a:1 does not persist\n  to clear: turn it on",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_server_that_never_answered_has_no_numbers() {
        let dead = ServerObservation { state: ServerState::Down.into(), ..ServerObservation::default() };
        let server = Server { address: "a:1".into(), observed: Some(dead), ..Server::default() };
        let json = serde_json::json!(server);
        assert!(json["observed"]["keys"].is_null() && json["observed"]["state"] == "down");
        assert_eq!(remarks(&server), "");
        let times = [0, 999, 1000, 9999, 10_000, 119_999, 120_000].map(time);
        assert_eq!(times, ["0 ms", "999 ms", "1.0 s", "9.9 s", "10 s", "119 s", "2 min"]);
    }
}
