//! Whether a node may take over its secret file while it runs: no call between nodes may be refused because of it.
//! Knows nothing of files and calls.

use std::{fmt::Write, time::Duration};

use crate::model::{
    change::{NodeNote, NoteNode},
    cluster_secret::{SecretReport, SecretTags},
    ids::NodeId,
};

/// How long a call that has begun may take to arrive: a connection takes up to 2 s, and is waited for. So a node that has
/// changed what it sends is not refused before this time has passed, since calls with the former secret may be on their way.
const UNDER_WAY_MAX: Duration = Duration::from_secs(3);

/// What another node says about the secrets that a node is about to take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAnswer {
    /// It accepts what this node will send.
    pub accepts: bool,
    /// This node will accept what it sends.
    pub accepted: bool,
    /// For how long it has had its secrets, milliseconds.
    pub age_ms: u64,
}

impl PeerAnswer {
    /// The answer of a node with the secrets of `own` to one that is about to take over `theirs`; `None`: it has none.
    #[must_use]
    pub fn to(theirs: &SecretTags, own: &SecretReport) -> Option<Self> {
        let tags = own.tags?;
        let (accepts, accepted) = (tags.accepts(theirs.sent), theirs.accepts(tags.sent));
        Some(Self { accepts, accepted, age_ms: own.age_ms })
    }
}

/// The event about a node that has other cluster secrets than before, in words: an event has no tags. `None`: a node without
/// secrets, or the same ones.
#[must_use]
pub fn note(node: NodeId, before: Option<SecretTags>, after: Option<SecretTags>) -> Option<NoteNode> {
    let (was, is) = (before?, after?);
    if was == is {
        return None;
    }
    let accepts = |tags: &SecretTags| if tags.other.is_some() { "two secrets" } else { "one secret" };
    let added = [Some(is.sent), is.other].into_iter().flatten().filter(|tag| !was.accepts(*tag)).count();
    let dropped = [Some(was.sent), was.other].into_iter().flatten().filter(|tag| !is.accepts(*tag)).count();
    let sends = if was.sent == is.sent { "the same" } else { "another one" };
    let text = format!(
        "it accepts {} instead of {}: {added} new, {dropped} dropped; it sends {sends}",
        accepts(&is),
        accepts(&was)
    );
    let (before, after) = (format!("accepts={}", was.accepted()), format!("accepts={} sends={sends}", is.accepted()));
    Some(NoteNode { node, note: NodeNote::SecretsSet, text, before, after })
}

