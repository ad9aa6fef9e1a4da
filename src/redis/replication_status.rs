//! A server's replication status from its INFO: role, history, offset.
//! Knows nothing of the role that it should have.

use tokio::time::Instant;

use super::{client::Client, error::RedisError, info::Info, reply::Reply};

/// A server's replication status at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationStatus {
    /// Identifies the process.
    pub run_id: String,
    /// The configured primary: host and port. `None`: it is a primary.
    pub follows: Option<(String, u16)>,
    /// The link to its primary is up.
    pub link_up: bool,
    /// It receives a full synchronization: its data is incomplete.
    pub syncing: bool,
    /// It loads its data from disk.
    pub loading: bool,
    /// Replication id of its data.
    pub replid: String,
    /// The replication id that it had before it became a primary. Empty: none.
    pub former_replid: String,
    /// Up to which offset its data belongs to that former history: the offset at which it became a primary. `None`:
    /// there is no former history.
    pub former_offset: Option<u64>,
    /// A primary's own offset, or the offset up to which a replica has executed its primary's stream.
    pub offset: u64,
    /// Number of keys of all databases.
    pub keys: u64,
    /// It keeps an append-only file, and has written it without error: a process that is killed loses at most what
    /// `appendfsync` allows, and with the machine only.
    pub appends: bool,
}

impl ReplicationStatus {
    /// Requests the status over a connection.
    ///
    /// # Errors
    /// As [`Client::pipeline`]; the user may not run INFO; or the reply is not that of INFO.
    pub async fn ask(client: &mut Client, deadline: Instant) -> Result<Self, RedisError> {
        // One section per command: before Redis 7 INFO accepts only one.
        const SECTIONS: [&[u8]; 4] = [b"server", b"replication", b"persistence", b"keyspace"];
        let commands: Vec<[&[u8]; 2]> = SECTIONS.iter().map(|section| [b"INFO".as_slice(), *section]).collect();
        let commands: Vec<&[&[u8]]> = commands.iter().map(<[&[u8]; 2]>::as_slice).collect();
        let replies = client.pipeline(&commands, deadline).await?;
        let mut text = String::new();
        for reply in &replies {
            match reply {
                Reply::Bulk(bytes) => text.push_str(&String::from_utf8_lossy(bytes)),
                Reply::Error(why) => return Err(RedisError::of_answer(client.addr(), "INFO", why)),
                _ => return Err(unexpected(client, "its answer to INFO has an unknown form")),
            }
        }
        Self::parse(&Info::parse(&text)).ok_or_else(|| unexpected(client, "INFO replication does not report its role"))
    }

    /// Parses INFO's fields. `None`: they do not contain the role.
    #[must_use]
    pub fn parse(info: &Info) -> Option<Self> {
        let text = |name: &str| info.get(name).unwrap_or_default().to_owned();
        let number = |name: &str| info.get(name).and_then(|n| n.parse().ok());
        let flag = |name: &str| info.get(name) == Some("1");
        let follows = match info.get("role")? {
            "master" => None,
            "slave" | "replica" => Some((text("master_host"), info.get("master_port")?.parse().ok()?)),
            _ => return None,
        };
        let own = number("master_repl_offset");
        let offset = if follows.is_some() { number("slave_repl_offset").or(own) } else { own };
        let former = text("master_replid2");
        Some(Self {
            run_id: text("run_id"),
            link_up: info.get("master_link_status") == Some("up"),
            syncing: flag("master_sync_in_progress"),
            loading: flag("loading") || flag("async_loading"),
            replid: text("master_replid"),
            // Forty zeros mean that there is no former id.
            former_replid: if former.bytes().all(|b| b == b'0') { String::new() } else { former },
            // The first offset that does not belong to the former history; -1: there is no former history.
            former_offset: number("second_repl_offset").filter(|first| *first > 0).map(|first: u64| first - 1),
            offset: offset.unwrap_or(0),
            keys: info.keyspace().values().sum(),
            appends: flag("aof_enabled") && info.get("aof_last_write_status") == Some("ok"),
            follows,
        })
    }

    /// Whether it follows this server, compared by the configured name.
    #[must_use]
    pub fn is_replica_of(&self, host: &str, port: u16) -> bool {
        self.follows.as_ref().is_some_and(|(h, p)| h == host && *p == port)
    }
}

fn unexpected(client: &Client, why: &str) -> RedisError {
    RedisError::Protocol { addr: client.addr().clone(), why: why.into() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_primary_and_a_replica() {
        let zeros = "0".repeat(40);
        let text = format!(
            "aof_enabled:1\r\naof_last_write_status:ok\r\nrun_id:r1\r\nrole:master\r\nmaster_replid:aa\r\nmaster_replid2:{zeros}\r\nsecond_repl_offset:-1\r\nmaster_repl_offset:70\r\n\
             loading:0\r\ndb0:keys=2,expires=0\r\ndb3:keys=1,expires=0\r\n"
        );
        let primary = ReplicationStatus::parse(&Info::parse(&text)).unwrap();
        assert_eq!((primary.follows, primary.offset, primary.keys), (None, 70, 3));
        assert_eq!((primary.replid.as_str(), primary.former_replid.as_str()), ("aa", ""));
        assert_eq!(primary.former_offset, None);
        assert!(primary.appends);
        let text = "run_id:r2\r\nrole:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:7000\r\nmaster_link_status:up\r\n\
                    master_sync_in_progress:0\r\nslave_repl_offset:69\r\nmaster_replid:aa\r\nmaster_replid2:bb\r\n\
                    second_repl_offset:61\r\nmaster_repl_offset:70\r\n";
        let replica = ReplicationStatus::parse(&Info::parse(text)).unwrap();
        assert!(!replica.appends);
        assert!(replica.is_replica_of("10.0.0.1", 7000) && !replica.is_replica_of("10.0.0.1", 7001));
        assert!(replica.link_up && !replica.syncing && !replica.loading);
        assert_eq!((replica.offset, replica.former_replid.as_str(), replica.former_offset), (69, "bb", Some(60)));
        assert_eq!(ReplicationStatus::parse(&Info::parse("role:sentinel\r\n")), None);
    }
}
