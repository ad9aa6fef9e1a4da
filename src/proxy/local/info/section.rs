//! The sections of INFO, and which of them a call asks for. Knows nothing of what is in them.

use crate::commands::Args;

/// A section. They are shown in this order, which is that of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Section {
    Server,
    Clients,
    Memory,
    Persistence,
    Stats,
    Replication,
    Cpu,
    Modules,
    Commandstats,
    Errorstats,
    Latencystats,
    Cluster,
    Keyspace,
    Pontoon,
}

impl Section {
    pub(in crate::proxy) const ALL: [Self; 14] = [
        Self::Server,
        Self::Clients,
        Self::Memory,
        Self::Persistence,
        Self::Stats,
        Self::Replication,
        Self::Cpu,
        Self::Modules,
        Self::Commandstats,
        Self::Errorstats,
        Self::Latencystats,
        Self::Cluster,
        Self::Keyspace,
        Self::Pontoon,
    ];

    /// Its name in lower case, as calls have it, and at a server.
    pub(in crate::proxy) fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Clients => "clients",
            Self::Memory => "memory",
            Self::Persistence => "persistence",
            Self::Stats => "stats",
            Self::Replication => "replication",
            Self::Cpu => "cpu",
            Self::Modules => "modules",
            Self::Commandstats => "commandstats",
            Self::Errorstats => "errorstats",
            Self::Latencystats => "latencystats",
            Self::Cluster => "cluster",
            Self::Keyspace => "keyspace",
            Self::Pontoon => "pontoon",
        }
    }

    /// Its name in the line above it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::Clients => "Clients",
            Self::Memory => "Memory",
            Self::Persistence => "Persistence",
            Self::Stats => "Stats",
            Self::Replication => "Replication",
            Self::Cpu => "CPU",
            Self::Modules => "Modules",
            Self::Commandstats => "Commandstats",
            Self::Errorstats => "Errorstats",
            Self::Latencystats => "Latencystats",
            Self::Cluster => "Cluster",
            Self::Keyspace => "Keyspace",
            Self::Pontoon => "Pontoon",
        }
    }

    /// Whether servers know something in it.
    fn needs_servers(self) -> bool {
        matches!(
            self,
            Self::Memory | Self::Persistence | Self::Stats | Self::Commandstats | Self::Latencystats | Self::Keyspace
        )
    }

    /// Whether a call without a section gets it.
    fn is_default(self) -> bool {
        !matches!(self, Self::Commandstats | Self::Latencystats)
    }
}

/// What a call of INFO asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::proxy) struct Sections(u16);

impl Sections {
    pub(in crate::proxy) fn of<A: Args + ?Sized>(call: &A) -> Self {
        if call.len() == 1 {
            return Self::of_all(Section::is_default);
        }
        let mut sections = Self::default();
        for i in 1..call.len() {
            let word = call.get(i);
            let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
            sections.0 |= match () {
                () if is("all") || is("everything") => Self::of_all(|_| true).0,
                () if is("default") => Self::of_all(Section::is_default).0,
                // The name in `INFO` of what others call modules. (Redis, `genInfoSectionDict`.)
                () if is("module_list") => Self::of_all(|section| section == Section::Modules).0,
                () => Self::of_all(|section| is(section.name())).0,
            };
        }
        sections
    }

    fn of_all(wanted: impl Fn(Section) -> bool) -> Self {
        let all = Section::ALL.into_iter().filter(|section| wanted(*section));
        Self(all.fold(0, |sections, section| sections | 1 << section as u16))
    }

    pub(in crate::proxy) fn has(self, section: Section) -> bool {
        self.0 & 1 << section as u16 != 0
    }

    /// The sections about which servers are asked, in order.
    pub(in crate::proxy) fn of_servers(self) -> impl Iterator<Item = Section> {
        Section::ALL.into_iter().filter(move |section| self.has(*section) && section.needs_servers())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(line: &str) -> Vec<&'static str> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let sections = Sections::of(&words[..]);
        Section::ALL.into_iter().filter(|section| sections.has(*section)).map(Section::name).collect()
    }

    #[test]
    fn sections_are_those_of_redis() {
        let default = [
            "server",
            "clients",
            "memory",
            "persistence",
            "stats",
            "replication",
            "cpu",
            "modules",
            "errorstats",
            "cluster",
            "keyspace",
            "pontoon",
        ];
        assert_eq!(names("info"), default);
        assert_eq!(names("info default"), default);
        assert_eq!(names("info commandstats default").len(), default.len() + 1);
        assert_eq!(names("info ALL").len(), Section::ALL.len());
        assert_eq!(names("info everything").len(), Section::ALL.len());
        assert_eq!(names("info keyspace CPU server cpu"), ["server", "cpu", "keyspace"]);
        assert_eq!(names("info module_list"), ["modules"]);
        assert!(names("info nonsense").is_empty());
    }

    #[test]
    fn what_the_node_knows_needs_no_server() {
        let asked = |line: &str| {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            Sections::of(&words[..]).of_servers().map(Section::name).collect::<Vec<_>>()
        };
        assert!(asked("info server clients replication cpu modules errorstats cluster pontoon nonsense").is_empty());
        assert_eq!(asked("info"), ["memory", "persistence", "stats", "keyspace"]);
        assert_eq!(asked("info commandstats"), ["commandstats"]);
    }
}
