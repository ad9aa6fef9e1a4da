//! How nodes name each other on the wire: conversions of node.proto; and the incarnation of a start.

use crate::{
    model::{
        change::NewMember,
        ids::{HostPort, Incarnation, NodeId, Uuid},
        state::ClusterState,
    },
    wire::pb::node::NodeInfo,
};

/// A node as it is sent over the wire.
#[must_use]
pub fn to_wire(node: &NewMember) -> NodeInfo {
    NodeInfo {
        id: node.id.0,
        uuid: uuid_bytes(node.uuid),
        admin: node.admin.to_string(),
        advertise: node.advertise.clone(),
        port_offset: u32::from(node.port_offset),
    }
}

/// A node as it was received.
///
/// # Errors
/// Returns which field is wrong and why, as text for the operator.
pub fn from_wire(info: Option<NodeInfo>) -> Result<NewMember, String> {
    /// Longest DNS name.
    const HOST_LEN_MAX: usize = 253;
    let info = info.ok_or("the message does not name its sender")?;
    if info.id == 0 {
        return Err("a node's id is a number from 1".into());
    }
    if info.advertise.is_empty() || info.advertise.len() > HOST_LEN_MAX {
        return Err("the advertised host is empty or too long".into());
    }
    Ok(NewMember {
        id: NodeId(info.id),
        uuid: uuid_from(&info.uuid).ok_or("a node's uuid has 16 bytes")?,
        admin: HostPort::parse(&info.admin)?,
        advertise: info.advertise,
        port_offset: u16::try_from(info.port_offset).map_err(|_| "the port offset is above 65535")?,
    })
}

/// 16 bytes, big end first.
#[must_use]
pub fn uuid_bytes(uuid: Uuid) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&uuid.0.to_be_bytes())
}

/// `None` unless there are exactly 16 bytes and they are not all zero.
#[must_use]
pub fn uuid_from(bytes: &[u8]) -> Option<Uuid> {
    let bytes: [u8; 16] = bytes.try_into().ok()?;
    let number = u128::from_be_bytes(bytes);
    (number != 0).then_some(Uuid(number))
}

/// The incarnation of this start, once the log has admitted it.
pub(super) fn incarnation(state: &ClusterState, me: &NewMember, start: Uuid) -> Option<Incarnation> {
    let member = state.members.get(&me.id).filter(|m| m.uuid == me.uuid)?;
    member.admitted.filter(|a| a.start == start).map(|a| a.incarnation)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_node_is_the_same_after_a_round_trip_and_invalid_messages_are_refused() {
        let node = NewMember {
            id: NodeId(7),
            uuid: Uuid(1 << 100),
            admin: HostPort::parse("127.0.0.1:19107").unwrap(),
            advertise: "node7".into(),
            port_offset: 7,
        };
        assert_eq!(from_wire(Some(to_wire(&node))).unwrap(), node);
        let broken = |change: fn(&mut NodeInfo)| {
            let mut info = to_wire(&node);
            change(&mut info);
            from_wire(Some(info)).unwrap_err()
        };
        assert!(from_wire(None).is_err());
        assert!(broken(|i| i.id = 0).contains("id"));
        assert!(broken(|i| i.uuid = vec![1; 15].into()).contains("uuid"));
        assert!(broken(|i| i.uuid = vec![0; 16].into()).contains("uuid"));
        assert!(broken(|i| i.admin = "nohost".into()).contains("HOST:PORT"));
        assert!(broken(|i| i.advertise.clear()).contains("advertised"));
        assert!(broken(|i| i.port_offset = 70_000).contains("offset"));
    }
}
