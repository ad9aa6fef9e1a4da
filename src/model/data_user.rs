//! The data user of a group: the user of its servers with which nodes carry out what clients ask for. It may run the
//! commands that the proxy offers and nothing else, so that a script of a client reaches no data of other products.
//! Knows nothing of how it is made at a server.

use super::{
    limits::DATA_PASSWORD_LEN_MIN,
    reject::Reject,
    secret::{Credentials, Secret},
};

/// The name of the ACL user that Pontoon makes at the servers of a group.
pub const DATA_USER: &str = "pontoon-data";

/// A group's data user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataUser {
    /// How nodes log in as it. They have a user name.
    pub credentials: Credentials,
    /// Pontoon makes the user at each server, and makes it again when a server has lost it. Otherwise the operator has made
    /// it.
    pub managed: bool,
}

impl DataUser {
    /// A managed user with this password, of at least `DATA_PASSWORD_LEN_MIN` bytes. The caller draws it at random.
    #[must_use]
    pub fn managed(password: Secret) -> Self {
        Self { credentials: Credentials { username: Some(DATA_USER.into()), password }, managed: true }
    }

    /// Whether it can be a group's data user.
    ///
    /// # Errors
    /// Returns why not.
    pub fn check(&self) -> Result<(), Reject> {
        let name = self.credentials.username.as_deref();
        let bad = |why| Err(Reject::BadCredentials(why));
        match (name, self.managed) {
            (None, _) => bad("a data user has a name; give --data-username"),
            (Some(DATA_USER), false) => bad("pontoon-data is the data user that Pontoon makes itself; give another"),
            (Some(_), false) => Ok(()),
            (Some(_), true) if self.credentials.password.reveal().len() < DATA_PASSWORD_LEN_MIN => {
                bad("the password of the data user is too short")
            }
            (Some(DATA_USER), true) => Ok(()),
            (Some(_), true) => bad("the data user that Pontoon makes has another name"),
        }
    }
}
