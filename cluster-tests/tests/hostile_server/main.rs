//! Servers that are alive and serve badly, or are dead for long: busy with a script, loading, unable to write to their
//! disk, or without anyone who repairs them. No group must lose its primary without need, and no group must wait because
//! of another one.

#![allow(clippy::unwrap_used)]

mod fixture;
mod guard;
mod loading;
mod misconf;
mod scripts;
