//! Where a server stands in replication, by its own INFO: role, history, offset.
//! Knows nothing of where it should stand.

use tokio::time::Instant;

use super::{client::Client, error::RedisError, info::Info, reply::Reply};

/// A server's place in replication at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationStatus {
    /// Which process it is.
    pub run_id: String,
    /// Whom it follows, as configured there: host and port. `None`: it is a primary.
    pub follows: Option<(String, u16)>,
    /// Its link is up.
    pub link_up: bool,
    /// It receives a full copy: what it has is not whole.
    pub syncing: bool,
    /// It reads its data from disk.
    pub loading: bool,
    /// Replication id of its data.
    pub replid: String,
    /// The replication id that it had before it became a primary; empty: none.
    pub former_replid: String,
    /// Up to where its data is of that former history: the offset at which it became a primary. `None`: it has none.
    pub former_offset: Option<u64>,
    /// A primary's own offset, or how far a replica has executed its primary's stream, bytes.
    pub offset: u64,
    /// Keys of all databases.
    pub keys: u64,
}

impl ReplicationStatus {
    /// Asks over a connection.
    ///
    /// # Errors
    /// As [`Client::pipeline`]; the server does not let us ask; or what it says is not what INFO says.
    pub async fn ask(client: &mut Client, deadline: Instant) -> Result<Self, RedisError> {
        // Section by section: before Redis 7 INFO takes one.
        const SECTIONS: [&[u8]; 4] = [b"server", b"replication", b"persistence", b"keyspace"];
        let commands: Vec<[&[u8]; 2]> = SECTIONS.iter().map(|section| [b"INFO".as_slice(), *section]).collect();
        let commands: Vec<&[&[u8]]> = commands.iter().map(<[&[u8]; 2]>::as_slice).collect();
        let replies = client.pipeline(&commands, deadline).await?;
        let mut text = String::new();
        for reply in &replies {
            match reply {
                Reply::Bulk(bytes) => text.push_str(&String::from_utf8_lossy(bytes)),
                Reply::Error(why) => return Err(RedisError::of_answer(client.addr(), "INFO", why)),
                _ => return Err(odd(client, "its answer to INFO has an unknown shape")),
            }
        }
        Self::parse(&Info::parse(&text)).ok_or_else(|| odd(client, "INFO replication does not say its role"))
    }

    /// From INFO's fields; `None`: they do not say the role.
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
            // Forty zeros: there was none.
            former_replid: if former.bytes().all(|b| b == b'0') { String::new() } else { former },
            // The first offset that is not of the former history any more; -1: there was none.
            former_offset: number("second_repl_offset").filter(|first| *first > 0).map(|first: u64| first - 1),
            offset: offset.unwrap_or(0),
            keys: info.keyspace().values().sum(),
            follows,
        })
    }

    /// Whether it follows this server, by the name that it was told.
    #[must_use]
    pub fn is_replica_of(&self, host: &str, port: u16) -> bool {
        self.follows.as_ref().is_some_and(|(h, p)| h == host && *p == port)
    }
}

fn odd(client: &Client, why: &str) -> RedisError {
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
            "run_id:r1\r\nrole:master\r\nmaster_replid:aa\r\nmaster_replid2:{zeros}\r\nsecond_repl_offset:-1\r\nmaster_repl_offset:70\r\n\
             loading:0\r\ndb0:keys=2,expires=0\r\ndb3:keys=1,expires=0\r\n"
        );
        let primary = ReplicationStatus::parse(&Info::parse(&text)).unwrap();
        assert_eq!((primary.follows, primary.offset, primary.keys), (None, 70, 3));
        assert_eq!((primary.replid.as_str(), primary.former_replid.as_str()), ("aa", ""));
        assert_eq!(primary.former_offset, None);
        let text = "run_id:r2\r\nrole:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:7000\r\nmaster_link_status:up\r\n\
                    master_sync_in_progress:0\r\nslave_repl_offset:69\r\nmaster_replid:aa\r\nmaster_replid2:bb\r\n\
                    second_repl_offset:61\r\nmaster_repl_offset:70\r\n";
        let replica = ReplicationStatus::parse(&Info::parse(text)).unwrap();
        assert!(replica.is_replica_of("10.0.0.1", 7000) && !replica.is_replica_of("10.0.0.1", 7001));
        assert!(replica.link_up && !replica.syncing && !replica.loading);
        assert_eq!((replica.offset, replica.former_replid.as_str(), replica.former_offset), (69, "bb", Some(60)));
        assert_eq!(ReplicationStatus::parse(&Info::parse("role:sentinel\r\n")), None);
    }
}
