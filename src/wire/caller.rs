//! The header of every call between nodes: who calls whom, and for which cluster. Raft's messages have a field for it;
//! all other calls carry it in their metadata.
//! Knows nothing of who may call.

use prost::Message;
use tonic::{
    Request, Status,
    metadata::{Binary, MetadataMap, MetadataValue},
    service::Interceptor,
};

use super::{auth::ClientAuth, pb::raft::Header};
use crate::model::ids::Uuid;

/// Name of the metadata: a [`Header`], encoded.
const NAME: &str = "x-pontoon-caller-bin";
/// Longest header that is decoded; one has about 80 bytes.
const LEN_MAX: usize = 256;

/// A header, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The sender's cluster.
    pub cluster: Uuid,
    /// The sender's id.
    pub id: u64,
    /// The sender's uuid.
    pub uuid: Uuid,
    /// Id of the node that the call is for.
    pub to_id: u64,
    /// Uuid of the node that the call is for.
    pub to_uuid: Uuid,
    /// Log index at which the sender's present start was admitted; 0: it knows none.
    pub admitted: u64,
}

impl Caller {
    /// Reads a header.
    ///
    /// # Errors
    /// Returns what is missing or malformed.
    pub fn read(header: Option<&Header>) -> Result<Self, String> {
        let header = header.ok_or("the call has no header that says who calls whom")?;
        if header.from_id == 0 {
            return Err("the header names node 0 as the sender; ids begin at 1".into());
        }
        Ok(Self {
            cluster: uuid(&header.cluster_id, "cluster id")?,
            id: header.from_id,
            uuid: uuid(&header.from_uuid, "uuid of the sender")?,
            to_id: header.to_id,
            to_uuid: uuid(&header.to_uuid, "uuid of the receiver")?,
            admitted: header.admitted,
        })
    }

    /// Reads the header in a call's metadata.
    ///
    /// # Errors
    /// As [`Caller::read`].
    pub fn of(metadata: &MetadataMap) -> Result<Self, String> {
        let Some(value) = metadata.get_bin(NAME) else { return Self::read(None) };
        let bytes = value.to_bytes().map_err(|e| format!("the header of the call is not base64: {e}"))?;
        if bytes.len() > LEN_MAX {
            return Err(format!("the header of the call has {} bytes, more than {LEN_MAX}", bytes.len()));
        }
        let header = Header::decode(bytes).map_err(|e| format!("the header of the call cannot be decoded: {e}"))?;
        Self::read(Some(&header))
    }
}

fn uuid(bytes: &[u8], what: &str) -> Result<Uuid, String> {
    let wrong = |_| format!("the header's {what} has {} bytes instead of 16", bytes.len());
    bytes.try_into().map(|b| Uuid(u128::from_be_bytes(b))).map_err(wrong)
}

/// Adds the secret, and the header if there is one, to every call of a client.
#[derive(Clone, Debug)]
pub struct NodeAuth {
    /// The secret.
    pub secret: ClientAuth,
    /// Who calls whom; `None` in calls by which nodes get to know each other.
    pub header: Option<Header>,
}

impl Interceptor for NodeAuth {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let mut request = self.secret.call(request)?;
        if let Some(header) = &self.header {
            let value = MetadataValue::<Binary>::from_bytes(&header.encode_to_vec());
            request.metadata_mut().insert_bin(NAME, value);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::wire::auth::ClusterSecret;

    fn header() -> Header {
        let bytes = |n: u8| bytes::Bytes::from(vec![n; 16]);
        Header { cluster_id: bytes(1), from_id: 2, from_uuid: bytes(3), to_id: 4, to_uuid: bytes(5), admitted: 6 }
    }

    fn carried(header: Option<Header>) -> Result<Caller, String> {
        let mut auth = NodeAuth { secret: ClientAuth(ClusterSecret::none()), header };
        Caller::of(auth.call(Request::new(())).unwrap().metadata())
    }

    #[test]
    fn a_header_arrives_as_it_was_sent_and_a_bad_one_is_named() {
        let read = carried(Some(header())).unwrap();
        assert_eq!(read, Caller::read(Some(&header())).unwrap());
        assert_eq!((read.id, read.to_id, read.admitted, read.cluster.0 >> 120), (2, 4, 6, 1));
        assert!(carried(None).unwrap_err().contains("no header"));
        assert!(carried(Some(Header { from_id: 0, ..header() })).unwrap_err().contains("node 0"));
        for part in [
            Header { cluster_id: bytes::Bytes::new(), ..header() },
            Header { from_uuid: vec![1; 15].into(), ..header() },
            Header { to_uuid: vec![1; 17].into(), ..header() },
        ] {
            assert!(carried(Some(part)).unwrap_err().contains("instead of 16"));
        }
        let long = Header { cluster_id: vec![1; 1000].into(), ..header() };
        assert!(carried(Some(long)).unwrap_err().contains("more than"));
    }
}
