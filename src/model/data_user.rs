//! The data user of a group: the user of its servers with which nodes carry out what clients ask for. It may run the
//! commands that the proxy offers and nothing else, so that a script of a client reaches no data of other products.
//! Knows nothing of how it is made at a server.

use super::{
    limits::DATA_PASSWORD_LEN_MIN,
    reject::Reject,
    secret::{Credentials, Secret},
};

/// The names of the ACL users that Pontoon makes at the servers of a group. A group has one of them; the other one comes
/// next, so that both are valid while nodes change from one to the other.
pub const DATA_USERS: [&str; 2] = ["pontoon-data", "pontoon-data-2"];

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
    /// A managed user with this password, of at least `DATA_PASSWORD_LEN_MIN` bytes, which the caller draws at random. It has
    /// another name than `former`.
    #[must_use]
    pub fn managed(password: Secret, former: Option<&Self>) -> Self {
        let taken = former.and_then(|former| former.credentials.username.as_deref());
        let [first, second] = DATA_USERS;
        let name = if taken == Some(first) { second } else { first };
        Self { credentials: Credentials { username: Some(name.into()), password }, managed: true }
    }

    /// Whether it can be a group's data user.
    ///
    /// # Errors
    /// Returns why not.
    pub fn check(&self) -> Result<(), Reject> {
        let name = self.credentials.username.as_deref();
        let bad = |why| Err(Reject::BadCredentials(why));
        let Some(name) = name else { return bad("a data user has a name; give --data-username") };
        match (self.managed, DATA_USERS.contains(&name)) {
            (false, true) => {
                bad("pontoon-data and pontoon-data-2 are the data users that Pontoon makes itself; give another")
            }
            (false, false) => Ok(()),
            (true, true) if self.credentials.password.reveal().len() >= DATA_PASSWORD_LEN_MIN => Ok(()),
            (true, true) => bad("the password of the data user is too short"),
            (true, false) => bad("the data user that Pontoon makes has another name"),
        }
    }
}
