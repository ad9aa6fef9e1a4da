//! What nodes tell each other of their cluster secrets, so that it can be replaced while they run. Never a secret itself.
//! Knows nothing of files and calls.

use std::fmt;

/// Identifies a cluster secret, like a fingerprint. Nodes send it to each other only, beside the secret itself. It is not
/// for people: a secret that can be guessed could be guessed by it without asking a node. `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretTag([u8; Self::LEN]);

impl SecretTag {
    /// Length in bytes: no two secrets have the same by accident.
    pub const LEN: usize = 16;

    /// A tag.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for SecretTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The tags of what a secret file contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretTags {
    /// Of the secret that calls carry.
    pub sent: SecretTag,
    /// Of the other secret, which is accepted too.
    pub other: Option<SecretTag>,
}

impl SecretTags {
    /// Whether calls with this secret are accepted.
    #[must_use]
    pub fn accepts(&self, tag: SecretTag) -> bool {
        self.sent == tag || self.other == Some(tag)
    }

    /// Whether calls with each of `others` are accepted.
    #[must_use]
    pub fn accepts_all(&self, others: &Self) -> bool {
        self.accepts(others.sent) && others.other.is_none_or(|other| self.accepts(other))
    }

    /// How many secrets are accepted: 1 or 2.
    #[must_use]
    pub const fn accepted(&self) -> u32 {
        if self.other.is_some() { 2 } else { 1 }
    }
}

/// What a node reports of its cluster secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretReport {
    /// What it sends and accepts; `None`: there is no cluster secret.
    pub tags: Option<SecretTags>,
    /// For how long it has had these, milliseconds.
    pub age_ms: u64,
    /// Why it did not take over its secret file when it last read it, for people; `None`: it did.
    pub refused: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_and_that_no_tag_is_shown() {
        let tag = |n| SecretTag::new([n; SecretTag::LEN]);
        let one = SecretTags { sent: tag(0xab), other: None };
        let two = SecretTags { sent: tag(1), other: Some(tag(0xab)) };
        assert!(two.accepts(tag(1)) && two.accepts(tag(0xab)) && !two.accepts(tag(2)));
        assert!(two.accepts_all(&one) && two.accepts_all(&two) && !one.accepts_all(&two));
        assert_eq!((one.accepted(), two.accepted()), (1, 2));
        let shown = format!("{two:?}");
        assert!(shown.contains("***") && !shown.contains("171") && !shown.contains("ab"), "{shown}");
    }
}
