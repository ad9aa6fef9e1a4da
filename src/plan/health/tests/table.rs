//! Every kind of warning, in each situation that has it.

use std::collections::BTreeMap;

use super::{G, SHOP, World, addr, data_user};
use crate::{
    model::{
        change::{Change, CreateGroup, NotePrimary, SetCluster, SetGroup, StartPromotion},
        cluster_secret::{SecretReport, SecretTag, SecretTags},
        ids::{GroupId, NodeId},
        promotion::PromotionKind,
        reads::ReadFrom,
        state::Server,
    },
    plan::{
        health::{Quorum, WarningKind},
        observation::{Impairment, ReportedRole},
    },
};

pub type Edit = fn(&mut World);

/// Node `id` reports that it sends this secret, and accepts the other one, too.
fn secrets(world: &mut World, id: usize, sent: u8, other: Option<u8>) {
    let tag = |n| SecretTag::new([n; SecretTag::LEN]);
    let tags = SecretTags { sent: tag(sent), other: other.map(tag) };
    world.nodes[id - 1].secrets = Some(SecretReport { tags: Some(tags), age_ms: 0, refused: None });
}

pub fn fails(world: &mut World, port: u16) {
    world.report(port, |report| (report.failing_ms, report.error) = (Some(9_000), "no answer".into()));
}

pub fn impair(world: &mut World, impairment: Impairment) {
    world.report(7001, |report| {
        report.impaired = Some((impairment, 9_000));
        report.error = "it says why".into();
    });
}

fn well(world: &mut World, port: u16) {
    world.report(port, |_| {});
}

pub fn missing(answering: &[u64], leader: Option<u64>) -> Quorum {
    Quorum::Missing { answering: answering.iter().map(|id| NodeId(*id)).collect(), leader: leader.map(NodeId) }
}

pub fn maintenance(world: &mut World, on: bool) {
    let set = SetCluster { voters: None, hold_ms_max: None, maintenance: Some(on), failover_share_max: None };
    world.make(Change::SetCluster(set));
}

fn group_maintenance(world: &mut World, on: bool) {
    let set = SetGroup {
        product: SHOP,
        group: G,
        down_after_ms: None,
        maintenance: Some(on),
        eject_after_ms: None,
        impaired: Default::default(),
    };
    world.make(Change::SetGroup(set));
}

fn note(world: &mut World, replid: &str, run_id: &str) {
    let epoch = world.state.products[&SHOP].groups[&G].epoch;
    world.make(Change::NotePrimary(NotePrimary {
        product: SHOP,
        group: G,
        epoch,
        replid: replid.into(),
        run_id: run_id.into(),
        keys: 0,
        keys_before: Some(100),
    }));
}

/// Most primaries fail together, that of the group among them.
fn many_fail(w: &mut World) {
    for n in 3..=9u16 {
        let servers = [7000 + 10 * n, 7001 + 10 * n].map(|p| Server::new(addr(p), format!("r{p}"), 0)).to_vec();
        let group = GroupId(n.into());
        w.make(Change::CreateGroup(CreateGroup {
            product: SHOP,
            group,
            servers,
            credentials: None,
            data_user: Some(data_user()),
        }));
        fails(w, 7000 + 10 * n);
        w.report(7001 + 10 * n, |_| {});
    }
    fails(w, 7001);
}

