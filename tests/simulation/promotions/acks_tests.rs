//! The tests of this world with `min-acks`: random faults, restarts with less data among them.

use std::collections::BTreeMap;

use super::{
    super::{
        network::{Ns, SECOND},
        number_from_env,
    },
    HEALTHY_WITHIN, Rules, SERVERS, Seen, Setting, World,
    acks::{LAST_COPY, RESTART_REASONS},
};

/// Seeds of an ordinary run.
const SEEDS: u64 = 100;
const FAULTS_UNTIL: Ns = 40 * SECOND;
/// Seeds within which a simulation without one of the rules must show a loss.
const CATCH_SEEDS: u64 = 500;

fn world(seed: u64, rules: Rules, traced: bool) -> World {
    let (min_acks, saves) = (if seed.is_multiple_of(3) { 2 } else { 1 }, true);
    let random = Some((seed, FAULTS_UNTIL));
    World::new(
        Setting { saves, appends: true, min_acks, switchover: true, faults: BTreeMap::new(), random, traced },
        rules,
    )
}

/// Random faults, and then time without any. Returns why the group waits for its operator; `None`: it does not.
fn run(world: &mut World) -> Result<Option<&'static str>, String> {
    while world.now < FAULTS_UNTIL {
        world.run_until(world.now + SECOND / 10);
        world.check_writes()?;
    }
    world.end_faults();
    let end = world.now + HEALTHY_WITHIN;
    while world.is_healthy().is_err() && world.now < end {
        world.run_until(world.now + SECOND / 2);
        world.check_writes()?;
    }
    world.check_writes()?;
    let Err(why) = world.is_healthy() else { return Ok(None) };
    let reason = world.operator_decides().map_err(|text| format!("{why}\n{text}"))?;
    if reason != LAST_COPY {
        // The operator accepts the loss, and keeps the primary as it is.
        world.set_min_acks(0);
        let end = world.now + HEALTHY_WITHIN;
        while world.is_healthy().is_err() && world.now < end {
            world.run_until(world.now + SECOND / 2);
        }
        let waits = |why| if world.operator_decides() == Ok(LAST_COPY) { Ok(()) } else { Err(why) };
        world.is_healthy().or_else(waits).map_err(|why| format!("after min-acks=0: {why}"))?;
    }
    Ok(Some(reason))
}

fn run_seed(seed: u64, rules: Rules) -> Result<(Seen, Option<&'static str>), String> {
    let mut first = world(seed, rules, false);
    if let Ok(waits) = run(&mut first) {
        return Ok((first.seen, waits));
    }
    // A failure is repeated with its trace.
    let mut again = world(seed, rules, true);
    let why = run(&mut again).err().unwrap_or_default();
    Err(format!("seed {seed}: {why}\n{}", again.trace()))
}

#[test]
fn no_acknowledged_write_is_lost_and_a_primary_appears() {
    let first = number_from_env("PONTOON_SIM_FIRST").unwrap_or(0);
    let default = ["PONTOON_SIM_FIRST", "PONTOON_SIM_SEED"].iter().all(|name| number_from_env(name).is_none());
    let seeds = match number_from_env("PONTOON_SIM_SEED") {
        Some(one) => one..one + 1,
        None => first..first + number_from_env("PONTOON_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let (mut all, mut exceptions) = (Seen::default(), BTreeMap::<&str, u32>::new());
    for seed in seeds {
        let (seen, waits) = run_seed(seed, Rules::ALL).unwrap_or_else(|why| panic!("{why}"));
        waits.into_iter().for_each(|what| *exceptions.entry(what).or_default() += 1);
        all.faults += seen.faults;
        all.failovers += seen.failovers;
        all.restored += seen.restored;
        all.acked += seen.acked;
        all.excused += seen.excused;
    }
    println!("{all:?}, {exceptions:?}; {SERVERS} servers");
    if default && number_from_env("PONTOON_SIM_SEEDS").is_none_or(|seeds| seeds >= SEEDS) {
        let occurred: Vec<&str> = exceptions.into_keys().collect();
        let mut documented = [&RESTART_REASONS[..], &[LAST_COPY]].concat();
        documented.sort_unstable();
        assert_eq!(occurred, documented);
    }
}

fn finds_a_loss(rules: Rules) {
    let found = (0..CATCH_SEEDS).find_map(|seed| run_seed(seed, rules).err());
    let why = found.expect("a loss");
    println!("{}", why.lines().next().unwrap_or_default());
    assert!(why.contains("acknowledged writes"), "{why}");
}

#[test]
fn catches_replicas_that_may_always_log_in() {
    finds_a_loss(Rules { replication_user: false, ..Rules::ALL });
}

/// A replica that was restarted then logs in at a primary that was restarted, too, with the group's credentials.
#[test]
fn catches_a_login_that_is_not_saved() {
    finds_a_loss(Rules { save_login: false, ..Rules::ALL });
}

#[test]
fn catches_offsets_that_are_not_compared() {
    finds_a_loss(Rules { compare_offsets: false, ..Rules::ALL });
}
