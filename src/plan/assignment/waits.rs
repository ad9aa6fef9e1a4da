//! What an assignment waits for. (The wait for a barrier is in `plan::lease`.)

use super::{AssignmentStep, PREFLIGHT_MAX_NS};
use crate::plan::{
    timing::{Timing, as_ns},
    waiting::{Wait, seconds},
};

impl AssignmentStep {
    /// What the assignment waits for while this step is carried out; `None`: it takes a moment.
    #[must_use]
    pub fn wait(&self, timing: Timing) -> Option<Wait> {
        match self {
            Self::Wait { wait, .. } => Some(wait.clone()),
            Self::Scan(searches) => {
                let groups: Vec<String> = searches.iter().map(|(group, _)| group.to_string()).collect();
                let max = seconds(as_ns(timing.scan_max));
                Some(Wait::new(
                    format!("its slots are searched for keys in group {}", groups.join(", ")),
                    format!("all was searched, or {max} s have passed for one group: then it is given up"),
                ))
            }
            Self::EmptyPrimary(primary) | Self::CheckPrimary(primary) => Some(Wait::new(
                format!("{} is emptied before its group gets its slots back", primary.server),
                "it answers within a second, or this is tried again later",
            )),
            Self::Preflight { .. } | Self::Propose(_) | Self::Over => None,
        }
    }
}

/// An attempt begins at once.
pub(super) fn next_attempt() -> Wait {
    Wait::new("the next attempt", "it begins, within a second")
}

/// Nodes do not answer a preflight.
pub(super) fn silent(why: &str) -> Wait {
    let max = seconds(PREFLIGHT_MAX_NS);
    let ends_when = format!("it answers, or you remove it; without either for {max} s, it is given up");
    Wait::new("a hold would be long", ends_when).with_detail(format!(": {why}"))
}

/// The pause after an attempt.
pub(super) fn failed(why: &str, attempts_max: u32) -> Wait {
    let ends_when = format!("a pause is over, which doubles each time; after {attempts_max} holds it is given up");
    Wait::new("the last attempt failed", ends_when).with_detail(format!(": {why}"))
}
