//! The login sequence of this client's connections, and its errors.
//! Knows nothing of how requests and replies are transported.

use super::error::RedisError;
use crate::{
    model::{ids::HostPort, secret::Credentials},
    resp::login::{Login, LoginOutcome, LoginStep},
};

/// The login with these credentials and this name of the connection.
#[must_use]
pub fn login<'a>(credentials: Option<&'a Credentials>, name: &'a str) -> Login<'a> {
    Login::new(credentials.map(|c| (c.username.as_deref(), c.password.reveal())), name)
}

/// Handles a complete, encoded reply to a step. Returns the connection's id if the step requests it.
///
/// # Errors
/// The server refuses the step, or its reply has an unknown form.
pub fn accept(login: &Login<'_>, addr: &HostPort, step: LoginStep, reply: &[u8]) -> Result<Option<u64>, RedisError> {
    match login.outcome(step, reply) {
        LoginOutcome::Accepted | LoginOutcome::RunId(_) => Ok(None),
        LoginOutcome::ClientId(id) => Ok(Some(id)),
        LoginOutcome::Refused(text) => Err(RedisError::of_answer(addr, step.command(), &text)),
        LoginOutcome::Malformed => Err(RedisError::Protocol {
            addr: addr.clone(),
            why: format!("its answer to {} is not a number", step.name()),
        }),
    }
}
