//! What a secret file contains: the cluster secret that calls carry, and another one that is accepted too, while the secret
//! is replaced.
//! Knows nothing of where the text comes from.

use sha2::{Digest, Sha256};

use crate::model::{
    cluster_secret::{SecretTag, SecretTags},
    secret::Secret,
};

/// Domain of the hash of which a tag is a part, so that it is of no use elsewhere.
const TAG_DOMAIN: &[u8] = b"pontoon cluster secret\0";

/// One or two cluster secrets. `Debug` never shows them.
#[derive(Clone, Debug)]
pub struct Secrets {
    sent: Secret,
    other: Option<Secret>,
    tags: SecretTags,
}

impl Secrets {
    /// Shortest secret that is accepted, so that it cannot be guessed over the network.
    pub const LEN_MIN: usize = 16;
    /// Longest secret that is accepted: it is in a header of every call.
    pub const LEN_MAX: usize = 512;

    /// Reads a text of one or two lines: the secret that calls carry, and another one.
    ///
    /// # Errors
    /// Returns why the text is not accepted, for the operator: it has no line or more than two, or one that is too short or
    /// too long, is not printable ASCII without spaces, which a header needs, or repeats the first. The error never
    /// contains a secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        let (first, second) = (lines.next().unwrap_or_default(), lines.next());
        if first.is_empty() && second.is_none() {
            return Err("it is empty".into());
        }
        if lines.next().is_some() {
            return Err("it has more than two lines; at most the cluster secret and another one that is accepted \
                        too are expected"
                .into());
        }
        let sent = secret(first).map_err(|why| if second.is_some() { format!("line 1: {why}") } else { why })?;
        let other = second.map(secret).transpose().map_err(|why| format!("line 2: {why}"))?;
        if other.as_ref() == Some(&sent) {
            return Err("line 2 repeats line 1; another secret is expected there, or no line".into());
        }
        let tags = SecretTags { sent: tag(&sent), other: other.as_ref().map(tag) };
        Ok(Self { sent, other, tags })
    }

    /// The secret that calls carry.
    #[must_use]
    pub const fn sent(&self) -> &Secret {
        &self.sent
    }

    /// Which of them was given. The time it takes does not depend on which it is, nor on where they differ.
    #[must_use]
    pub fn which(&self, given: &[u8]) -> Option<Which> {
        let sent = self.sent.matches(given);
        let other = self.other.as_ref().is_some_and(|other| other.matches(given));
        match (sent, other) {
            (true, _) => Some(Which::Sent),
            (false, true) => Some(Which::Other),
            (false, false) => None,
        }
    }

    /// Their tags.
    #[must_use]
    pub const fn tags(&self) -> SecretTags {
        self.tags
    }
}

/// One of the secrets of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that calls of this node carry.
    Sent,
    /// The other one.
    Other,
}

fn secret(line: &str) -> Result<Secret, String> {
    if line.len() < Secrets::LEN_MIN || line.len() > Secrets::LEN_MAX {
        return Err(format!(
            "the cluster secret has {} characters; {} to {} are needed",
            line.len(),
            Secrets::LEN_MIN,
            Secrets::LEN_MAX
        ));
    }
    if !line.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the cluster secret has a character that is a space or not printable ASCII".into());
    }
    Ok(Secret::new(line.to_owned()))
}

fn tag(secret: &Secret) -> SecretTag {
    let hash = Sha256::new().chain_update(TAG_DOMAIN).chain_update(secret.reveal()).finalize();
    let mut bytes = [0; SecretTag::LEN];
    bytes.copy_from_slice(&hash[..SecretTag::LEN]);
    SecretTag::new(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const A: &str = "0123456789abcdef";
    const B: &str = "fedcba9876543210";

    #[test]
    fn one_or_two_lines_are_secrets() {
        for text in [A.to_owned(), format!("{A}\n"), format!("{A}\r\n")] {
            let one = Secrets::parse(&text).unwrap();
            assert_eq!((one.which(A.as_bytes()), one.which(B.as_bytes())), (Some(Which::Sent), None));
            assert_eq!((one.sent().reveal(), one.tags().accepted()), (A, 1));
        }
        for text in [format!("{A}\n{B}"), format!("{A}\n{B}\n"), format!("{A}\r\n{B}\r\n")] {
            let two = Secrets::parse(&text).unwrap();
            assert_eq!((two.which(A.as_bytes()), two.which(B.as_bytes())), (Some(Which::Sent), Some(Which::Other)));
            assert_eq!((two.sent().reveal(), two.tags().accepted()), (A, 2));
            for wrong in ["", "0123456789abcde", "0123456789abcdeg", "0123456789abcdef\nfedcba9876543210"] {
                assert_eq!(two.which(wrong.as_bytes()), None, "{wrong:?}");
            }
        }
    }

    #[test]
    fn other_texts_are_refused_and_not_repeated() {
        let long = "x".repeat(Secrets::LEN_MAX + 1);
        for (text, part) in [
            ("", "it is empty"),
            ("\n", "it is empty"),
            ("\r\n", "it is empty"),
            ("short-secret", "the cluster secret has 12 characters"),
            (&long, "513 characters"),
            ("0123456789abcde f", "a space"),
            ("0123456789abcdef\0", "not printable"),
            ("0123456789abcdef\rfedcba9876543210", "not printable"),
            ("0123456789abcdef\n\n", "line 2: the cluster secret has 0 characters"),
            ("\n0123456789abcdef\n", "line 1: the cluster secret has 0 characters"),
            ("0123456789abcdef\nshort-secret\n", "line 2: the cluster secret has 12"),
            ("0123456789abcdef\n0123456789abcdef\n", "line 2 repeats line 1"),
            ("0123456789abcdef\nfedcba9876543210\n\n", "more than two lines"),
        ] {
            let refused = Secrets::parse(text).unwrap_err();
            assert!(refused.contains(part), "{text:?}: {refused}");
            assert!(!["short-secret", "abcde", "xxx"].iter().any(|told| refused.contains(told)), "{refused}");
        }
    }

    #[test]
    fn tags_tell_secrets_apart_and_nothing_shows_a_secret() {
        let (both, turned) = (format!("{A}\n{B}"), format!("{B}\n{A}"));
        let (both, turned) = (Secrets::parse(&both).unwrap(), Secrets::parse(&turned).unwrap());
        assert_eq!((Some(both.tags().sent), both.tags().other), (turned.tags().other, Some(turned.tags().sent)));
        assert_ne!(both.tags().sent, turned.tags().sent);
        assert!(!format!("{both:?}").contains(A) && !format!("{both:?}").contains(B), "{both:?}");
    }
}
