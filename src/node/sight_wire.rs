//! What nodes see of servers, between plan's types and node.proto.
//! Knows nothing of who looks, nor of who reads it.

use crate::{
    model::{
        ids::HostPort,
        limits::{RUN_ID_LEN_MAX, TEXT_LEN_MAX},
    },
    plan::observation::{Linked, Look, RoleSeen, Sight},
    wire::pb::node as pb,
};

/// Sights that a heartbeat may carry. A page ([`super::sights`]) is smaller by its bytes; this bounds what is taken.
pub const SIGHTS_MAX: usize = 16_384;
/// Replicas of a primary that are told of: four times what a group has, since others may follow it, too.
pub const REPLICAS_MAX: usize = 64;

/// A sight for a heartbeat.
#[must_use]
pub fn write(server: &HostPort, sight: &Sight) -> pb::ServerSight {
    let linked = |linked: &Linked| pb::LinkSeen {
        to: linked.to.to_string(),
        replid: linked.replid.clone(),
        run_id: linked.run_id.clone(),
        ago_ms: linked.ago_ms,
    };
    pb::ServerSight {
        server: server.to_string(),
        look: sight.look.as_ref().map(|(look, _)| look_to_wire(look)),
        look_age_ms: sight.look.as_ref().map_or(0, |(_, age_ms)| *age_ms),
        failing_ms: sight.failing_ms,
        error: sight.error.clone(),
        linked: sight.linked.as_ref().map(linked),
    }
}

/// What a heartbeat says of servers. A role that this program does not know makes a sight without a look.
///
/// # Errors
/// What is wrong with it.
pub fn read(sights: Vec<pb::ServerSight>) -> Result<Vec<(HostPort, Sight)>, String> {
    if sights.len() > SIGHTS_MAX {
        return Err(format!("a heartbeat tells of more than {SIGHTS_MAX} servers"));
    }
    sights.into_iter().map(sight).collect()
}

fn look_to_wire(look: &Look) -> pb::ServerLook {
    let role = match &look.role {
        RoleSeen::Primary { replicas } => {
            let replica =
                |(server, offset): &(HostPort, u64)| pb::ReplicaOffset { server: server.to_string(), offset: *offset };
            let replicas = replicas.iter().take(REPLICAS_MAX).map(replica).collect();
            pb::server_look::Role::Primary(pb::PrimarySeen { replicas })
        }
        RoleSeen::Replica { of, link_up, link_down_ms, syncing } => pb::server_look::Role::Replica(pb::ReplicaSeen {
            of: of.to_string(),
            link_up: *link_up,
            link_down_ms: *link_down_ms,
            syncing: *syncing,
        }),
    };
    let (replid2, replid2_until) = look.replid2.clone().unwrap_or_default();
    pb::ServerLook {
        run_id: look.run_id.clone(),
        role: Some(role),
        replid: look.replid.clone(),
        offset: look.offset,
        replid2,
        replid2_until,
        loading: look.loading,
        used_memory: look.used_memory,
        keys: look.keys,
        ops_per_second: look.ops_per_second,
        ping_us: look.ping_us,
        persistent: look.persistent,
        unnamed_replicas: look.unnamed_replicas,
    }
}

fn sight(sight: pb::ServerSight) -> Result<(HostPort, Sight), String> {
    let linked = |seen: pb::LinkSeen| {
        let (replid, run_id) = (id(&seen.replid), id(&seen.run_id));
        Ok::<_, String>(Linked { to: HostPort::parse(&seen.to)?, replid, run_id, ago_ms: seen.ago_ms })
    };
    let look = sight.look.map(look).transpose()?.flatten();
    let seen = Sight {
        look: look.map(|look| (look, sight.look_age_ms)),
        failing_ms: sight.failing_ms,
        error: sight.error.chars().take(TEXT_LEN_MAX).collect(),
        linked: sight.linked.map(linked).transpose()?,
    };
    Ok((HostPort::parse(&sight.server)?, seen))
}

