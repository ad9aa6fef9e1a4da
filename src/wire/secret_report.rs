//! What nodes tell each other of their cluster secrets, to messages and back.
//! Knows nothing of the secrets.

use super::pb::node as pb;
use crate::model::cluster_secret::{SecretReport, SecretTag, SecretTags};

/// Characters of the reason for a refused file that are kept: a sentence and a path.
const REFUSED_MAX: usize = 500;

/// Tags, to send them.
#[must_use]
pub fn tags_to(tags: &SecretTags) -> pb::SecretTags {
    let bytes = |tag: SecretTag| bytes::Bytes::copy_from_slice(tag.bytes());
    pb::SecretTags { sent: bytes(tags.sent), other: tags.other.map(bytes).unwrap_or_default() }
}

/// Tags that were received.
///
/// # Errors
/// A tag has another length than 16 bytes.
pub fn tags_from(tags: &pb::SecretTags) -> Result<SecretTags, String> {
    let tag = |bytes: &[u8]| bytes.try_into().map(SecretTag::new).map_err(|_| "the tag of a secret has 16 bytes");
    let other = (!tags.other.is_empty()).then(|| tag(&tags.other)).transpose()?;
    Ok(SecretTags { sent: tag(&tags.sent)?, other })
}

/// A report, to send it.
#[must_use]
pub fn to_wire(report: SecretReport) -> pb::SecretReport {
    pb::SecretReport {
        tags: report.tags.as_ref().map(tags_to),
        age_ms: report.age_ms,
        refused: report.refused.unwrap_or_default(),
    }
}

/// A report that was received.
///
/// # Errors
/// As [`tags_from`].
pub fn from_wire(report: &pb::SecretReport) -> Result<SecretReport, String> {
    Ok(SecretReport {
        tags: report.tags.as_ref().map(tags_from).transpose()?,
        age_ms: report.age_ms,
        refused: (!report.refused.is_empty()).then(|| report.refused.chars().take(REFUSED_MAX).collect()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reports_arrive_as_they_were_sent_and_wrong_ones_are_refused() {
        let tag = |n| SecretTag::new([n; SecretTag::LEN]);
        let one = SecretTags { sent: tag(1), other: None };
        let two = SecretTags { sent: tag(1), other: Some(tag(2)) };
        for report in [
            SecretReport::default(),
            SecretReport { tags: Some(one), age_ms: 5, refused: None },
            SecretReport { tags: Some(two), age_ms: 0, refused: Some("mode 0644".into()) },
        ] {
            assert_eq!(from_wire(&to_wire(report.clone())).unwrap(), report);
        }
        let wrong = pb::SecretTags { sent: vec![1; 15].into(), ..tags_to(&one) };
        assert!(tags_from(&wrong).is_err() && tags_from(&pb::SecretTags::default()).is_err());
        assert!(tags_from(&pb::SecretTags { other: vec![1; 17].into(), ..tags_to(&two) }).is_err());
        let long = pb::SecretReport { refused: "x".repeat(5000), ..to_wire(SecretReport::default()) };
        assert_eq!(from_wire(&long).unwrap().refused.unwrap().len(), REFUSED_MAX);
        assert!(!format!("{:?}", tags_to(&two)).contains('2'));
    }
}
