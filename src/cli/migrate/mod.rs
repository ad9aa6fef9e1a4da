//! `pontoon migrate`: moving slots with their keys.
//! Knows nothing of how that is done, nor of who is asked first; nodes do.

mod watch;

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{Remote, client::Client, duration, error::CliError, output, setting, slot::parse_spans};
use crate::wire::pb::admin::{
    CancelMigrationRequest, ListMigrationsReply, ListMigrationsRequest, Migration, MigrationLimits,
    PauseMigrationRequest, ResumeMigrationRequest, SetMigrationRequest, StartMigrationRequest,
};

/// `pontoon migrate ...`
#[derive(Debug, Subcommand)]
pub enum MigrateCommand {
    /// Move slots to a group; with --wait, return when it is done
    Start {
        /// As 0-255, 7 or 0-3,9; they may belong to several groups
        #[arg(value_name = "SLOTS")]
        slots: String,
        /// The group they move to
        #[arg(long, value_name = "GID", value_parser = clap::value_parser!(u32).range(1..))]
        to: u32,
        /// Compare source and target before the switch: nothing, a sample of the keys, or every key
        #[arg(long, value_enum, default_value = "none")]
        verify: VerifyArg,
        /// Delete keys of these slots at the target that were never its own
        #[arg(long)]
        wipe: bool,
        /// At most so many keys a second
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        keys_per_second: u64,
        /// At most so many bytes a second
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        bytes_per_second: u64,
        /// Longest pause of clients at the switch, as 250ms [default: the cluster's]
        #[arg(long, value_name = "TIME", value_parser = duration::parse)]
        hold_max: Option<Duration>,
    },
    /// List the product's migrations: those that run or wait, and the last 100 that ended
    Ls,
    /// Show everything about one
    Show {
        /// As `migrate ls` shows it
        id: u64,
    },
    /// Watch one, or all of the product, to the end
    Watch {
        /// As `migrate ls` shows it
        id: Option<u64>,
    },
    /// Give one up; what was copied is deleted at the target
    Cancel {
        /// As `migrate ls` shows it
        id: u64,
    },
    /// Let one wait until it is resumed; it begins anew then
    Pause {
        /// As `migrate ls` shows it
        id: u64,
    },
    /// Let a paused one go on
    Resume {
        /// As `migrate ls` shows it
        id: u64,
    },
    /// Change limits, also while it runs: keys-per-second=N, bytes-per-second=N (0: none), hold-max=250ms (0: the cluster's)
    Set {
        /// As `migrate ls` shows it
        id: u64,
        /// What to change
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
}

/// How much is compared.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum VerifyArg {
    /// Nothing.
    None,
    /// Some keys.
    Sample,
    /// All keys.
    Full,
}

