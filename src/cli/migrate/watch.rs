//! `pontoon migrate watch`: follows migrations to their end. On a terminal it redraws a picture; elsewhere it writes a line for
//! each step.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::IsTerminal,
    time::{Duration, Instant},
};

use tokio::signal::ctrl_c;

use super::{
    fetch::{fetch, one},
    view::{eta, is_over, progress},
};
use crate::{
    cli::{
        Remote,
        error::{CliError, ErrorCode, failed},
        output, setting,
    },
    wire::pb::admin::{Migration, MigrationState},
};

/// Pause between two polls: short enough for a person, and a negligible load for a node.
const POLL: Duration = Duration::from_millis(500);
/// Where nothing can be redrawn, a line without a step is written at this interval.
const REPEAT: Duration = Duration::from_secs(10);
/// Width of a bar.
const BAR: usize = 30;

/// Watches one migration, or those of the product that have not ended.
pub(super) async fn run(remote: &Remote, id: Option<u64>) -> Result<(), CliError> {
    let deadline = remote.common.timeout.map(|timeout| Instant::now() + timeout);
    let mut screen = Screen::new(remote.json(), std::io::stdout().is_terminal());
    let mut watched: Vec<u64> = Vec::from_iter(id);
    loop {
        let now = match id {
            Some(id) => vec![one(remote, id).await?.0],
            None => {
                let mut all = fetch(remote, Vec::new()).await?.migrations;
                // Migrations that began meanwhile are watched too, and each is watched to its end.
                all.retain(|m| !is_over(m) || watched.contains(&m.id));
                watched = all.iter().map(|m| m.id).collect();
                all
            }
        };
        screen.show(&now);
        if now.iter().all(|m| is_over(m) || m.state() == MigrationState::Paused) {
            return end(&now, id.is_none() && !remote.json());
        }
        if let Some(deadline) = deadline.filter(|deadline| Instant::now() + POLL >= *deadline) {
            tokio::time::sleep(deadline.saturating_duration_since(Instant::now())).await;
            return Err(CliError::Made("it has not ended yet; it continues without being watched".into()));
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            pressed = ctrl_c() => {
                let ids: Vec<u64> = now.iter().filter(|m| !is_over(m)).map(|m| m.id).collect();
                return Err(pressed.map_or_else(failed, |()| CliError::Made(goes_on(&ids, remote.product()))));
            }
        }
    }
}

