//! Every sentence about what a promotion waits for says what ends it: a table of all of them. `World::decide` looks up each
//! that occurs in any test of this folder, so a new one needs a row here.

use pontoon::plan::waiting::Wait;

/// How the sentence begins, and what ends it.
const WAITS: &[(&str, &str)] = &[
    ("hold 6 is open, and not all nodes hold: node 2 has not acked", "all nodes hold, or after "),
    ("127.0.0.1:7002 does not have everything yet that other replicas have: ", "it has, or within a second it has not"),
    ("127.0.0.1:7002 has not become a primary yet: ", "it has, or 10 s after the hold began: then the hold ends"),
    ("127.0.0.1:7002 does not have the last writes of 127.0.0.1:7001 yet: ", "it has, or 250 ms after the hold began"),
    (
        "it is not known whether 127.0.0.1:7002 has become a primary: ",
        "it answers, or within 2 s: then the switchover is given up",
    ),
    ("the last attempt failed: ", "an attempt succeeds; "),
];

/// Looks up a sentence.
#[track_caller]
pub fn check(wait: &Wait) {
    let text = wait.text();
    let row = WAITS.iter().find(|(what, _)| text.starts_with(what));
    let (_, ends) = row.unwrap_or_else(|| panic!("no row: {text}"));
    assert!(wait.ends_when().starts_with(ends), "wanted '{ends}': {text}");
}
