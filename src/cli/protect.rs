//! What keeps the secrets in a process's memory and files to its user. For the commands that open a data directory.
//! Knows nothing of what the secrets are.

use rustix::{
    fs::Mode,
    process::{Resource, Rlimit, setrlimit, umask},
};

use super::output;

/// Turns core dumps off, which would contain passwords, and lets files be made for this user only.
pub(super) fn process() {
    umask(Mode::RWXG | Mode::RWXO);
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        output::note(&format!("core dumps could not be turned off ({error}); they would contain passwords"));
    }
}
