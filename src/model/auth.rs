//! Who may log in as a client of a product. Credentials have a version, which sessions carry: a session stays only while
//! the version that it logged in with is valid. Knows nothing of sessions.

use super::{ids::Epoch, secret::Credentials};

/// The credentials of a product's clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProductAuth {
    /// `None`: clients need none, and then the port is bound on loopback only.
    pub credentials: Option<Credentials>,
    /// The version of `credentials`: log index of the entry that made them valid, or that removed those before.
    pub version: Epoch,
    /// The credentials before, while they are still valid.
    pub former: Option<FormerCredentials>,
}

/// Credentials that were replaced and are still valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerCredentials {
    /// What clients log in with.
    pub credentials: Credentials,
    /// Their version.
    pub version: Epoch,
}

impl ProductAuth {
    /// Whether clients must log in.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.credentials.is_some()
    }

    /// The version of the credentials that a client gave; `None`: they are not valid. The time it takes does not depend
    /// on where they differ, nor on which of the two valid ones they resemble.
    #[must_use]
    pub fn log_in(&self, username: Option<&[u8]>, password: &[u8]) -> Option<Epoch> {
        let newest = self.credentials.as_ref().is_some_and(|valid| valid.matches(username, password));
        let former = self.former.as_ref().is_some_and(|former| former.credentials.matches(username, password));
        match (newest, &self.former) {
            (true, _) => Some(self.version),
            (false, Some(valid)) if former => Some(valid.version),
            (false, _) => None,
        }
    }

    /// Whether a session that logged in with this version may stay.
    #[must_use]
    pub fn is_valid(&self, version: Epoch) -> bool {
        version == self.version || self.former.as_ref().is_some_and(|former| version == former.version)
    }

    /// Whether this version is that of the former credentials.
    #[must_use]
    pub fn is_former(&self, version: Epoch) -> bool {
        version != self.version && self.is_valid(version)
    }

    /// The version of credentials that are valid now.
    fn version_of(&self, credentials: &Credentials) -> Option<Epoch> {
        if self.credentials.as_ref() == Some(credentials) {
            return Some(self.version);
        }
        self.former.as_ref().filter(|former| former.credentials == *credentials).map(|former| former.version)
    }

    /// After an entry at log index `at` that makes `credentials` the only valid ones. Those that are valid already keep
    /// their version, and with it their sessions.
    #[must_use]
    pub fn replaced(&self, credentials: Option<Credentials>, at: Epoch) -> Self {
        let version = match &credentials {
            Some(given) => self.version_of(given),
            None => (!self.is_required()).then_some(self.version),
        };
        Self { credentials, version: version.unwrap_or(at), former: None }
    }

    /// After an entry at log index `at` that makes `credentials` valid beside `before`, the newest until now.
    #[must_use]
    pub fn added(&self, before: &Credentials, credentials: Credentials, at: Epoch) -> Self {
        if *before == credentials {
            return self.clone();
        }
        let former = FormerCredentials { credentials: before.clone(), version: self.version };
        let version = self.version_of(&credentials).unwrap_or(at);
        Self { credentials: Some(credentials), version, former: Some(former) }
    }

    /// Without the former credentials.
    #[must_use]
    pub fn without_former(&self) -> Self {
        Self { former: None, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::secret::Secret;

    fn password(text: &str) -> Credentials {
        Credentials { username: None, password: Secret::new(text.into()) }
    }

    /// The version with which a client logs in.
    fn version(auth: &ProductAuth, text: &str) -> Option<u64> {
        auth.log_in(None, text.as_bytes()).map(|version| version.0)
    }

    #[test]
    fn two_passwords_are_valid_until_the_former_is_removed() {
        let first = ProductAuth::default().replaced(Some(password("one")), Epoch(5));
        assert_eq!((version(&first, "one"), version(&first, "two")), (Some(5), None));
        let both = first.added(&password("one"), password("two"), Epoch(8));
        assert_eq!((version(&both, "one"), version(&both, "two"), version(&both, "")), (Some(5), Some(8), None));
        assert!(both.is_valid(Epoch(5)) && both.is_valid(Epoch(8)) && both.is_former(Epoch(5)));
        let last = both.without_former();
        assert_eq!((version(&last, "one"), version(&last, "two")), (None, Some(8)));
        assert!(!last.is_valid(Epoch(5)) && last.is_valid(Epoch(8)));
        assert_eq!(both.added(&password("two"), password("two"), Epoch(9)), both, "a repeated change");
    }

    #[test]
    fn what_stays_valid_keeps_its_version_and_nothing_else_does() {
        let open = ProductAuth { version: Epoch(3), ..ProductAuth::default() };
        let first = open.replaced(Some(password("one")), Epoch(5));
        assert!(!first.is_valid(Epoch(3)), "sessions that never logged in");
        let again = first.replaced(None, Epoch(6)).replaced(Some(password("one")), Epoch(7));
        assert!(!again.is_valid(Epoch(5)) && !again.is_valid(Epoch(6)), "removed and set again");
        let both = first.added(&password("one"), password("two"), Epoch(8));
        assert_eq!(both.replaced(Some(password("one")), Epoch(9)), first, "back to the former");
        assert_eq!(both.replaced(Some(password("two")), Epoch(9)), both.without_former());
        assert_eq!(first.replaced(Some(password("one")), Epoch(9)), first);
        assert_eq!(open.replaced(None, Epoch(9)), open);
        let swapped = both.added(&password("two"), password("one"), Epoch(9));
        assert_eq!((version(&swapped, "one"), version(&swapped, "two")), (Some(5), Some(8)));
    }

    #[test]
    fn a_user_name_belongs_to_its_password() {
        let named = Credentials { username: Some("app".into()), ..password("two") };
        let first = ProductAuth::default().replaced(Some(password("one")), Epoch(5));
        let both = first.added(&password("one"), named, Epoch(8));
        let log_in = |user: Option<&str>, text: &str| both.log_in(user.map(str::as_bytes), text.as_bytes());
        assert_eq!((log_in(Some("app"), "two"), log_in(Some("default"), "one")), (Some(Epoch(8)), Some(Epoch(5))));
        assert_eq!((log_in(Some("app"), "one"), log_in(None, "two")), (None, None));
    }
}
