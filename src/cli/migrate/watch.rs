//! `pontoon migrate watch`: migrations to their end, drawn again and again on a terminal, a line per step elsewhere.
//! Knows nothing of how they go on.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{eta, fetch, is_over, one, progress, to_json};
use crate::{
    cli::{Remote, error::CliError, output},
    wire::pb::admin::Migration,
};

/// Between two looks: a person sees it move, a node hardly notices.
const POLL: Duration = Duration::from_millis(500);
/// Where nothing can be drawn anew, progress without a step is told this often.
const TELL: Duration = Duration::from_secs(10);
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
                // Those that began meanwhile are watched too; one that was seen is watched to its end.
                all.retain(|m| !is_over(m) || watched.contains(&m.id));
                watched = all.iter().map(|m| m.id).collect();
                all
            }
        };
        screen.show(&now);
        if now.iter().all(|m| is_over(m) || m.state == "paused") {
            return end(&now, id.is_none());
        }
        if let Some(deadline) = deadline.filter(|deadline| Instant::now() + POLL >= *deadline) {
            tokio::time::sleep(deadline.saturating_duration_since(Instant::now())).await;
            return Err(CliError::Made("not over yet; it goes on, watched or not".into()));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// All that were watched are over or wait for somebody.
fn end(all: &[Migration], of_product: bool) -> Result<(), CliError> {
    if all.is_empty() && of_product {
        output::print_text("no migration runs or waits; `pontoon migrate ls` shows those that ended\n");
    }
    let unhappy = |m: &&Migration| m.state != "done";
    let Some(m) = all.iter().find(unhappy) else { return Ok(()) };
    Err(CliError::Failed(match m.state.as_str() {
        "paused" => {
            format!("migration {} is paused: {}; `pontoon migrate resume {}` lets it go on", m.id, m.why, m.id)
        }
        _ => format!("migration {} was cancelled: {}", m.id, m.why),
    }))
}

/// Where it is drawn.
struct Screen {
    json: bool,
    terminal: bool,
    /// Lines that the next picture replaces.
    drawn: usize,
    /// What was told of each, and when: state and attempt.
    told: BTreeMap<u64, (String, u32, Instant)>,
    /// The JSON that was written last.
    last: Option<String>,
}

impl Screen {
    const fn new(json: bool, terminal: bool) -> Self {
        Self { json, terminal, drawn: 0, told: BTreeMap::new(), last: None }
    }

    fn show(&mut self, all: &[Migration]) {
        output::print_text(&self.picture(all, Instant::now()));
    }

    fn picture(&mut self, all: &[Migration], now: Instant) -> String {
        if self.json {
            let text = Value::Array(all.iter().map(to_json).collect()).to_string() + "\n";
            if self.last.as_ref() == Some(&text) {
                return String::new();
            }
            self.last = Some(text.clone());
            return text;
        }
        if !self.terminal {
            return all.iter().filter(|m| self.is_news(m, now)).map(|m| line(m) + "\n").collect();
        }
        // Up to the first line of the last picture, and everything below it away.
        let mut out = if self.drawn == 0 { String::new() } else { format!("\x1b[{}A\x1b[J", self.drawn) };
        self.drawn = 0;
        for m in all {
            out += &line(m);
            out += "\n";
            self.drawn += 1;
            if !is_over(m) && !m.waiting_on.is_empty() {
                out += &format!("    {}\n", m.waiting_on);
                self.drawn += 1;
            }
        }
        out
    }

    fn is_news(&mut self, m: &Migration, now: Instant) -> bool {
        let step = (m.state.clone(), m.attempt);
        if let Some((state, attempt, at)) = self.told.get(&m.id)
            && (*state == step.0 && *attempt == step.1)
            && now.duration_since(*at) < TELL
        {
            return false;
        }
        self.told.insert(m.id, (step.0, step.1, now));
        true
    }
}

/// `migration 17  1 -> 2  [#####.....]  41 %  copying  820000 of 2000000 keys  205000/s  6 s left`
fn line(m: &Migration) -> String {
    let (bar, percent) = bar(share(m));
    let mut line = format!("migration {}  {} -> {}  {bar} {percent:>3} %  {}", m.id, m.from, m.to, m.state);
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
    if m.dirty > 0 {
        line += &format!("  {} dirty", m.dirty);
    }
    if m.lag_bytes > 0 {
        line += &format!("  {} behind", output::size(m.lag_bytes));
    }
    let eta = eta(m);
    if eta.is_empty() { line } else { line + &format!("  {eta} left") }
}

/// How much of the copy is done, 0 to 1.
fn share(m: &Migration) -> f64 {
    match m.state.as_str() {
        "caught-up" | "held" | "switched" | "done" => 1.0,
        "copying" if m.keys_total > 0 => (m.keys_copied as f64 / m.keys_total as f64).min(1.0),
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

    fn at(state: &str, keys_copied: u64) -> Migration {
        let state = state.to_owned();
        Migration { id: 17, from: 1, to: 2, state, keys_copied, keys_total: 200, eta_ms: 6000, ..Migration::default() }
    }

    #[test]
    fn a_line_has_a_bar_and_the_time_left() {
        let text = line(&at("copying", 100));
        assert!(text.contains(&format!("[{}{}]  50 %", "#".repeat(15), ".".repeat(15))), "{text}");
        assert!(text.contains("100 of 200 keys") && text.contains("6 s left"), "{text}");
        assert!(line(&at("done", 300)).contains("100 %"));
        assert!(line(&at("planned", 0)).contains("  0 %"));
        // More than was estimated.
        assert!(line(&at("copying", 300)).contains("100 %"));
    }

    #[test]
    fn without_a_terminal_only_news_is_told() {
        let mut screen = Screen::new(false, false);
        let now = Instant::now();
        assert_eq!(screen.picture(&[at("copying", 1)], now).lines().count(), 1);
        assert_eq!(screen.picture(&[at("copying", 2)], now), "");
        assert_eq!(screen.picture(&[at("copying", 3)], now + TELL).lines().count(), 1);
        assert_eq!(screen.picture(&[at("held", 3)], now + TELL).lines().count(), 1);
    }

    #[test]
    fn on_a_terminal_the_picture_is_replaced() {
        let mut screen = Screen::new(false, true);
        let waits = Migration { waiting_on: "a silent node".into(), ..at("caught-up", 200) };
        let now = Instant::now();
        assert!(!screen.picture(&[waits, at("copying", 1)], now).contains('\x1b'));
        assert!(screen.picture(&[at("done", 200)], now).starts_with("\x1b[3A\x1b[J"));
        assert!(screen.picture(&[at("done", 200)], now).starts_with("\x1b[1A\x1b[J"));
    }

    #[test]
    fn the_end_tells_what_went_wrong() {
        assert_eq!(end(&[at("done", 1)], false), Ok(()));
        assert!(
            matches!(end(&[at("done", 1), at("paused", 1)], true), Err(CliError::Failed(why)) if why.contains("resume 17"))
        );
        assert!(
            matches!(end(&[at("cancelled", 1)], false), Err(CliError::Failed(why)) if why.contains("was cancelled"))
        );
    }
}
