//! `pontoon slot`: the owners of slots, and the slot of a key.
//! Knows nothing of how many slots a layout has; nodes check that.

use clap::Subcommand;
use serde::Serialize;

use super::{Remote, client::Client, error::CliError, output};
use crate::wire::pb::admin::{
    AssignSlotsRequest, ChangeReply, ListSlotsReply, ListSlotsRequest, LocateKeyReply, LocateKeyRequest, SlotRange,
    SlotSpan,
};

/// `pontoon slot ...`
#[derive(Debug, Subcommand)]
pub enum SlotCommand {
    /// List the slots of the product as ranges
    Ls,
    /// Give slots to a group, without keys (to move keys: migrate)
    ///
    /// Slots without an owner change at once. Slots with an owner change only if they have no keys.
    Assign {
        /// For example 0-511, 7 or 0-3,9
        #[arg(value_name = "SLOTS")]
        slots: String,
        /// The group
        #[arg(value_name = "GID")]
        group: u32,
        /// Abandon the keys at the present owners: they stay there, unreachable
        #[arg(long)]
        abandon_data: bool,
    },
    /// Show the slot, group and server of a key
    Key {
        /// The key
        key: String,
    },
}

/// Ranges in one command. The largest layout has this many slots; a longer list is a mistake.
const SPANS_MAX: usize = 16_384;

pub(super) async fn run(command: SlotCommand, remote: &Remote) -> Result<(), CliError> {
    match command {
        SlotCommand::Ls => show(remote).await,
        SlotCommand::Assign { slots, group, abandon_data } => {
            let slots = parse_spans(&slots).map_err(CliError::Usage)?;
            let reply = assign(remote, &slots, group, abandon_data).await?;
            output::print_change(remote, &reply)
        }
        SlotCommand::Key { key } => locate(remote, key).await,
    }
}

/// Assigns slots. The playground uses it too.
pub(super) async fn assign(
    remote: &Remote,
    slots: &[SlotSpan],
    group: u32,
    abandon_data: bool,
) -> Result<ChangeReply, CliError> {
    let product = &remote.common.product;
    let call = |mut c: Client, options| {
        let (product, slots, options) = (product.clone(), slots.to_vec(), Some(options));
        let request = AssignSlotsRequest { product, slots, group, options, abandon_data };
        async move { c.assign_slots(request).await }
    };
    remote.change(&format!("pontoon slot ls --product {product}"), call).await
}

/// The slots of the product.
pub(super) async fn list(remote: &Remote) -> Result<ListSlotsReply, CliError> {
    let call = |mut c: Client| {
        let product = remote.common.product.clone();
        async move { c.list_slots(ListSlotsRequest { product }).await }
    };
    remote.read(call).await
}

async fn show(remote: &Remote) -> Result<(), CliError> {
    let reply = list(remote).await?;
    if remote.json() {
        return output::print_json(&reply.ranges);
    }
    let rows: Vec<_> = reply
        .ranges
        .iter()
        .map(|r| {
            let group = r.group.map_or_else(|| "none".to_owned(), |id| id.to_string());
            vec![show_range(r), group, output::yes(r.held), r.epoch.to_string()]
        })
        .collect();
    let mut out = output::table(&["slots", "group", "held", "epoch"], &rows);
    for line in &reply.in_progress {
        out += &format!("in progress: {line}\n");
    }
    output::print_text(&out);
    Ok(())
}

async fn locate(remote: &Remote, key: String) -> Result<(), CliError> {
    let call = |mut c: Client| {
        let request = LocateKeyRequest { product: remote.common.product.clone(), key: key.clone().into_bytes().into() };
        async move { c.locate_key(request).await }
    };
    let reply = remote.read(call).await?;
    if remote.json() {
        return output::print_json(&LocatedKey { key: &key, reply: &reply });
    }
    output::print_text(&match (reply.group, &reply.server) {
        (Some(group), Some(server)) => format!("slot {}, group {group}, server {server}\n", reply.slot),
        _ => format!("slot {}, which has no owner; assign it: pontoon slot assign {} GID\n", reply.slot, reply.slot),
    });
    Ok(())
}

/// A [`LocateKeyReply`] as JSON.
#[derive(Serialize)]
pub(super) struct LocatedKey<'a> {
    /// The key that was asked for.
    pub(super) key: &'a str,
    /// The reply of the node.
    #[serde(flatten)]
    pub(super) reply: &'a LocateKeyReply,
}

fn show_range(r: &SlotRange) -> String {
    if r.first == r.last { r.first.to_string() } else { format!("{}-{}", r.first, r.last) }
}

/// `0-511`, `7`, `0-3,9`.
pub(super) fn parse_spans(text: &str) -> Result<Vec<SlotSpan>, String> {
    let bad = |part: &str| format!("'{part}' is neither a slot nor a range of slots, such as 7 or 0-511");
    let number = |part: &str, whole: &str| -> Result<u32, String> {
        part.trim().parse::<u16>().map(u32::from).map_err(|_| bad(whole))
    };
    let mut spans = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first, part)?, number(last, part)?),
            None => (number(part, part)?, number(part, part)?),
        };
        if first > last {
            return Err(format!("the range {part} is reversed; write {last}-{first}"));
        }
        spans.push(SlotSpan { first, last });
        if spans.len() > SPANS_MAX {
            return Err(format!("more than {SPANS_MAX} ranges"));
        }
    }
    Ok(spans)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn spans() {
        let check = |text: &str, expected: &[(u32, u32)]| {
            let spans: Vec<_> = parse_spans(text).unwrap().iter().map(|s| (s.first, s.last)).collect();
            assert_eq!(spans, expected, "{text}");
        };
        check("0-511", &[(0, 511)]);
        check("7", &[(7, 7)]);
        check("0-3,9, 12 - 13", &[(0, 3), (9, 9), (12, 13)]);
        for bad in ["", ",", "a", "1-", "-1", "3-1", "0-70000", "1-2-3", "0..3"] {
            assert!(parse_spans(bad).is_err(), "{bad}");
        }
        assert!(parse_spans("3-1").unwrap_err().contains("1-3"));
    }
}
