//! What the clients of a product may do, besides logging in. Knows nothing of how nodes enforce it.

use std::fmt;

use super::{
    limits::{BYTES_MAX, IDLE_MS, OPS_MAX, SCRIPT_LOADS_MAX},
    redis_version::ToldVersion,
    reject::Reject,
};

/// The rules for the clients of a product. The default allows everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientRules {
    /// Requests per second that each node executes for it; 0: no limit.
    pub ops_max: u32,
    /// Bytes of requests and replies per second on each node; 0: no limit.
    pub bytes_max: u64,
    /// Scripts and functions are refused.
    pub scripts_off: bool,
    /// New scripts and libraries that they may load within a minute; 0: the default.
    pub script_loads_max: u32,
    /// Errors name servers, and say why they cannot be reached. Otherwise they do not: clients may be strangers.
    pub errors_detailed: bool,
    /// A blocked call of unknown outcome is answered with an error. Otherwise its client is closed.
    pub blocked_errors: bool,
    /// They may send read-only commands to one server (`PONTOON ON`), whose answers name servers and their clients.
    pub server_commands: bool,
    /// They may send DEBUG, and CONFIG SET of settings of the servers: for tests, since both act on other clients, too.
    pub debug_commands: bool,
    /// The version of Redis that they are told.
    pub redis_version: ToldVersion,
    /// Milliseconds without a request after which a client is closed; 0: never.
    pub idle_ms: u32,
}

impl fmt::Display for ClientRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("on each node, its clients may send ")?;
        match self.ops_max {
            0 => f.write_str("any number of requests")?,
            n => write!(f, "{n} request(s) a second")?,
        }
        match self.bytes_max {
            0 => {}
            n => write!(f, ", and {n} bytes a second with the replies")?,
        }
        f.write_str(if self.scripts_off { ", no scripts and functions" } else { ", scripts too" })?;
        match self.script_loads_max {
            0 => {}
            n => write!(f, ", of which {n} may be new within a minute")?,
        }
        f.write_str(if self.errors_detailed { "; errors name servers" } else { "" })?;
        f.write_str(if self.blocked_errors {
            "; blocked calls of unknown outcome are answered with an error"
        } else {
            ""
        })?;
        f.write_str(if self.server_commands { "; they may ask single servers" } else { "" })?;
        f.write_str(if self.debug_commands { "; they may debug the servers and change their settings" } else { "" })?;
        if !self.redis_version.is_of_servers() {
            write!(f, "; they are told Redis {}", self.redis_version)?;
        }
        match self.idle_ms {
            0 => Ok(()),
            ms => write!(f, "; those without a request for {} s are closed", f64::from(ms) / 1000.0),
        }
    }
}

/// Changes rules. Only what is `Some` changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetClientRules {
    /// Requests per second and node, at most `OPS_MAX`; 0: no limit.
    pub ops_max: Option<u32>,
    /// Bytes per second and node, at most `BYTES_MAX`; 0: no limit.
    pub bytes_max: Option<u64>,
    /// Whether scripts and functions are refused.
    pub scripts_off: Option<bool>,
    /// New scripts and libraries within a minute, at most `SCRIPT_LOADS_MAX`; 0: the default.
    pub script_loads_max: Option<u32>,
    /// Whether errors name servers.
    pub errors_detailed: Option<bool>,
    /// Whether a blocked call of unknown outcome is answered with an error.
    pub blocked_errors: Option<bool>,
    /// Whether they may send commands to one server.
    pub server_commands: Option<bool>,
    /// Whether they may send DEBUG and CONFIG SET.
    pub debug_commands: Option<bool>,
    /// The version of Redis that they are told; the default: that of the servers.
    pub redis_version: Option<ToldVersion>,
    /// When idle clients are closed, within `IDLE_MS`; 0: never.
    pub idle_ms: Option<u32>,
}

impl SetClientRules {
    /// The rules that follow from `before`.
    #[must_use]
    pub fn of(self, before: ClientRules) -> ClientRules {
        ClientRules {
            ops_max: self.ops_max.unwrap_or(before.ops_max),
            bytes_max: self.bytes_max.unwrap_or(before.bytes_max),
            scripts_off: self.scripts_off.unwrap_or(before.scripts_off),
            script_loads_max: self.script_loads_max.unwrap_or(before.script_loads_max),
            errors_detailed: self.errors_detailed.unwrap_or(before.errors_detailed),
            blocked_errors: self.blocked_errors.unwrap_or(before.blocked_errors),
            server_commands: self.server_commands.unwrap_or(before.server_commands),
            debug_commands: self.debug_commands.unwrap_or(before.debug_commands),
            redis_version: self.redis_version.unwrap_or(before.redis_version),
            idle_ms: self.idle_ms.unwrap_or(before.idle_ms),
        }
    }

    /// Whether something is to be changed.
    #[must_use]
    pub fn changes_anything(self) -> bool {
        self != Self::default()
    }

    /// Whether the values are allowed.
    ///
    /// # Errors
    /// Returns which one is not.
    pub fn check(self) -> Result<(), Reject> {
        if self.ops_max.is_some_and(|ops| ops > OPS_MAX) {
            return Err(Reject::BadQuota { name: "ops-max", max: OPS_MAX.into() });
        }
        if self.bytes_max.is_some_and(|bytes| bytes > BYTES_MAX) {
            return Err(Reject::BadQuota { name: "bytes-max", max: BYTES_MAX });
        }
        if self.script_loads_max.is_some_and(|loads| loads > SCRIPT_LOADS_MAX) {
            return Err(Reject::BadQuota { name: "script-loads-max", max: SCRIPT_LOADS_MAX.into() });
        }
        match self.idle_ms {
            Some(ms) if ms != 0 && !IDLE_MS.contains(&ms) => Err(Reject::BadIdleTimeout(ms)),
            Some(_) | None => Ok(()),
        }
    }
}
