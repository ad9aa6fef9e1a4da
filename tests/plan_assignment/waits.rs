//! Every sentence about what an assignment waits for says what ends it: a table of all of them. `World::decide` looks up
//! each that occurs in any test of this folder, so a new one needs a row here.

use pontoon::plan::waiting::Wait;

/// How the sentence begins, and what ends it.
const WAITS: &[(&str, &str)] = &[
    ("its slots are searched for keys in group 1", "all was searched, or 1 s have passed for one group"),
    ("its slots are searched for keys in group 2", "all was searched, or 1 s have passed for one group"),
    (
        "127.0.0.1:7001 is emptied before its group gets its slots back",
        "it answers within a second, or this is tried again",
    ),
    ("a hold would be long: node", "it answers, or you remove it; without either for 30 s, it is given up"),
    ("is open, and not all nodes hold: node 2 has not acked", "all nodes hold, or after 0.25 s: then the hold ends"),
    ("the last attempt failed: ", "a pause is over, which doubles each time; after 5 holds it is given up"),
];

/// Looks up a sentence.
#[track_caller]
pub fn check(wait: &Wait) {
    let text = wait.text();
    let row = WAITS.iter().find(|(what, _)| text.contains(what));
    let (_, ends) = row.unwrap_or_else(|| panic!("no row: {text}"));
    assert!(wait.ends_when().starts_with(ends), "wanted '{ends}': {text}");
}
