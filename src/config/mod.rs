//! A node's configuration: TOML file < environment < flags. Each setting is declared once, with its type and
//! explanation.
//! Knows nothing of the settings that are replicated and can change while nodes run (`pontoon cluster set`).

mod file;
pub mod log;
pub mod node;
pub mod proxy;
pub mod secret_file;
pub mod section;
pub mod timing;
pub mod value;

use std::path::Path;

use section::{Key, Section};

use crate::{consensus::Timing, wire::auth::ClusterSecret};

/// All settings of a node. [`Config::load`] reads them, [`Config::check`] checks them together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Its identity and addresses.
    pub node: node::NodeConfig,
    /// Threads and limits.
    pub proxy: proxy::ProxyConfig,
    /// Clocks.
    pub timing: timing::TimingConfig,
    /// Logging.
    pub log: log::LogConfig,
}

/// The settings that a running node takes over on SIGHUP. The others need a restart: they are in every thread, or other
/// nodes know them. (The content of `secret_file` is read again, too.)
pub const RELOADED: [&str; 2] = ["log.level", "log.file"];

/// Prefix of variables of the environment; the section and the key follow, in capitals.
const ENV_PREFIX: &str = "PONTOON_";
/// Variables with our prefix that are not settings of a node: the CLI's default node, and where tests find the program.
const ENV_OTHERS: [&str; 3] = ["PONTOON_NODE", "PONTOON_BIN", "PONTOON_FAULTS"];

impl Config {
    /// Reads the file, then the environment, then the flags (`(key, text)`, for example `("proxy.workers", "2")`);
    /// later sources override earlier ones. Also returns notes for the operator. Does not check whether the settings
    /// fit together, see [`Config::check`].
    ///
    /// # Errors
    /// Returns the file, line and key, or the variable, or the flag, and what is expected, as text for the operator.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<(Self, Vec<String>), String> {
        let mut config = Self::default();
        let mut notes = Vec::new();
        if let Some(path) = file {
            file::read(path, &mut config)?;
        }
        for (name, text) in env {
            let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
            match Self::keys().find(|(section, key)| env_name(section, key) == rest) {
                Some((section, key)) => {
                    config
                        .set(&dotted(section, key.name), &text)
                        .map_err(|e| format!("{name} in the environment: {e}"))?;
                }
                None if ENV_OTHERS.contains(&name.as_str()) => {}
                None => {
                    notes.push(format!("{name} in the environment is not a setting and is ignored; see --print-config"))
                }
            }
        }
        for (key, text) in flags {
            config.set(key, text).map_err(|e| format!("{key} on the command line: {e}"))?;
        }
        Ok((config, notes))
    }

    /// Checks the settings together.
    ///
    /// # Errors
    /// Returns the first problem, with the key and what to do, as text for the operator.
    pub fn check(&self) -> Result<(), String> {
        self.node.check()?;
        self.proxy.check()?;
        self.timing.check()?;
        self.log.levels().map(drop)
    }

    /// The cluster secret from its file; none if there is no file.
    ///
    /// # Errors
    /// As [`secret_file::cluster_secrets`].
    pub fn secret(&self) -> Result<ClusterSecret, String> {
        let Some(path) = &self.node.secret_file else { return Ok(ClusterSecret::none()) };
        secret_file::cluster_secrets(path).map(ClusterSecret::of)
    }

    /// Raft's part of the clocks.
    #[must_use]
    pub fn raft_timing(&self) -> Timing {
        let TimingConfig { raft_heartbeat: heartbeat, election_min, election_max, .. } = self.timing;
        Timing { heartbeat, election_min, election_max }
    }

    /// All settings as a TOML file: every key, with one line of explanation and its default.
    #[must_use]
    pub fn print(&self) -> String {
        let mut out = String::new();
        let defaults = Self::default();
        let mut last = "";
        for (section, key) in Self::keys() {
            if section != last {
                out += &format!("\n[{section}]\n");
                last = section;
            }
            let name = dotted(section, key.name);
            let default = defaults.toml(&name).map_or_else(|| "not set".to_owned(), |v| format!("default {v}"));
            out += &format!("# {} ({default})\n", key.help.trim());
            match self.toml(&name) {
                Some(value) => out += &format!("{} = {value}\n", key.name),
                // Quoted as the kind wants it, so that removing the '#' gives a valid line.
                None if key.kind == value::SettingKind::Integer => {
                    out += &format!("# {} = {}\n", key.name, key.example)
                }
                None => out += &format!("# {} = \"{}\"\n", key.name, key.example),
            }
        }
        out
    }

    /// The names of the settings that have another value in `other`.
    #[must_use]
    pub fn different(&self, other: &Self) -> Vec<String> {
        let names = Self::keys().map(|(section, key)| dotted(section, key.name));
        names.filter(|name| self.toml(name) != other.toml(name)).collect()
    }

    /// Every setting with its section, in the order of printing.
    pub fn keys() -> impl Iterator<Item = (&'static str, &'static Key)> {
        fn of<S: Section>() -> impl Iterator<Item = (&'static str, &'static Key)> {
            S::KEYS.iter().map(|key| (S::NAME, key))
        }
        of::<node::NodeConfig>()
            .chain(of::<proxy::ProxyConfig>())
            .chain(of::<TimingConfig>())
            .chain(of::<log::LogConfig>())
    }

    fn set(&mut self, dotted: &str, text: &str) -> Result<(), String> {
        match dotted.split_once('.') {
            None => self.node.set(dotted, text),
            Some(("proxy", key)) => self.proxy.set(key, text),
            Some(("timing", key)) => self.timing.set(key, text),
            Some(("log", key)) => self.log.set(key, text),
            Some((section, _)) => Err(format!("there is no section [{section}]")),
        }
    }

    fn toml(&self, dotted: &str) -> Option<String> {
        match dotted.split_once('.') {
            None => self.node.toml(dotted),
            Some(("proxy", key)) => self.proxy.toml(key),
            Some(("timing", key)) => self.timing.toml(key),
            Some(("log", key)) => self.log.toml(key),
            Some(_) => None,
        }
    }
}

use timing::TimingConfig;

/// `proxy.workers`, or the bare key of the top level.
fn dotted(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// `PROXY_WORKERS`, what follows the prefix.
fn env_name(section: &str, key: &Key) -> String {
    dotted(section, key.name).replace('.', "_").to_uppercase()
}

fn check(ok: bool, key: &str, expected: &str) -> Result<(), String> {
    if ok { Ok(()) } else { Err(format!("{key}: {expected} is expected")) }
}

#[cfg(test)]
mod tests;
