//! `pontoon product show`: everything about one product.

use super::{
    Remote,
    error::CliError,
    output,
    product::{self, acks, reads},
    setting::show_switch,
};
use crate::wire::pb::admin::{Listener, Product};

pub(super) async fn run(name: &str, remote: &Remote) -> Result<(), CliError> {
    let missing =
        || CliError::Refused("not-found", format!("there is no product '{name}'; `pontoon product ls` shows all"));
    let found = product::fetch(remote).await?.into_iter().find(|p| p.name == name).ok_or_else(missing)?;
    if remote.json() {
        return output::print_json(&found);
    }
    output::print_text(&to_text(&found));
    Ok(())
}

fn to_text(p: &Product) -> String {
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
        ("rules", product::rules(p)),
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
