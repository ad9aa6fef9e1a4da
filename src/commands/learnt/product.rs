//! What the servers of a product offer together: a command is served if every group has it, since any group may own its
//! key. Knows nothing of slots.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{DifferingCommands, LearntCommand, OfferedCommands, RedisVersion};
use crate::commands::{Args, keys::KeysError};

/// The commands of the primaries of a product's groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerCommands {
    /// What each group's primary offers; those that are alike are one.
    offered: Vec<Arc<OfferedCommands>>,
    learnt: BTreeMap<String, Learnt>,
}

/// A command that the table does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Learnt {
    /// All groups describe it like this.
    Everywhere(LearntCommand),
    /// These groups lack it.
    Lacking(Vec<u32>),
    /// These groups describe it otherwise than the first one.
    Different(Vec<u32>),
}

impl ServerCommands {
    /// Of groups whose primaries offer this.
    #[must_use]
    pub fn of(groups: &[(u32, Arc<OfferedCommands>)]) -> Self {
        let mut offered: Vec<Arc<OfferedCommands>> = Vec::new();
        for (_, of_group) in groups {
            if !offered.contains(of_group) {
                offered.push(of_group.clone());
            }
        }
        let names: BTreeSet<&String> = offered.iter().flat_map(|offered| offered.learnt.keys()).collect();
        let learnt = names.into_iter().filter_map(|name| Some((name.clone(), Learnt::of(groups, name)?))).collect();
        Self { offered, learnt }
    }

    /// Whether every group has the command or subcommand with this name, in lower case.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.offered.iter().all(|offered| offered.has(name))
    }

    /// The oldest version of the servers. `None`: none of them says.
    #[must_use]
    pub fn version(&self) -> Option<RedisVersion> {
        self.offered.iter().filter_map(|offered| offered.identity.version).min()
    }

    /// The modules that all servers have, by name, with the oldest version.
    #[must_use]
    pub fn modules(&self) -> BTreeMap<String, i64> {
        let mut all = self.offered.iter().map(|offered| &offered.identity.modules);
        let mut common = all.next().cloned().unwrap_or_default();
        for other in all {
            common.retain(|name, version| {
                let of_other = other.get(name);
                *version = of_other.map_or(*version, |of_other| (*version).min(*of_other));
                of_other.is_some()
            });
        }
        common
    }

    /// The commands of the table that the servers of the first group describe otherwise.
    #[must_use]
    pub fn differing(&self) -> Option<&DifferingCommands> {
        self.offered.first().map(|offered| &offered.differing)
    }

    /// The commands that the table does not have and that are served, and their containers, by name.
    pub fn served(&self) -> impl Iterator<Item = &LearntCommand> {
        self.learnt.values().filter_map(|learnt| match learnt {
            Learnt::Everywhere(command) if command.is_container() || command.refusal().is_none() => Some(command),
            _ => None,
        })
    }

    /// The command of the call `args`, which the table does not have, and the positions of its keys, which are appended to
    /// `keys`. `None`: no server has it.
    ///
    /// # Errors
    /// Returns the text for the client, without the prefix `ERR `, if the call is refused.
    pub fn resolve<A: Args + ?Sized>(&self, args: &A, keys: &mut Vec<usize>) -> Option<Result<&LearntCommand, String>> {
        if args.is_empty() {
            return None;
        }
        let mut name = String::from_utf8(args.get(0).to_ascii_lowercase()).ok()?;
        let mut found = self.learnt.get(&name);
        let is_container = match found {
            Some(Learnt::Everywhere(command)) => command.is_container(),
            Some(Learnt::Lacking(_) | Learnt::Different(_)) => false,
            // The table may have the container.
            None => true,
        };
        if is_container && args.len() > 1 {
            name = format!("{name}|{}", std::str::from_utf8(args.get(1)).ok()?.to_ascii_lowercase());
            found = self.learnt.get(&name);
        }
        Some(match found? {
            Learnt::Everywhere(command) => command.route(args, keys).map(|()| command),
            Learnt::Lacking(groups) => Err(format!(
                "'{name}': only some of the product's servers have this command, not executed. Those of {} lack it",
                Groups(groups)
            )),
            Learnt::Different(groups) => Err(format!(
                "'{name}': the product's servers describe this command differently, not executed. Let those of {} have the \
                 version of the others",
                Groups(groups)
            )),
        })
    }
}

impl Learnt {
    fn of(groups: &[(u32, Arc<OfferedCommands>)], name: &str) -> Option<Self> {
        let of_group = |offered: &Arc<OfferedCommands>| offered.learnt.get(name).cloned();
        let first = groups.iter().find_map(|(_, offered)| of_group(offered))?;
        let that = |is: &dyn Fn(&OfferedCommands) -> bool| -> Vec<u32> {
            groups.iter().filter(|(_, offered)| is(offered)).map(|(id, _)| *id).collect()
        };
        let lacking = that(&|offered| !offered.learnt.contains_key(name));
        if !lacking.is_empty() {
            return Some(Self::Lacking(lacking));
        }
        let different = that(&|offered| !offered.learnt.get(name).is_some_and(|other| other.is_routed_like(&first)));
        if !different.is_empty() {
            return Some(Self::Different(different));
        }
        let all = groups.iter().filter_map(|(_, offered)| offered.learnt.get(name));
        Some(Self::Everywhere(all.fold(first.clone(), LearntCommand::joined)))
    }
}

impl LearntCommand {
    /// Finds the keys by which a call is routed.
    fn route<A: Args + ?Sized>(&self, args: &A, keys: &mut Vec<usize>) -> Result<(), String> {
        // As in Redis, the number of arguments is checked first.
        if !self.arity_allows(args.len()) || self.is_container() {
            return Err(format!("wrong number of arguments for '{}' command", self.name()));
        }
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        self.keys(args, keys).map_err(|error| match error {
            KeysError::NoKeys => {
                format!("'{}': a call without keys cannot be routed to a server, not executed", self.name())
            }
            other => other.to_string(),
        })
    }
}

/// Names groups.
struct Groups<'a>(&'a [u32]);

impl std::fmt::Display for Groups<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<String> = self.0.iter().map(u32::to_string).collect();
        write!(f, "{} {}", if ids.len() == 1 { "group" } else { "groups" }, ids.join(", "))
    }
}
