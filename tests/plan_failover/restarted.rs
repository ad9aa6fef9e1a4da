//! Tables: a primary of a group with `min-acks` that answers as another process than the log knows.

use pontoon::{
    model::{
        ids::NodeId,
        route::Mode,
        secret::{Credentials, Secret},
    },
    plan::{
        observation::ReportedRole,
        replication::{LoginProcesses, ReplicationAction, logins},
    },
};

use crate::world::{GROUP, PRIMARY, PRODUCT, World, addr};

const REPLICAS: [u16; 2] = [7002, 7003];

/// What a replica of a primary that was restarted is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replica {
    /// The process that followed the former primary, with the data up to this offset.
    Waits(u64),
    /// It has copied the data of the new process.
    Copied,
    /// It was restarted too, and has what it loaded from its disk; with the history that it had, or another one.
    Loaded(&'static str),
    /// It does not answer.
    Silent,
}

impl Replica {
    const ALL: [Self; 6] =
        [Self::Waits(900), Self::Waits(1_000), Self::Copied, Self::Loaded("id1"), Self::Loaded("loaded"), Self::Silent];
}

/// A group whose primary was restarted, and its replicas.
fn restarted(min_acks: u8, replicas: [Replica; 2]) -> World {
    let mut world = World::up();
    world.state.products.get_mut(&PRODUCT).unwrap().min_acks = min_acks;
    world.probe(PRIMARY, |probe| (probe.run_id, probe.replid) = ("again".into(), "new".into()));
    for (port, replica) in REPLICAS.into_iter().zip(replicas) {
        let link =
            |up, link_down_ms| ReportedRole::Replica { of: addr(PRIMARY), link_up: up, link_down_ms, syncing: false };
        match replica {
            Replica::Waits(offset) => {
                world.probe(port, |probe| (probe.role, probe.offset) = (link(false, 700), offset))
            }
            Replica::Copied => world.probe(port, |probe| (probe.role, probe.replid) = (link(true, 0), "new".into())),
            Replica::Loaded(replid) => world.probe(port, |probe| {
                (probe.role, probe.replid) = (link(false, u64::MAX), replid.into());
                probe.run_id = "loaded".into();
            }),
            Replica::Silent => world.edit_reports(port, |report| {
                (report.failing_ms, report.probe) = (Some(60_000), None);
            }),
        }
    }
    world
}

fn notes(world: &World) -> bool {
    world.actions().iter().any(|(port, action)| *port == PRIMARY && matches!(action, ReplicationAction::Note { .. }))
}

/// In each combination: a replica is promoted only if no other one that is left may have more; the new process is accepted only if
/// no replica may have more, or one has copied it; otherwise the operator is asked.
#[test]
fn a_restarted_primary_is_replaced_or_accepted_or_left_to_the_operator() {
    let (mut replaced, mut accepted, mut left) = (0, 0, 0);
    for min_acks in [1, 2] {
        for replicas in Replica::ALL.iter().flat_map(|a| Replica::ALL.map(|b| [*a, b])) {
            let world = restarted(min_acks, replicas);
            let (reasons, begun) = world.decisions();
            let offset = |replica: &Replica| match replica {
                Replica::Waits(offset) => Some(*offset),
                Replica::Loaded("id1") => Some(1_000),
                _ => None,
            };
            let best = replicas.iter().filter_map(offset).max();
            let answers = replicas.iter().filter_map(offset).count();
            let open = replicas.iter().any(|replica| matches!(replica, Replica::Waits(_) | Replica::Silent));
            let copied = replicas.contains(&Replica::Copied);
            // Restarted since nodes saw it in sync: what only it had is gone.
            let failed = replicas.iter().filter(|replica| **replica == Replica::Loaded("loaded")).count();
            match begun[..] {
                [port] => {
                    replaced += 1;
                    let chosen = replicas[usize::from(port - REPLICAS[0])];
                    assert!(matches!(chosen, Replica::Waits(_)), "{min_acks} {replicas:?}");
                    assert_eq!(offset(&chosen), best, "{min_acks} {replicas:?}");
                    assert!(answers + failed >= 3 - usize::from(min_acks) && !copied, "{min_acks} {replicas:?}");
                    assert!(world.actions().is_empty(), "{min_acks} {replicas:?}: {:?}", world.actions());
                }
                _ if notes(&world) => {
                    accepted += 1;
                    assert!(copied || !open, "{min_acks} {replicas:?}");
                    assert!(reasons.is_empty(), "{reasons:?}");
                }
                _ => {
                    left += 1;
                    assert!(open && !copied && world.actions().is_empty(), "{min_acks} {replicas:?}");
                    assert!(reasons[0].contains("was restarted") && reasons[0].contains("--force"), "{reasons:?}");
                }
            }
        }
    }
    assert!(replaced > 0 && accepted > 0 && left > 0, "{replaced} {accepted} {left}");
}

#[test]
fn without_min_acks_and_in_a_cache_the_restarted_primary_is_accepted() {
    let waits = [Replica::Waits(1_000); 2];
    assert!(!notes(&restarted(1, waits)));
    let mut cache = restarted(1, waits);
    cache.state.products.get_mut(&PRODUCT).unwrap().mode = Mode::Cache;
    for world in [restarted(0, waits), cache] {
        assert!(notes(&world) && world.decisions().1.is_empty(), "{:?}", world.decisions());
    }
}