fn look(look: pb::ServerLook) -> Result<Option<Look>, String> {
    let role = match look.role {
        None => return Ok(None),
        Some(pb::server_look::Role::Primary(primary)) => {
            let replica = |r: pb::ReplicaOffset| Ok::<_, String>((HostPort::parse(&r.server)?, r.offset));
            let replicas = primary.replicas.into_iter().take(REPLICAS_MAX).map(replica).collect::<Result<_, _>>()?;
            RoleSeen::Primary { replicas }
        }
        Some(pb::server_look::Role::Replica(replica)) => RoleSeen::Replica {
            of: HostPort::parse(&replica.of)?,
            link_up: replica.link_up,
            link_down_ms: replica.link_down_ms,
            syncing: replica.syncing,
        },
    };
    let replid2 = id(&look.replid2);
    Ok(Some(Look {
        run_id: id(&look.run_id),
        role,
        replid: id(&look.replid),
        offset: look.offset,
        replid2: (!replid2.is_empty()).then_some((replid2, look.replid2_until)),
        loading: look.loading,
        used_memory: look.used_memory,
        keys: look.keys,
        ops_per_second: look.ops_per_second,
        ping_us: look.ping_us,
        persistent: look.persistent,
        unnamed_replicas: look.unnamed_replicas,
    }))
}

/// A run id or replication id as a server tells it: shortened to what the log would take.
#[must_use]
pub fn id(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(RUN_ID_LEN_MAX).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn addr(n: usize) -> HostPort {
        HostPort::parse(&format!("127.0.0.1:{n}")).unwrap()
    }

    fn seen(role: RoleSeen) -> Sight {
        let look = Look {
            run_id: "run".into(),
            role,
            replid: "id".into(),
            offset: 5,
            replid2: Some(("former".into(), 3)),
            loading: true,
            used_memory: 1,
            keys: 2,
            ops_per_second: 3,
            ping_us: 4,
            persistent: Some(false),
            unnamed_replicas: 2,
        };
        Sight {
            look: Some((look, 7)),
            failing_ms: Some(0),
            error: "it hangs".into(),
            linked: Some(Linked { to: addr(2), replid: "id".into(), run_id: "run".into(), ago_ms: 8 }),
        }
    }

    #[test]
    fn a_sight_arrives_as_it_was_sent() {
        let replica = RoleSeen::Replica { of: addr(3), link_up: false, link_down_ms: u64::MAX, syncing: true };
        let primary = RoleSeen::Primary { replicas: vec![(addr(4), 9)] };
        let never = Sight { failing_ms: None, ..Sight::default() };
        for sight in [seen(replica), seen(primary), never] {
            let read = read(vec![write(&addr(1), &sight)]).unwrap();
            assert_eq!(read, [(addr(1), sight)]);
        }
    }

    #[test]
    fn what_is_too_much_is_cut_or_refused() {
        let many = RoleSeen::Primary { replicas: (1..=2 * REPLICAS_MAX).map(|n| (addr(n), 0)).collect() };
        let sight = Sight { error: "x".repeat(2 * TEXT_LEN_MAX), ..seen(many) };
        let mut wire = write(&addr(1), &sight);
        wire.look.as_mut().unwrap().run_id = "r ".repeat(RUN_ID_LEN_MAX);
        let (_, taken) = read(vec![wire.clone()]).unwrap().remove(0);
        assert_eq!(taken.error.len(), TEXT_LEN_MAX);
        let (look, _) = taken.look.unwrap();
        assert_eq!(look.run_id, "r".repeat(RUN_ID_LEN_MAX));
        assert!(matches!(look.role, RoleSeen::Primary { replicas } if replicas.len() == REPLICAS_MAX));
        assert!(read(vec![pb::ServerSight::default(); SIGHTS_MAX + 1]).is_err());
        for bad in ["", "host", "host:0"] {
            assert!(read(vec![pb::ServerSight { server: bad.into(), ..wire.clone() }]).is_err(), "{bad}");
        }
        // A role of a later version: the server is there, and what it is is not known.
        wire.look.as_mut().unwrap().role = None;
        assert_eq!(read(vec![wire]).unwrap()[0].1.look, None);
    }
}
