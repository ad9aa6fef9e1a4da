//! What people see of a product.

use std::time::Duration;

use super::{duration, output, setting::show_switch};
use crate::wire::pb::admin::{Listener, Product, ReadFrom};

/// All settings, and where nodes listen.
pub(super) fn to_text(p: &Product) -> String {
    let password = match (&p.username, p.has_password) {
        (Some(user), _) => format!("yes, of user {user}"),
        (None, true) => "yes".to_owned(),
        (None, false) => "none: nodes bind the port on loopback only, unless they run with --insecure".to_owned(),
    };
    let password = if p.former_password_valid { password + ", and the former one" } else { password };
    let clients = match p.clients_max {
        0 => "only the limit of each node".to_owned(),
        n => format!("{n} at each node"),
    };
    let lines = [
        ("product", p.name.clone()),
        ("port", format!("{} plus the port offset of each node", p.port)),
        ("layout", format!("{}, {} slots", output::name(p.layout()), p.slot_count)),
        ("mode", output::name(p.mode())),
        ("isolated", output::name(p.isolated())),
        ("databases", p.databases.to_string()),
        ("password", password),
        ("groups", p.group_count.to_string()),
        ("slots assigned", format!("{} of {}", p.assigned_slot_count, p.slot_count)),
        ("auto-rebalance", show_switch(p.auto_rebalance).to_owned()),
        ("min-acks", acks(p)),
        ("reads from", reads(p)),
        ("clients-max", clients),
        ("rules", rules(p)),
        ("loaded", loaded(p)),
    ];
    let mut out: String = lines.into_iter().map(|(name, value)| format!("{name:15} {value}\n")).collect();
    for listener in &p.listeners {
        out += &format!("listener        {}\n", listening(listener));
    }
    out
}

/// Where a node listens, or why it does not.
pub(super) fn listening(l: &Listener) -> String {
    let state = l.error.as_deref().unwrap_or("listens");
    let note = l.note.as_ref().map_or_else(String::new, |note| format!(" ({note})"));
    format!("node {} on {}: {state}{note}", l.node, l.address)
}

/// What its clients may not do, beside having too many connections.
pub(super) fn rules(p: &Product) -> String {
    let ops = (p.ops_max > 0).then(|| format!("{} ops/s", p.ops_max));
    let bytes = (p.bytes_max > 0).then(|| format!("{}/s", output::size(p.bytes_max)));
    let scripts = p.scripts_off.then(|| "no scripts".to_owned());
    let loads = (p.script_loads_max > 0).then(|| format!("{} new scripts/min", p.script_loads_max));
    let errors = p.errors_detailed.then(|| "detailed errors".to_owned());
    let blocked = p.blocked_errors.then(|| "errors for blocked calls".to_owned());
    let servers = p.server_commands.then(|| "server commands".to_owned());
    let debug = p.debug_commands.then(|| "debug commands".to_owned());
    let version = (p.redis_version != "servers").then(|| format!("told Redis {}", p.redis_version));
    let idle = Duration::from_millis(p.idle_timeout_ms.into());
    let idle = (!idle.is_zero()).then(|| format!("idle {}", duration::show(idle)));
    let all = ops.into_iter().chain(bytes).chain(scripts).chain(loads).chain(errors).chain(blocked);
    let all = all.chain(servers).chain(debug).chain(version).chain(idle);
    let all: Vec<_> = all.collect();
    if all.is_empty() { "-".into() } else { all.join(", ") }
}

/// What its clients have loaded.
fn loaded(p: &Product) -> String {
    format!("{} scripts ({}), {} libraries", p.script_count, output::size(p.script_bytes), p.library_count)
}

/// Whether clients log in, and with what.
pub(super) fn password_of(p: &Product) -> String {
    let user = p.username.as_ref().map_or_else(String::new, |user| format!(", user {user}"));
    let valid = if p.former_password_valid { ", two are valid" } else { "" };
    format!("{}{user}{valid}", output::yes(p.has_password))
}

/// Replicas that a write waits for, and for how long.
pub(super) fn acks(p: &Product) -> String {
    match p.min_acks {
        0 => "off".into(),
        n => format!("{n} in {}", duration::show(Duration::from_millis(p.min_acks_timeout_ms.into()))),
    }
}

/// Where reads go, in short.
pub(super) fn reads(p: &Product) -> String {
    let from = output::name(p.read_from());
    if p.read_from() == ReadFrom::Primary {
        return from + if p.read_confirmed { ", confirmed" } else { "" };
    }
    let lag = match p.max_lag_ms {
        0 => "any lag".to_owned(),
        ms => format!("lag {}", duration::show(Duration::from_millis(ms.into()))),
    };
    format!("{from} ({lag}{})", if p.read_your_writes { ", own writes" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_and_listeners_are_shown() {
        let refused = Listener { node: 2, address: "a:1".into(), error: Some("in use".into()), note: None };
        let product = Product {
            name: "shop".into(),
            port: 19_010,
            clients_max: 5,
            listeners: vec![refused],
            ..Product::default()
        };
        let text = to_text(&product);
        for part in ["product         shop", "19010 plus", "loopback only", "5 at each node", "node 2 on a:1: in use"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(to_text(&Product { username: Some("app".into()), ..product }).contains("of user app"));
    }
}