/// Each kind: how it begins, a part of its text, a part of what it says that clears it, and that it does.
pub const TABLE: &[(WarningKind, Edit, &str, &str, Edit)] = &[
    (
        WarningKind::NotFormed,
        |w| (w.quorum, w.voters) = (missing(&[], None), BTreeMap::new()),
        "NOT FORMED: this node belongs to no cluster yet",
        "start the other nodes that its --peers names",
        |w| *w = World::well(),
    ),
    (
        WarningKind::NoQuorum,
        |w| w.quorum = missing(&[2], Some(1)),
        "NO QUORUM: 1 of 3 voters answers; changes are impossible, and product 'default' is not served when leases",
        "start voters until 2 of 3 answer (missing: node 1 at 10.0.0.1:19101, node 3",
        |w| w.quorum = Quorum::Confirmed,
    ),
    (
        WarningKind::NoLeader,
        |w| w.quorum = missing(&[2, 3], Some(1)),
        "NO LEADER: 2 of 3 voters answer, but node 1, which led last, has no majority behind it",
        "an election, within a few seconds; if it lasts, check the network",
        |w| w.quorum = Quorum::Confirmed,
    ),
    (
        WarningKind::SlotsWithoutOwner,
        |w| w.product().slots[7].owner = None,
        "1 slot of product 'default' is not served: no owner",
        "pontoon slot assign SLOTS GID --product default",
        |w| w.product().slots[7].owner = Some(G),
    ),
    (
        WarningKind::PrimaryDown,
        |w| fails(w, 7001),
        "1024 slots of product 'default' are not served: group 2 has no primary: 10.0.0.9:7001 has been down for 9 s (nodes \
         1, 2, 3)",
        "an automatic failover, unless 'waiting on' says why there is none; or make 10.0.0.9:7001 a primary that answers",
        |w| well(w, 7001),
    ),
    (
        WarningKind::PrimaryFollows,
        |w| {
            w.probe(7001, |p| {
                p.role = ReportedRole::Replica { of: addr(1), link_up: true, link_down_ms: 0, syncing: false }
            })
        },
        "1024 slots of product 'default' are not served: 10.0.0.9:7001, the primary of group 2, follows another server",
        "or accept the loss: pontoon group promote 2 HOST:PORT --force --product default",
        |w| well(w, 7001),
    ),
    (
        WarningKind::PrimaryBusy,
        |w| impair(w, Impairment::Busy),
        "has been busy with a script for 9 s",
        "wait for the script, or end it (SCRIPT KILL, FUNCTION KILL)",
        |w| well(w, 7001),
    ),
    (
        WarningKind::PrimaryLoading,
        |w| impair(w, Impairment::Loading),
        "has been loading",
        "wait until it has loaded",
        |w| well(w, 7001),
    ),
    (
        WarningKind::PrimaryRefusesWrites,
        |w| impair(w, Impairment::RefusesWrites),
        "writes of its 1024 slots are not served",
        "give its disk space",
        |w| well(w, 7001),
    ),
    (
        WarningKind::PrimaryRefusesLogin,
        |w| impair(w, Impairment::RefusesLogin),
        "has refused the password of its group for 9 s; requests of its 1024 slots are not served",
        "give it the password (and user) that its group has",
        |w| well(w, 7001),
    ),
    (
        WarningKind::MinAcksUnmet,
        |w| w.product().min_acks = 2,
        "min-acks is 2, and there are 1 replica(s): every write to the 1024 slots of group 2 of product 'default' is answered \
         -NOREPLICAS",
        "pontoon group add-server 2 HOST:PORT --product default, or pontoon product set default min-acks=1",
        |w| w.product().min_acks = 1,
    ),
    (
        WarningKind::MinAcksUnmet,
        |w| {
            w.product().min_acks = 1;
            w.probe(7002, |p| p.replid = "other".into());
        },
        "min-acks is 1, and 0 of 1 replica(s) are in sync",
        "bring the replicas back (pontoon group show 2 --product default says what is wrong), or pontoon product set default min-acks=0",
        |w| well(w, 7002),
    ),
    (
        WarningKind::ReadsUnserved,
        |w| {
            w.product().reads.from = ReadFrom::Replica;
            w.probe(7002, |p| p.replid = "other".into());
        },
        "read-from is replica, and 0 of 1 replica(s) are in sync: every read of the 1024 slots of group 2",
        "bring the replicas back (pontoon group show 2 --product default says what is wrong), or pontoon product set default \
         read-from=prefer-replica",
        |w| well(w, 7002),
    ),
    (
        WarningKind::ReadsUnserved,
        |w| {
            w.product().reads.from = ReadFrom::Replica;
            w.product().groups.get_mut(&G).unwrap().servers.truncate(1);
        },
        "read-from is replica, and 0 of 0 replica(s) are in sync",
        "pontoon group add-server 2 HOST:PORT --product default, or pontoon product set default read-from=prefer-replica",
        |w| w.product().reads.from = ReadFrom::PreferReplica,
    ),
    (
        WarningKind::NotObserved,
        |w| w.seen = None,
        "no leader is known",
        "ask again when a leader answers",
        |w| *w = World::well(),
    ),
    (
        WarningKind::NodeSilent,
        |w| w.nodes[1].silent = Some(Some(12_000)),
        "is not alive: its last heartbeat was 12 s ago",
        "start it again, or remove it: pontoon node remove 2",
        |w| w.nodes[1].silent = None,
    ),
    (
        WarningKind::NodeBlind,
        |w| {
            for port in [7001, 7002] {
                let by = w.seen.as_mut().unwrap().get_mut(&addr(port)).unwrap();
                by.get_mut(&NodeId(3)).unwrap().report.failing_ms = Some(9_000);
            }
        },
        "no server answers node 3",
        "repair the network between node 3 and the servers",
        |w| (well(w, 7001), well(w, 7002)).0,
    ),
    (
        WarningKind::ListenerFailed,
        |w| w.nodes[1].failed_listeners.push(("default".into(), "0.0.0.0:7000".into(), "address in use".into())),
        "node 2 does not listen on 0.0.0.0:7000 for product 'default': address in use",
        "free the address on that machine, or pontoon product set default port=..",
        |w| w.nodes[1].failed_listeners.clear(),
    ),
    (
        WarningKind::SecretFileRefused,
        |w| {
            let refused = Some("secret file /etc/pontoon/secret: it is empty".into());
            w.nodes[1].secrets = Some(SecretReport { refused, ..SecretReport::default() });
        },
        "node 2 keeps the cluster secrets that it had: secret file /etc/pontoon/secret: it is empty",
        "correct that file, and reload node 2",
        |w| w.nodes[1].secrets = Some(SecretReport::default()),
    ),
    (
        WarningKind::SecretsDiffer,
        |w| {
            secrets(w, 1, 1, Some(2));
            secrets(w, 2, 1, None);
            secrets(w, 3, 1, Some(2));
        },
        "the nodes differ in their cluster secrets: nodes 1, 3 send A and accept B; node 2 sends A",
        "give every node the same secret file and reload it",
        |w| secrets(w, 2, 1, Some(2)),
    ),
    (
        WarningKind::SecretsDiffer,
        |w| {
            secrets(w, 1, 1, Some(2));
            secrets(w, 2, 2, Some(1));
            w.nodes[2].secrets = Some(SecretReport::default());
        },
        "node 1 sends A and accepts B; node 2 sends B and accepts A; node 3 has none",
        "give every node the same secret file and reload it",
        // The others are not alive: what they last reported does not count.
        |w| w.nodes[1..].iter_mut().for_each(|node| node.silent = Some(None)),
    ),
    (
        WarningKind::TwoSecrets,
        |w| (1..=3).for_each(|id| secrets(w, id, 2, Some(1))),
        "two cluster secrets are valid",
        "go on with the replacement",
        |w| (1..=3).for_each(|id| secrets(w, id, 2, None)),
    ),
    (
        WarningKind::ServerDown,
        |w| fails(w, 7002),
        "10.0.0.9:7002 (replica in group 2 of product 'default') has been down for 9 s",
        "start it again, or remove it: pontoon group remove-server 2 10.0.0.9:7002 --product default",
        |w| well(w, 7002),
    ),
    (
        WarningKind::ServerNotProbed,
        |w| w.report(7002, |report| report.error = "10.0.0.9:7002 refuses the password".into()),
        "group 2 of product 'default' cannot be watched: 10.0.0.9:7002 refuses the password",
        "let the server answer the group's login and INFO",
        |w| well(w, 7002),
    ),
    (
        WarningKind::PrimaryRestarted,
        |w| {
            note(w, "h", "r7001");
            w.probe(7001, |p| (p.run_id, p.replid, p.keys) = ("later".into(), "h2".into(), 0));
            note(w, "h2", "later");
        },
        "the primary 10.0.0.9:7001 restarted empty 0 s ago",
        "the warning ends a day after the restart",
        // A day.
        |w| w.now_ms += 24 * 3600 * 1000,
    ),
    (
        WarningKind::FailoverHeldBack,
        |w| many_fail(w),
        "group 2 of product 'default' is not failed over: 10.0.0.9:7001 is down",
        "repair what the primaries have in common; or pontoon cluster set failover-share-max=..; or promote",
        |w| {
            for n in 3..=9 {
                well(w, 7000 + 10 * n);
            }
            well(w, 7001);
        },
    ),
    (
        WarningKind::Maintenance,
        |w| maintenance(w, true),
        "in the whole cluster",
        "pontoon maintenance off",
        |w| maintenance(w, false),
    ),
    (
        WarningKind::GroupMaintenance,
        |w| group_maintenance(w, true),
        "group 2 of product 'default' is in maintenance",
        "pontoon maintenance off 2 --product default",
        |w| group_maintenance(w, false),
    ),
    (
        WarningKind::TwoVoters,
        |w| drop(w.voters.pop_last()),
        "two voters survives no failure",
        "start a third node (pontoon serve --join)",
        |w| drop(w.voters.insert(NodeId(3), "10.0.0.3:19101".into())),
    ),
    (
        WarningKind::NotPersistent,
        |w| w.probe(7001, |p| p.persistent = Some(false)),
        "the primary 10.0.0.9:7001 does not persist",
        "set 'save' or 'appendonly yes' in its redis.conf",
        |w| well(w, 7001),
    ),
    (
        WarningKind::UnmanagedReplica,
        |w| w.probe(7001, |p| p.role = ReportedRole::Primary { replicas: vec![(addr(7002), 9), (addr(7777), 9)] }),
        "an unmanaged replica is in sync with the primary: 10.0.0.9:7777",
        "add it to the group (pontoon group add-server 2 10.0.0.9:7777 --product default), or end its replication",
        |w| well(w, 7001),
    ),
    (
        WarningKind::NoReplica,
        |w| w.product().groups.get_mut(&G).unwrap().servers.truncate(1),
        "there is no replica",
        "pontoon group add-server 2 HOST:PORT --product default",
        |w| w.product().groups.get_mut(&G).unwrap().servers.push(Server::new(addr(7002), "r7002".into(), 0)),
    ),
    (
        WarningKind::NoDataUser,
        |w| w.product().groups.get_mut(&G).unwrap().data_user = None,
        "there is no data user",
        "pontoon group set 2 data-user=new --product default",
        |w| w.product().groups.get_mut(&G).unwrap().data_user = Some(data_user()),
    ),
    // The same kinds in other situations.
    (
        WarningKind::PrimaryDown,
        |w| {
            w.product().groups.get_mut(&G).unwrap().servers.truncate(1);
            fails(w, 7001);
        },
        "group 2 has no primary",
        "make 10.0.0.9:7001 a primary that answers (the group has no replica that could replace it)",
        |w| well(w, 7001),
    ),
    (
        WarningKind::PrimaryDown,
        |w| {
            fails(w, 7001);
            let group_epoch = w.state.products[&SHOP].groups[&G].epoch;
            w.make(Change::StartPromotion(StartPromotion {
                product: SHOP,
                group: G,
                to: addr(7002),
                kind: PromotionKind::Failover,
                group_epoch,
                required_offset: None,
                forced: false,
                why: "a test".into(),
            }));
        },
        "group 2 has no primary",
        "to 10.0.0.9:7002, which is in progress",
        |w| well(w, 7001),
    ),
    (
        WarningKind::ServerDown,
        |w| {
            w.product().slots.iter_mut().for_each(|slot| slot.owner = None);
            fails(w, 7001);
        },
        "10.0.0.9:7001 has been down for 9 s (nodes 1, 2, 3); it is the primary of group 2",
        "start it again, or remove the group: pontoon group remove 2 --product default",
        |w| well(w, 7001),
    ),
    (
        WarningKind::ServerNotProbed,
        |w| w.report(7001, |report| report.error = "10.0.0.9:7001 refuses INFO".into()),
        "cannot be watched: 10.0.0.9:7001 refuses INFO",
        "details: pontoon group show 2 --product default",
        |w| well(w, 7001),
    ),
    (
        WarningKind::FailoverHeldBack,
        |w| many_fail(w),
        "is not failed over: 10.0.0.9:7001 is down",
        "pontoon group promote 2 HOST:PORT --force --product default",
        |w| {
            let set = SetCluster { voters: None, hold_ms_max: None, maintenance: None, failover_share_max: Some(100) };
            w.make(Change::SetCluster(set));
        },
    ),
    (
        WarningKind::NodeSilent,
        |w| w.nodes[1].silent = Some(None),
        "this leader has had no heartbeat from it",
        "pontoon node remove 2",
        |w| drop(w.nodes.remove(1)),
    ),
    (
        WarningKind::UnmanagedReplica,
        |w| w.probe(7001, |p| p.unnamed_replicas = 2),
        "2 unmanaged replica(s) that report no port",
        "end them, if they may not have the data (CLIENT LIST TYPE replica on 10.0.0.9:7001 shows them)",
        |w| well(w, 7001),
    ),
    (
        WarningKind::UnmanagedReplica,
        |w| {
            w.product().min_acks = 1;
            w.probe(7001, |p| p.unnamed_replicas = 2);
        },
        "because of the unmanaged replicas a write waits for 3 replicas",
        "add the unmanaged replicas to the group, or end their replication",
        |w| well(w, 7001),
    ),
];