/// When a node that has `now` may take over `next`: after this time, given the answers of the other nodes. Nodes that do
/// not answer do not count: one that is dead must not keep the others from going on.
///
/// # Errors
/// It must not. Returns which calls would be refused and what to do first, as text for the operator.
pub fn may_take_over(
    now: &SecretTags,
    next: &SecretTags,
    answers: &[(NodeId, PeerAnswer)],
) -> Result<Duration, String> {
    let named = |is: fn(&PeerAnswer) -> bool| {
        let found: Vec<String> = answers.iter().filter(|(_, a)| is(a)).map(|(id, _)| id.to_string()).collect();
        (!found.is_empty()).then(|| format!("node{} {}", if found.len() == 1 { "" } else { "s" }, found.join(", ")))
    };
    let mut why = String::new();
    if let Some(nodes) = named(|answer| !answer.accepts) {
        let _ = write!(
            why,
            "its first line is a secret that is not accepted yet by {nodes}: let it be the second line until every node \
             has it"
        );
    }
    if let Some(nodes) = named(|answer| !answer.accepted) {
        let and = if why.is_empty() { "" } else { "; " };
        let _ = write!(
            why,
            "{and}it lacks the secret that is still sent by {nodes}: keep that one as the second line until every node has \
             the new one as the first"
        );
    }
    if !why.is_empty() {
        return Err(why);
    }
    let youngest = answers.iter().map(|(_, answer)| Duration::from_millis(answer.age_ms)).min();
    match youngest {
        Some(age) if !next.accepts_all(now) => Ok(UNDER_WAY_MAX.saturating_sub(age)),
        _ => Ok(Duration::ZERO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cluster_secret::SecretTag;

    const fn tag(n: u8) -> SecretTag {
        SecretTag::new([n; SecretTag::LEN])
    }

    const OLD: SecretTags = SecretTags { sent: tag(1), other: None };
    const BOTH: SecretTags = SecretTags { sent: tag(1), other: Some(tag(2)) };
    const TURNED: SecretTags = SecretTags { sent: tag(2), other: Some(tag(1)) };
    const NEW: SecretTags = SecretTags { sent: tag(2), other: None };

    fn asked(now: SecretTags, next: SecretTags, peers: [SecretTags; 2]) -> Result<Duration, String> {
        let report = |tags| SecretReport { tags: Some(tags), age_ms: 1000, refused: None };
        let answers: Vec<_> =
            (2..).map(NodeId).zip(peers.iter().filter_map(|peer| PeerAnswer::to(&next, &report(*peer)))).collect();
        may_take_over(&now, &next, &answers)
    }

    #[test]
    fn each_step_is_allowed_when_the_others_have_done_the_one_before() {
        let (at_once, later) = (Ok(Duration::ZERO), Ok(Duration::from_secs(2)));
        for (now, next, expected) in [(OLD, BOTH, &at_once), (BOTH, TURNED, &at_once), (TURNED, NEW, &later)] {
            for peers in [[now, now], [now, next], [next, next]] {
                assert_eq!(&asked(now, next, peers), expected, "{peers:?}");
            }
        }
        // And back.
        for (now, next, expected) in [(NEW, TURNED, &at_once), (TURNED, BOTH, &at_once), (BOTH, OLD, &later)] {
            assert_eq!(&asked(now, next, [now, next]), expected);
        }
    }

    #[test]
    fn a_step_that_would_cut_a_node_off_is_refused_with_its_name() {
        let refused = |now, next, peers| asked(now, next, peers).expect_err("it cuts a node off");
        // The nodes do not accept the new one yet.
        for (now, next, peers, part) in [
            (BOTH, TURNED, [BOTH, OLD], "not accepted yet by node 3:"),
            (OLD, TURNED, [OLD, OLD], "not accepted yet by nodes 2, 3:"),
            (TURNED, NEW, [TURNED, BOTH], "still sent by node 3:"),
            (BOTH, NEW, [BOTH, TURNED], "still sent by node 2:"),
        ] {
            let why = refused(now, next, peers);
            assert!(why.contains(part) && !why.contains(';'), "{why}");
        }
        let why = refused(OLD, NEW, [OLD, BOTH]);
        assert!(why.contains("not accepted yet by node 2:") && why.contains("still sent by nodes 2, 3:"), "{why}");
    }

    #[test]
    fn a_node_that_is_alone_or_gets_no_answer_takes_over_anything() {
        assert_eq!(may_take_over(&OLD, &NEW, &[]), Ok(Duration::ZERO));
        assert_eq!(PeerAnswer::to(&NEW, &SecretReport::default()), None);
    }

    #[test]
    fn an_event_says_in_words_what_a_node_accepts() {
        let tag = |n| crate::model::cluster_secret::SecretTag::new([n; crate::model::cluster_secret::SecretTag::LEN]);
        let tags = |sent, other: Option<u8>| Some(SecretTags { sent: tag(sent), other: other.map(tag) });
        let node = NodeId(2);
        for (before, after) in [(None, tags(1, None)), (tags(1, None), None), (tags(1, Some(2)), tags(1, Some(2)))] {
            assert_eq!(note(node, before, after), None);
        }
        for (before, after, text, values) in [
            (
                tags(1, None),
                tags(1, Some(2)),
                "it accepts two secrets instead of one secret: 1 new, 0 dropped; it sends the same",
                ("accepts=1", "accepts=2 sends=the same"),
            ),
            (
                tags(1, Some(2)),
                tags(2, None),
                "it accepts one secret instead of two secrets: 0 new, 1 dropped; it sends another one",
                ("accepts=2", "accepts=1 sends=another one"),
            ),
        ] {
            let note = note(node, before, after).expect("an event");
            assert_eq!((note.text.as_str(), (note.before.as_str(), note.after.as_str())), (text, values));
        }
    }
}
