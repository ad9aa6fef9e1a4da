//! Migrations as text for people.

use std::time::Duration;

use crate::{
    cli::output,
    wire::pb::admin::{Migration, MigrationState, Verification},
};

/// One migration per line.
pub(super) fn to_table(migrations: &[Migration], all: bool) -> String {
    let row = |m: &Migration| {
        let waits = m.waiting_on.clone().filter(|_| !is_over(m));
        vec![
            m.id.to_string(),
            output::name(m.state()),
            m.from.to_string(),
            m.to.to_string(),
            slots(m, all),
            m.attempt.to_string(),
            progress(m),
            output::size(m.bytes_copied),
            if m.keys_per_second == 0 { String::new() } else { format!("{}/s", m.keys_per_second) },
            eta(m).unwrap_or_default(),
            waits.or_else(|| m.why.clone()).unwrap_or_default(),
        ]
    };
    let headings = [
        "migration",
        "state",
        "from",
        "to",
        "slots",
        "attempt",
        "keys",
        "bytes",
        "rate",
        "eta",
        "waiting on, or reason",
    ];
    output::table(&headings, &migrations.iter().map(row).collect::<Vec<_>>())
}

/// Everything about one migration.
pub(super) fn to_text(m: &Migration, all: bool) -> String {
    let mut lines = vec![
        ("migration", m.id.to_string()),
        ("product", m.product.clone()),
        ("slots", format!("{} ({})", slots(m, all), m.slot_count)),
        ("from, to", format!("group {}, group {}", m.from, m.to)),
        ("state", format!("{} since {}", output::name(m.state()), output::utc(m.changed_at_ms))),
        ("planned", output::utc(m.planned_at_ms)),
        ("attempt", attempts(m)),
    ];
    lines.extend(copied(m));
    lines.extend(run(m));
    lines.extend(limits(m));
    if !m.write_contended_keys.is_empty() {
        lines.push(("write-contended", m.write_contended_keys.join(", ")));
    }
    if let Some(waiting) = &m.waiting_on {
        lines.push(("waiting on", waiting.clone()));
    }
    if let Some(why) = &m.why {
        lines.push(("last reason", why.clone()));
    }
    lines.into_iter().map(|(name, value)| format!("{name:15} {value}\n")).collect()
}

fn slots(m: &Migration, all: bool) -> String {
    if all { m.slots.clone() } else { output::few(&m.slots) }
}

type Line = (&'static str, String);

fn copied(m: &Migration) -> Vec<Line> {
    let mut lines = vec![
        ("copied", format!("{} keys, {}", progress(m), output::size(m.bytes_copied))),
        ("of these again", format!("{} keys that changed meanwhile; {} are dirty now", m.keys_refetched, m.dirty_keys)),
    ];
    if m.keys_deleted > 0 {
        lines.push(("deleted", format!("{} keys at the target, before and while it was filled", m.keys_deleted)));
    }
    if m.keys_cleaned > 0 {
        let place = match m.state() {
            MigrationState::Cancelling | MigrationState::Cancelled => "target, since it was cancelled",
            _ => "source, which no longer has these slots",
        };
        lines.push(("cleaned", format!("{} keys at the {place}", m.keys_cleaned)));
    }
    if let Some(found) = m.verified {
        lines.push(("compared", format!("{} keys, {} differ", found.keys, found.different_keys)));
    } else if matches!(m.verification(), Verification::Sample | Verification::Full) {
        lines.push(("compared", format!("nothing yet; verification: {}", output::name(m.verification()))));
    }
    if m.keys_per_second > 0 {
        let left = eta(m).map_or_else(String::new, |eta| format!(", about {eta} left"));
        lines.push(("rate", format!("{} keys/s{left}", m.keys_per_second)));
    }
    if m.lag_bytes > 0 || m.dirty_keys_ms > 0 {
        let bytes = output::size(m.lag_bytes);
        lines.push(("behind", format!("{bytes} of changes, {} ms of copying dirty keys", m.dirty_keys_ms)));
    }
    lines
}

fn run(m: &Migration) -> Option<Line> {
    let from = m.source_server.as_ref().map_or_else(String::new, |server| format!(", copies from {server}"));
    let to = m.changed_server.as_ref().map_or_else(String::new, |server| format!(", changes {server}"));
    m.node.map(|node| ("run", format!("on node {node}{from}{to}")))
}

fn limits(m: &Migration) -> Vec<Line> {
    let limits = m.limits.unwrap_or_default();
    let all = [
        ("keys/s at most", limits.keys_per_second.to_string()),
        ("bytes/s at most", limits.bytes_per_second.to_string()),
        ("hold-max", format!("{} ms", limits.hold_max_ms)),
    ];
    all.into_iter().filter(|(_, limit)| !limit.starts_with('0')).collect()
}

fn attempts(m: &Migration) -> String {
    if is_over(m) {
        return m.attempt.to_string();
    }
    format!("{} ({} runs, {} holds without a switch)", m.attempt, m.runs, m.releases)
}

/// Whether it has ended.
pub(super) fn is_over(m: &Migration) -> bool {
    matches!(m.state(), MigrationState::Done | MigrationState::Cancelled)
}

/// `5000 of 20000`; only the first number if the total is not known.
pub(super) fn progress(m: &Migration) -> String {
    match m.keys_total {
        Some(total) if total > m.keys_copied => format!("{} of {total}", m.keys_copied),
        _ => m.keys_copied.to_string(),
    }
}

/// About how long the copy still takes, if that is known.
pub(super) fn eta(m: &Migration) -> Option<String> {
    m.eta_ms.map(|ms| span(Duration::from_millis(ms)))
}

/// A rounded time span: `8 s`, `3 min`, `1 h 20 min`.
fn span(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..=99 => format!("{s} s"),
        s @ 100..=5999 => format!("{} min", s.div_ceil(60)),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pb::admin::MigrationLimits;

    #[test]
    fn the_text_has_progress_run_and_limits() {
        let m = Migration {
            id: 17,
            state: MigrationState::Copying.into(),
            from: 1,
            to: 2,
            slots: "0-255".into(),
            attempt: 1,
            keys_copied: 50,
            keys_total: Some(200),
            keys_refetched: 7,
            keys_deleted: 4,
            keys_cleaned: 5,
            keys_per_second: 10,
            eta_ms: Some(15_000),
            node: Some(3),
            source_server: Some("a:1".into()),
            changed_server: Some("b:2".into()),
            waiting_on: Some("the latency of b:2".into()),
            limits: Some(MigrationLimits { keys_per_second: 0, bytes_per_second: 77, hold_max_ms: 0 }),
            ..Migration::default()
        };
        let text = to_text(&m, false);
        for part in [
            "50 of 200 keys",
            "of these again  7 keys",
            "deleted         4 keys at the target",
            "cleaned         5 keys at the source",
            "about 15 s left",
            "on node 3, copies from a:1, changes b:2",
            "the latency of b:2",
            "bytes/s at most 77",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("keys/s at most") && !text.contains("hold-max"), "{text}");
        assert!(to_table(&[m], false).contains("the latency of b:2"));
    }

    #[test]
    fn spans_of_time() {
        for (s, text) in [(0, "0 s"), (99, "99 s"), (100, "2 min"), (3600, "60 min"), (7260, "2 h 1 min")] {
            assert_eq!(span(Duration::from_secs(s)), text);
        }
    }
}