#[test]
fn a_restart_is_believed_when_a_majority_sees_it() {
    let mut world = restarted(1, [Replica::Waits(1_000); 2]);
    assert_eq!(world.decisions().1, [7002]);
    for node in [2, 3] {
        let seen = world.seen.get_mut(&addr(PRIMARY)).unwrap().get_mut(&NodeId(node)).unwrap();
        let (probe, age_ms) = seen.report.probe.as_mut().unwrap();
        (probe.run_id, *age_ms) = (format!("run{PRIMARY}"), 400);
    }
    assert_eq!((world.decisions(), world.actions()), ((Vec::new(), Vec::new()), Vec::new()));
}

/// What a diverged server had was given up, but not what it has copied since. After a promotion, a replica that has not reached the new primary yet has
/// the history of the one before.
#[test]
fn which_replicas_may_have_more() {
    let mut diverged = restarted(1, [Replica::Waits(1_000), Replica::Silent]);
    diverged.edit(|group| group.servers[1..].iter_mut().for_each(|server| server.diverged = true));
    let resynced = ReplicationAction::Resynced { of: addr(PRIMARY), replid: "id1".into() };
    assert_eq!(diverged.actions(), [(7002, resynced)], "it had copied the former process");
    for port in REPLICAS {
        diverged.edit_reports(port, |report| report.in_sync = None);
    }
    assert!(!notes(&diverged) && diverged.actions().is_empty(), "it has the data, and no probe saw its link up");
    diverged.probe(7002, |probe| probe.replid = "its own".into());
    assert!(notes(&diverged));
    let mut silent = restarted(1, [Replica::Loaded("loaded"); 2]);
    assert!(notes(&silent));
    silent.edit_reports(7002, |report| report.failing_ms = Some(500));
    assert!(!notes(&silent), "it may have copied the former process since its last probe");
    let mut promoted = restarted(1, [Replica::Waits(1_000); 2]);
    promoted.edit(|group| group.replid = "of the promoted process".into());
    // One has been pointed at the new primary, and has never reached it.
    for port in REPLICAS {
        promoted.probe(port, |probe| {
            let ReportedRole::Replica { link_down_ms, .. } = &mut probe.role else { panic!("a primary") };
            *link_down_ms = u64::MAX;
        });
    }
    let (reasons, begun) = promoted.decisions();
    assert!(begun.is_empty() && reasons[0].contains("another replication id"), "{reasons:?}");
    assert!(promoted.actions().is_empty(), "{:?}", promoted.actions());
}

/// Several primaries that were restarted together do not hold each other back: it is proven that the processes are gone.
#[test]
fn the_guard_does_not_count_restarted_primaries() {
    let mut world = restarted(1, [Replica::Waits(1_000); 2]);
    world.state.settings.failover_share_max = 1;
    for id in 2..=5 {
        let port = 7_000 + 100 * u16::try_from(id).unwrap();
        world.group(id, &[port, port + 1]);
        world.probe(port, |probe| (probe.run_id, probe.replid) = ("again".into(), "new".into()));
    }
    assert_eq!(world.decisions().1, [7002, 7201, 7301, 7401, 7501]);
}

#[test]
fn a_failover_from_a_restarted_primary_goes_on_while_it_answers() {
    let mut world = restarted(1, [Replica::Waits(1_000); 2]);
    world.start(7002, false);
    assert_eq!(world.primary_back(), None);
    world.fail(7002, 60_000);
    assert!(world.primary_back().unwrap().contains("does not answer"));
}

/// Credentials are set while the primary is the process that the log knows, and no promotion is open.
#[test]
fn replicas_get_the_credentials_of_the_known_primary() {
    let of = |world: &World| {
        let fixes = logins(&world.state, &world.seen).into_iter();
        fixes.filter(|fix| fix.group == GROUP).map(|fix| (fix.addr.port(), fix.action)).collect::<Vec<_>>()
    };
    let mut world = World::up();
    let login = |port: u16, protected| {
        let (replica, primary) = (format!("run{port}"), format!("run{PRIMARY}"));
        (port, ReplicationAction::SetLogin(LoginProcesses { replica, primary, protected, credentials: None }))
    };
    let mut other = World::up();
    let password = Credentials { username: None, password: Secret::new("second".into()) };
    other.edit(|group| group.credentials = Some(password.clone()));
    let all = of(&other).into_iter().map(|(_, action)| action);
    let again = |action| matches!(action, ReplicationAction::SetLogin(LoginProcesses { credentials: Some(c), .. }) if c == password);
    assert!(all.map(again).eq([true; 2]), "other credentials are set, too");

    assert_eq!(of(&world), [login(7002, false), login(7003, false)]);
    world.state.products.get_mut(&PRODUCT).unwrap().min_acks = 1;
    assert_eq!(of(&world), [login(7002, true), login(7003, true)]);
    world.start(7002, false);
    assert_eq!(of(&world), []);
    assert_eq!(of(&restarted(1, [Replica::Waits(1_000); 2])), []);
}
