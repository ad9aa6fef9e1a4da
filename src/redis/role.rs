//! The reply to ROLE.
//! Knows nothing of the role that a server should have.

use super::reply::Reply;

/// A server's role in replication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Primary {
        /// Its replication offset.
        offset: i64,
        /// The replicas connected to it.
        replicas: Vec<ReplicaRole>,
    },
    /// It follows another server.
    Replica {
        /// Host of its primary, as configured.
        host: String,
        /// Port of its primary.
        port: u16,
        /// `connect`, `connecting`, `sync` or `connected`.
        link: String,
        /// Its replication offset; -1: none yet.
        offset: i64,
    },
    /// It holds no data: a Sentinel.
    Sentinel,
}

/// A replica as its primary reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaRole {
    /// Host that the primary sees.
    pub host: String,
    /// Port the replica announced.
    pub port: u16,
    /// Offset it has acknowledged.
    pub offset: i64,
}

impl Role {
    /// Parses the reply to ROLE. Returns `None` if it has another form.
    #[must_use]
    pub fn parse(reply: &Reply) -> Option<Self> {
        let items = reply.items()?;
        let at = |i: usize| items.get(i);
        match at(0)?.text()? {
            "master" => Some(Self::Primary {
                offset: at(1)?.integer()?,
                replicas: at(2)?.items()?.iter().map(ReplicaRole::parse).collect::<Option<_>>()?,
            }),
            "slave" => Some(Self::Replica {
                host: at(1)?.text()?.to_owned(),
                port: at(2)?.integer()?.try_into().ok()?,
                link: at(3)?.text()?.to_owned(),
                offset: at(4)?.integer()?,
            }),
            "sentinel" => Some(Self::Sentinel),
            _ => None,
        }
    }
}

impl ReplicaRole {
    fn parse(reply: &Reply) -> Option<Self> {
        let items = reply.items()?;
        Some(Self {
            host: items.first()?.text()?.to_owned(),
            port: items.get(1)?.integer()?.try_into().ok()?,
            offset: items.get(2)?.integer()?,
        })
    }
}