/// Shows these migrations, until this is dropped.
pub(crate) async fn show_progress(remote: &Remote, ids: &[u64]) -> Infallible {
    let mut screen = Screen::new(false, std::io::stdout().is_terminal());
    loop {
        // The wait for their end has the deadline and reports errors.
        if let Ok(reply) = fetch(remote, ids.to_vec()).await {
            screen.show(&reply.migrations);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What goes on without being watched, and how to watch or cancel it.
pub(crate) fn goes_on(ids: &[u64], product: &str) -> String {
    let list = |separator: &str| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator);
    let (names, watch) = match ids {
        [id] => (format!("migration {id} goes"), id.to_string()),
        _ => (format!("migrations {} go", list(", ")), String::new()),
    };
    let watch = format!("pontoon migrate watch {watch}{}", setting::product_flag(product).trim_start());
    let cancel = ids.iter().map(|id| format!("pontoon migrate cancel {id}")).collect::<Vec<_>>().join("; ");
    format!("interrupted: {names} on without being watched\nto watch: {}\nto cancel: {cancel}", watch.trim_end())
}

/// The result, when all watched migrations have ended or are paused.
fn end(all: &[Migration], says_none: bool) -> Result<(), CliError> {
    if all.is_empty() && says_none {
        output::print_text("no migration runs or waits; `pontoon migrate ls` shows those that ended\n");
    }
    let not_done = |m: &&Migration| m.state() != MigrationState::Done;
    let Some(m) = all.iter().find(not_done) else { return Ok(()) };
    let why = m.why.as_deref().unwrap_or("no reason is known");
    let text = match m.state() {
        MigrationState::Paused => {
            format!("migration {} is paused: {why}; to resume it: pontoon migrate resume {}", m.id, m.id)
        }
        _ => format!("migration {} was cancelled: {why}", m.id),
    };
    Err(CliError::Refused(ErrorCode::NotDone, text))
}

/// The output, and what is on it.
struct Screen {
    json: bool,
    terminal: bool,
    /// Number of lines that the next picture replaces.
    drawn: usize,
    /// For each migration: state and attempt in its last line, and when that was written.
    written: BTreeMap<u64, (MigrationState, u32, Instant)>,
    /// The JSON that was written last.
    last: Option<String>,
}

impl Screen {
    const fn new(json: bool, terminal: bool) -> Self {
        Self { json, terminal, drawn: 0, written: BTreeMap::new(), last: None }
    }

    fn show(&mut self, all: &[Migration]) {
        output::print_text(&self.picture(all, Instant::now()));
    }

    fn picture(&mut self, all: &[Migration], now: Instant) -> String {
        if self.json {
            let text = serde_json::json!(all).to_string() + "\n";
            if self.last.as_ref() == Some(&text) {
                return String::new();
            }
            self.last = Some(text.clone());
            return text;
        }
        if !self.terminal {
            return all.iter().filter(|m| self.is_news(m, now)).map(|m| line(m) + "\n").collect();
        }
        // Go up to the first line of the last picture, and erase from there.
        let mut out = if self.drawn == 0 { String::new() } else { format!("\x1b[{}A\x1b[J", self.drawn) };
        self.drawn = 0;
        for m in all {
            out += &line(m);
            out += "\n";
            self.drawn += 1;
            if let Some(waiting) = m.waiting_on.as_ref().filter(|_| !is_over(m)) {
                out += &format!("    {waiting}\n");
                self.drawn += 1;
            }
        }
        out
    }

    fn is_news(&mut self, m: &Migration, now: Instant) -> bool {
        let step = (m.state(), m.attempt);
        if let Some((state, attempt, at)) = self.written.get(&m.id)
            && (*state == step.0 && *attempt == step.1)
            && now.duration_since(*at) < REPEAT
        {
            return false;
        }
        self.written.insert(m.id, (step.0, step.1, now));
        true
    }
}

/// `migration 17  1 -> 2  [#####.....]  41 %  copying  820000 of 2000000 keys  205000/s  6 s left`
fn line(m: &Migration) -> String {
    let (bar, percent) = bar(share(m));
    let mut line =
        format!("migration {}  {} -> {}  {bar} {percent:>3} %  {}", m.id, m.from, m.to, output::name(m.state()));
    if m.attempt > 1 {
        line += &format!(" (attempt {})", m.attempt);
    }
    line += &format!("  {} keys", progress(m));
    if is_over(m) {
        return line;
    }
    if m.keys_per_second > 0 {
        line += &format!("  {}/s", m.keys_per_second);
    }
    if m.dirty_keys > 0 {
        line += &format!("  {} dirty", m.dirty_keys);
    }
    if m.lag_bytes > 0 {
        line += &format!("  {} behind", output::size(m.lag_bytes));
    }
    match eta(m) {
        Some(eta) => line + &format!("  {eta} left"),
        None => line,
    }
}

/// How much of the copy is done, 0 to 1.
fn share(m: &Migration) -> f64 {
    match (m.state(), m.keys_total) {
        (MigrationState::CaughtUp | MigrationState::Held | MigrationState::Switched | MigrationState::Done, _) => 1.0,
        (MigrationState::Copying, Some(total)) if total > 0 => (m.keys_copied as f64 / total as f64).min(1.0),
        _ => 0.0,
    }
}

fn bar(share: f64) -> (String, u32) {
    let filled = ((share * BAR as f64) as usize).min(BAR);
    (format!("[{}{}]", "#".repeat(filled), ".".repeat(BAR - filled)), (share * 100.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(state: MigrationState, keys_copied: u64) -> Migration {
        Migration {
            id: 17,
            from: 1,
            to: 2,
            state: state.into(),
            keys_copied,
            keys_total: Some(200),
            eta_ms: Some(6000),
            ..Migration::default()
        }
    }

    #[test]
    fn a_line_has_a_bar_and_the_time_left() {
        let text = line(&at(MigrationState::Copying, 100));
        assert!(text.contains(&format!("[{}{}]  50 %", "#".repeat(15), ".".repeat(15))), "{text}");
        assert!(text.contains("100 of 200 keys") && text.contains("6 s left"), "{text}");
        assert!(line(&at(MigrationState::Done, 300)).contains("100 %"));
        assert!(line(&at(MigrationState::Planned, 0)).contains("  0 %"));
        // More keys than estimated.
        assert!(line(&at(MigrationState::Copying, 300)).contains("100 %"));
    }

    #[test]
    fn who_stops_watching_learns_what_goes_on() {
        let text = goes_on(&[17], "default");
        assert!(
            text.contains("migration 17 goes on") && text.contains("to watch: pontoon migrate watch 17\n"),
            "{text}"
        );
        assert!(text.ends_with("to cancel: pontoon migrate cancel 17"), "{text}");
        let text = goes_on(&[17, 18], "shop");
        assert!(text.contains("migrations 17, 18 go on"), "{text}");
        assert!(text.contains("to watch: pontoon migrate watch --product shop\n"), "{text}");
        assert!(text.ends_with("pontoon migrate cancel 17; pontoon migrate cancel 18"), "{text}");
    }

    #[test]
    fn without_a_terminal_only_news_is_written() {
        let mut screen = Screen::new(false, false);
        let now = Instant::now();
        assert_eq!(screen.picture(&[at(MigrationState::Copying, 1)], now).lines().count(), 1);
        assert_eq!(screen.picture(&[at(MigrationState::Copying, 2)], now), "");
        assert_eq!(screen.picture(&[at(MigrationState::Copying, 3)], now + REPEAT).lines().count(), 1);
        assert_eq!(screen.picture(&[at(MigrationState::Held, 3)], now + REPEAT).lines().count(), 1);
    }

    #[test]
    fn on_a_terminal_the_picture_is_replaced() {
        let mut screen = Screen::new(false, true);
        let waits = Migration { waiting_on: Some("a silent node".into()), ..at(MigrationState::CaughtUp, 200) };
        let now = Instant::now();
        assert!(!screen.picture(&[waits, at(MigrationState::Copying, 1)], now).contains('\x1b'));
        assert!(screen.picture(&[at(MigrationState::Done, 200)], now).starts_with("\x1b[3A\x1b[J"));
        assert!(screen.picture(&[at(MigrationState::Done, 200)], now).starts_with("\x1b[1A\x1b[J"));
    }

    #[test]
    fn the_result_says_what_went_wrong() {
        assert_eq!(end(&[at(MigrationState::Done, 1)], false), Ok(()));
        assert!(
            matches!(end(&[at(MigrationState::Done, 1), at(MigrationState::Paused, 1)], true), Err(CliError::Refused(ErrorCode::NotDone, why)) if why.contains("resume 17"))
        );
        assert!(
            matches!(end(&[at(MigrationState::Cancelled, 1)], false), Err(CliError::Refused(ErrorCode::NotDone, why)) if why.contains("was cancelled"))
        );
    }
}