pub(super) async fn run(command: MigrateCommand, remote: &Remote) -> Result<(), CliError> {
    let look = "pontoon migrate ls";
    let reply = match command {
        MigrateCommand::Ls => return list(remote).await,
        MigrateCommand::Show { id } => return show(remote, id).await,
        MigrateCommand::Watch { id } => return watch::run(remote, id).await,
        MigrateCommand::Start { slots, to, verify, wipe, keys_per_second, bytes_per_second, hold_max } => {
            let hold_ms_max = hold_max.map_or(0, millis);
            let wanted = StartMigrationRequest {
                product: remote.common.product.clone(),
                slots: parse_spans(&slots).map_err(CliError::Usage)?,
                to,
                verify: match verify {
                    VerifyArg::None => "none".into(),
                    VerifyArg::Sample => "sample".into(),
                    VerifyArg::Full => "full".into(),
                },
                wipe,
                limits: Some(MigrationLimits { keys_per_second, bytes_per_second, hold_ms_max }),
                options: None,
            };
            let call = |mut c: Client, options| {
                let request = StartMigrationRequest { options: Some(options), ..wanted.clone() };
                async move { c.start_migration(request).await }
            };
            remote.change(look, call).await?
        }
        MigrateCommand::Cancel { id } => {
            let call = |mut c: Client, options| async move {
                c.cancel_migration(CancelMigrationRequest { id, options: Some(options) }).await
            };
            remote.change(look, call).await?
        }
        MigrateCommand::Pause { id } => {
            let call = |mut c: Client, options| async move {
                c.pause_migration(PauseMigrationRequest { id, options: Some(options) }).await
            };
            remote.change(look, call).await?
        }
        MigrateCommand::Resume { id } => {
            let call = |mut c: Client, options| async move {
                c.resume_migration(ResumeMigrationRequest { id, options: Some(options) }).await
            };
            remote.change(look, call).await?
        }
        MigrateCommand::Set { id, settings } => {
            let wanted = parse(id, &settings).map_err(CliError::Usage)?;
            let call = |mut c: Client, options| {
                let request = SetMigrationRequest { options: Some(options), ..wanted };
                async move { c.set_migration(request).await }
            };
            remote.change(look, call).await?
        }
    };
    output::changed(remote, &reply)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn parse(id: u64, settings: &[String]) -> Result<SetMigrationRequest, String> {
    let mut wanted = SetMigrationRequest { id, ..SetMigrationRequest::default() };
    let number = |key: &str, value: &str| {
        value.parse::<u64>().map_err(|_| format!("{key}: a number is expected (0: no limit), not '{value}'"))
    };
    for setting in settings {
        let (key, value) = setting::split(setting)?;
        match key {
            "keys-per-second" => wanted.keys_per_second = Some(number(key, value)?),
            "bytes-per-second" => wanted.bytes_per_second = Some(number(key, value)?),
            "hold-max" if value == "0" => wanted.hold_ms_max = Some(0),
            "hold-max" => {
                wanted.hold_ms_max = Some(millis(duration::parse(value).map_err(|e| format!("hold-max: {e}"))?));
            }
            _ => {
                return Err(format!(
                    "'{key}' is no setting of a migration; there are keys-per-second, bytes-per-second and hold-max"
                ));
            }
        }
    }
    Ok(wanted)
}

/// Of the product, or these of whatever product.
async fn fetch(remote: &Remote, ids: Vec<u64>) -> Result<ListMigrationsReply, CliError> {
    let call = |mut c: Client| {
        let product = if ids.is_empty() { remote.common.product.clone() } else { String::new() };
        let request = ListMigrationsRequest { product, ids: ids.clone() };
        async move { c.list_migrations(request).await }
    };
    remote.read(call).await
}

async fn one(remote: &Remote, id: u64) -> Result<(Migration, String), CliError> {
    let reply = fetch(remote, vec![id]).await?;
    let missing = || {
        CliError::Failed(format!("there is no migration {id}, or it ended long ago; `pontoon migrate ls` shows them"))
    };
    let found = reply.migrations.into_iter().find(|m| m.id == id).ok_or_else(missing)?;
    Ok((found, reply.without_live))
}

async fn list(remote: &Remote) -> Result<(), CliError> {
    let reply = fetch(remote, Vec::new()).await?;
    if remote.json() {
        output::print_json(&Value::Array(reply.migrations.iter().map(to_json).collect()));
        return Ok(());
    }
    let row = |m: &Migration| {
        let ended = is_over(m);
        vec![
            m.id.to_string(),
            m.state.clone(),
            m.from.to_string(),
            m.to.to_string(),
            m.slots.clone(),
            m.attempt.to_string(),
            progress(m),
            output::size(m.bytes_copied),
            if m.keys_per_second == 0 { String::new() } else { format!("{}/s", m.keys_per_second) },
            eta(m),
            if ended || m.waiting_on.is_empty() { m.why.clone() } else { m.waiting_on.clone() },
        ]
    };
    let rows: Vec<_> = reply.migrations.iter().map(row).collect();
    let headings =
        ["migration", "state", "from", "to", "slots", "attempt", "keys", "bytes", "rate", "eta", "waits for, or why"];
    output::print_text(&output::table(&headings, &rows));
    warn(&reply.without_live);
    Ok(())
}

async fn show(remote: &Remote, id: u64) -> Result<(), CliError> {
    let (migration, without_live) = one(remote, id).await?;
    if remote.json() {
        output::print_json(&to_json(&migration));
    } else {
        output::print_text(&to_text(&migration));
        warn(&without_live);
    }
    Ok(())
}

fn warn(without_live: &str) {
    if !without_live.is_empty() {
        eprintln!("warning: without the newest numbers: {without_live}");
    }
}

/// Whether nothing happens to it any more.
fn is_over(m: &Migration) -> bool {
    matches!(m.state.as_str(), "done" | "cancelled")
}

/// `5000 of 20000`, or what is known of it.
fn progress(m: &Migration) -> String {
    if m.keys_total > m.keys_copied {
        format!("{} of {}", m.keys_copied, m.keys_total)
    } else {
        m.keys_copied.to_string()
    }
}

fn eta(m: &Migration) -> String {
    match u64::try_from(m.eta_ms) {
        Err(_) => String::new(),
        Ok(ms) => span(Duration::from_millis(ms)),
    }
}

/// About how long: `8 s`, `3 min`, `1 h 20 min`.
fn span(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..=99 => format!("{s} s"),
        s @ 100..=5999 => format!("{} min", s.div_ceil(60)),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

fn to_json(m: &Migration) -> Value {
    let limits = m.limits.unwrap_or_default();
    json!({
        "id": m.id,
        "product": m.product,
        "from": m.from,
        "to": m.to,
        "slots": m.slots,
        "slot_count": m.slot_count,
        "state": m.state,
        "attempt": m.attempt,
        "runs": m.runs,
        "releases": m.releases,
        "keys_copied": m.keys_copied,
        "bytes_copied": m.bytes_copied,
        "keys_scanned": m.keys_scanned,
        "keys_refetched": m.keys_refetched,
        "keys_deleted": m.keys_deleted,
        "keys_total": (m.keys_total > 0).then_some(m.keys_total),
        "dirty": m.dirty,
        "keys_per_second": m.keys_per_second,
        "lag_bytes": m.lag_bytes,
        "queue_ms": m.queue_ms,
        "eta_ms": (m.eta_ms >= 0).then_some(m.eta_ms),
        "waiting_on": m.waiting_on,
        "why": m.why,
        "write_contended": m.write_contended,
        "node": (m.node != 0).then_some(m.node),
        "feed": (!m.feed.is_empty()).then_some(&m.feed),
        "server": (!m.server.is_empty()).then_some(&m.server),
        // Options are known of those that have not ended.
        "verify": (!m.verify.is_empty()).then_some(&m.verify),
        "verified": m.verified.map(|v| json!({"keys": v.keys, "different": v.different})),
        "wipe": m.wipe,
        "limits": {
            "keys_per_second": limits.keys_per_second,
            "bytes_per_second": limits.bytes_per_second,
            "hold_ms_max": limits.hold_ms_max,
        },
        "planned_ms": m.planned_ms,
        "changed_ms": m.changed_ms,
    })
}

fn attempts(m: &Migration) -> String {
    if is_over(m) {
        return m.attempt.to_string();
    }
    format!("{} ({} runs, {} holds without a switch)", m.attempt, m.runs, m.releases)
}

fn to_text(m: &Migration) -> String {
    let mut lines = vec![
        ("migration", m.id.to_string()),
        ("product", m.product.clone()),
        ("slots", format!("{} ({})", m.slots, m.slot_count)),
        ("from, to", format!("group {}, group {}", m.from, m.to)),
        ("state", format!("{} since {}", m.state, output::utc(m.changed_ms))),
        ("planned", output::utc(m.planned_ms)),
        ("attempt", attempts(m)),
        ("copied", format!("{} keys, {}", progress(m), output::size(m.bytes_copied))),
        ("copied again", format!("{} keys, {} are dirty now", m.keys_refetched, m.dirty)),
        ("deleted", format!("{} keys", m.keys_deleted)),
    ];
    if let Some(found) = m.verified {
        lines.push(("compared", format!("{} keys, {} differ", found.keys, found.different)));
    } else if !m.verify.is_empty() && m.verify != "none" {
        lines.push(("compared", format!("nothing yet; to be: {}", m.verify)));
    }
    if m.keys_per_second > 0 {
        let eta = eta(m);
        let eta = if eta.is_empty() { String::new() } else { format!(", about {eta} left") };
        lines.push(("rate", format!("{} keys/s{eta}", m.keys_per_second)));
    }
    if m.lag_bytes > 0 || m.queue_ms > 0 {
        lines.push(("behind", format!("{} of changes, {} ms of copying", output::size(m.lag_bytes), m.queue_ms)));
    }
    if m.node != 0 {
        let feed = if m.feed.is_empty() { String::new() } else { format!(" from {}", m.feed) };
        lines.push(("node", format!("node {},{feed} at {}", m.node, m.server)));
    }
    let limits = m.limits.unwrap_or_default();
    for (name, limit) in [("keys/s at most", limits.keys_per_second), ("bytes/s at most", limits.bytes_per_second)] {
        if limit > 0 {
            lines.push((name, limit.to_string()));
        }
    }
    if limits.hold_ms_max > 0 {
        lines.push(("hold-max", format!("{} ms", limits.hold_ms_max)));
    }
    if !m.write_contended.is_empty() {
        lines.push(("never clean", m.write_contended.join(", ")));
    }
    if !m.waiting_on.is_empty() {
        lines.push(("waits for", m.waiting_on.clone()));
    }
    if !m.why.is_empty() {
        lines.push(("last reason", m.why.clone()));
    }
    lines.into_iter().map(|(name, value)| format!("{name:15} {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings() {
        let all = ["keys-per-second=1000".to_owned(), "bytes-per-second=0".into(), "hold-max=300ms".into()];
        let wanted = parse(17, &all).unwrap();
        assert_eq!((wanted.id, wanted.keys_per_second, wanted.bytes_per_second), (17, Some(1000), Some(0)));
        assert_eq!(wanted.hold_ms_max, Some(300));
        assert_eq!(parse(17, &["hold-max=0".into()]).unwrap().hold_ms_max, Some(0));
        for (bad, part) in [
            ("keys-per-second=fast", "a number is expected"),
            ("hold-max=soon", "hold-max"),
            ("speed=1", "no setting of a migration"),
            ("speed", "KEY=VALUE"),
        ] {
            let refused = parse(17, &[bad.into()]).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn json_and_text_have_what_programs_and_people_need() {
        let m = Migration {
            id: 17,
            state: "copying".into(),
            from: 1,
            to: 2,
            slots: "0-255".into(),
            attempt: 1,
            keys_copied: 50,
            keys_total: 200,
            keys_per_second: 10,
            eta_ms: 15_000,
            node: 3,
            feed: "a:1".into(),
            server: "b:2".into(),
            waiting_on: "the latency of b:2".into(),
            ..Migration::default()
        };
        let json = to_json(&m);
        for (key, value) in [("id", json!(17)), ("state", json!("copying")), ("keys_copied", json!(50))] {
            assert_eq!(json[key], value);
        }
        assert_eq!((&json["from"], &json["to"], &json["slots"]), (&json!(1), &json!(2), &json!("0-255")));
        let text = to_text(&m);
        for part in ["50 of 200 keys", "about 15 s left", "node 3, from a:1 at b:2", "the latency of b:2"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let ended = Migration { eta_ms: -1, state: "done".into(), ..Migration::default() };
        assert!(to_json(&ended)["eta_ms"].is_null() && to_json(&ended)["node"].is_null());
    }

    #[test]
    fn spans_of_time() {
        for (s, text) in [(0, "0 s"), (99, "99 s"), (100, "2 min"), (3600, "60 min"), (7260, "2 h 1 min")] {
            assert_eq!(span(Duration::from_secs(s)), text);
        }
    }
}
