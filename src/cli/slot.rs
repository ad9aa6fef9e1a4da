//! `pontoon slot`: the owners of slots, and the slot of a key.
//! Knows nothing of how many slots a layout has; nodes check that.

use std::{collections::BTreeMap, future::Future};

use clap::Subcommand;
use serde::Serialize;
use tonic::{Response, Status};

use super::{Remote, change, client::Client, error::CliError, output};
use crate::wire::pb::admin::{
    AssignSlotsRequest, ChangeOptions, ChangeReply, ListSlotsReply, ListSlotsRequest, LocateKeyReply, LocateKeyRequest,
    ReleaseSlotsRequest, SlotRange, SlotSpan,
};

/// `pontoon slot ...`
#[derive(Debug, Subcommand)]
pub enum SlotCommand {
    /// List the slots of the product as ranges; very many are summarised for each group
    Ls {
        /// List every range
        #[arg(long)]
        all: bool,
    },
    /// Give slots to a group, without keys (to move keys: migrate)
    ///
    /// Slots without an owner change immediately. Slots with an owner change only if they have no keys.
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
        /// Assign them also if the group has too few replicas for min-acks, or none to read from
        #[arg(long)]
        force: bool,
    },
    /// Leave slots without an owner: requests for them are refused
    ///
    /// Only slots without keys, unless their keys are abandoned.
    Release {
        /// For example 0-511, 7 or 0-3,9
        #[arg(value_name = "SLOTS")]
        slots: String,
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

impl SlotCommand {
    pub(super) const fn reads(&self) -> bool {
        matches!(self, Self::Ls { .. } | Self::Key { .. })
    }
}

/// Ranges that `slot ls` lists: about as many lines as fit on a screen.
const RANGES_SHOWN: usize = 64;
/// Ranges in one command. The largest layout has this many slots; a longer list is a mistake.
const SPANS_MAX: usize = 16_384;

pub(super) async fn run(command: SlotCommand, remote: &Remote) -> Result<(), CliError> {
    match command {
        SlotCommand::Ls { all } => show(remote, all).await,
        SlotCommand::Assign { slots, group, abandon_data, force } => {
            let slots = parse_spans(&slots).map_err(CliError::Usage)?;
            let wanted = AssignSlotsRequest { abandon_data, force, ..assignment(remote, slots, group) };
            change::run(remote, &check(remote), |c, options| assign_with(c, &wanted, options)).await.map(drop)
        }
        SlotCommand::Release { slots, abandon_data } => {
            let slots = parse_spans(&slots).map_err(CliError::Usage)?;
            let wanted =
                ReleaseSlotsRequest { product: remote.product().to_owned(), slots, abandon_data, options: None };
            let call = |mut c: Client, options| {
                let request = ReleaseSlotsRequest { options: Some(options), ..wanted.clone() };
                async move { c.release_slots(request).await }
            };
            change::run(remote, &check(remote), call).await.map(drop)
        }
        SlotCommand::Key { key } => locate(remote, key).await,
    }
}

/// Assigns slots for the playground, and says nothing.
pub(super) async fn assign(remote: &Remote, slots: &[SlotSpan], group: u32) -> Result<ChangeReply, CliError> {
    let wanted = assignment(remote, slots.to_vec(), group);
    remote.change(&check(remote), |c, options| assign_with(c, &wanted, options)).await
}

fn assignment(remote: &Remote, slots: Vec<SlotSpan>, group: u32) -> AssignSlotsRequest {
    AssignSlotsRequest { product: remote.product().to_owned(), slots, group, ..AssignSlotsRequest::default() }
}

fn assign_with(
    mut client: Client,
    wanted: &AssignSlotsRequest,
    options: ChangeOptions,
) -> impl Future<Output = Result<Response<ChangeReply>, Status>> + use<> {
    let request = AssignSlotsRequest { options: Some(options), ..wanted.clone() };
    async move { client.assign_slots(request).await }
}

fn check(remote: &Remote) -> String {
    format!("pontoon slot ls --product {}", remote.product())
}

/// The slots of the product.
pub(super) async fn list(remote: &Remote) -> Result<ListSlotsReply, CliError> {
    let call = |mut c: Client| {
        let product = remote.product().to_owned();
        async move { c.list_slots(ListSlotsRequest { product }).await }
    };
    remote.read(call).await
}

async fn show(remote: &Remote, all: bool) -> Result<(), CliError> {
    let reply = list(remote).await?;
    if remote.json() {
        return output::print_json(&reply.ranges);
    }
    let mut out = to_table(&reply.ranges, all);
    for line in &reply.in_progress {
        out += &format!("in progress: {line}\n");
    }
    output::print_text(&out);
    Ok(())
}

async fn locate(remote: &Remote, key: String) -> Result<(), CliError> {
    let call = |mut c: Client| {
        let request = LocateKeyRequest { product: remote.product().to_owned(), key: key.clone().into_bytes().into() };
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

/// The ranges, or a line for each group if there are more than a person reads.
fn to_table(ranges: &[SlotRange], all: bool) -> String {
    let owner = |group: Option<u32>| group.map_or_else(|| "none".to_owned(), |id| id.to_string());
    if all || ranges.len() <= RANGES_SHOWN {
        let row = |r: &SlotRange| vec![show_range(r), owner(r.group), output::yes(r.held), r.epoch.to_string()];
        return output::table(&["slots", "group", "held", "epoch"], &ranges.iter().map(row).collect::<Vec<_>>());
    }
    let mut groups: BTreeMap<Option<u32>, Vec<&SlotRange>> = BTreeMap::new();
    for range in ranges {
        groups.entry(range.group).or_default().push(range);
    }
    let count = |r: &&SlotRange| u64::from(r.last.saturating_sub(r.first)) + 1;
    let row = |(group, of): (&Option<u32>, &Vec<&SlotRange>)| {
        let (slots, held): (u64, u64) = (of.iter().map(count).sum(), of.iter().filter(|r| r.held).map(count).sum());
        let texts: Vec<String> = of.iter().map(|r| show_range(r)).collect();
        vec![owner(*group), slots.to_string(), held.to_string(), of.len().to_string(), output::few(&texts.join(", "))]
    };
    let rows: Vec<_> = groups.iter().map(row).collect();
    let mut out = output::table(&["group", "slots", "held", "ranges", "the first"], &rows);
    out += &format!("{} ranges; --all lists them\n", ranges.len());
    out
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
    fn very_many_ranges_are_summarised() {
        let range =
            |slot: u32| SlotRange { first: slot, last: slot, group: Some(slot % 2 + 1), held: slot == 7, epoch: 9 };
        let ranges: Vec<_> = (0..16_384).map(range).collect();
        let text = to_table(&ranges, false);
        assert!(text.lines().count() == 4, "{text}");
        let second: Vec<_> = text.lines().nth(2).unwrap_or_default().split_whitespace().take(5).collect();
        assert_eq!(second, ["2", "8192", "1", "8192", "1,"], "{text}");
        assert!(text.contains("and 8184 more ranges") && text.contains("16384 ranges; --all lists them"), "{text}");
        assert_eq!(to_table(&ranges, true).lines().count(), 16_385);
        assert_eq!(to_table(&ranges[..64], false).lines().count(), 65);
    }

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
