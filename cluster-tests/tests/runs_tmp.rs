use cluster_tests::{
    migration_model::runs::{Rule, Rule::*, Runs},
    serving_model::checker::{Model, Verdict, explore, pretty},
};
use std::fmt::Debug;
fn show(model: &(impl Model + Debug), name: &str) {
    let begin = std::time::Instant::now();
    match explore(model, 6_000_000) {
        Verdict::Holds { states, depth } => {
            println!("HOLDS {name}: {states} states, {depth} steps {:?}", begin.elapsed())
        }
        Verdict::Violated { why, trace, states } => {
            println!("VIOLATED {} {name}: {why} {states} {:?}\n{}", trace.len(), begin.elapsed(), pretty(&trace))
        }
        Verdict::TooLarge => println!("LARGE {name} {:?}", begin.elapsed()),
    }
}
#[test]
fn sizes() {
    let s = Runs::SMALL;
    show(&Runs { election: true, detail: true, ..s }, "election detail");
    show(&Runs { election: true, runs: 3, ..s }, "election 3 runs");
    show(&Runs { election: true, holds: 2, ..s }, "election holds 2");
    show(&Runs { election: true, two_lanes: true, ..s }, "election two lanes");
    show(&Runs { election: true, cancel: true, restart: false, ..s }, "cancel election");
    show(&Runs { election: true, cancel: true, restart: false, runs: 3, ..s }, "cancel election 3");
    show(&Runs { election: true, restart: false, switches: 2, holds: 2, writes: 1, runs: 3, ..s }, "back election");
    show(
        &Runs { election: true, restart: false, switches: 2, holds: 2, sweep: true, writes: 0, runs: 4, ..s },
        "back, sweep election",
    );
    show(
        &Runs { restart: true, cancel: true, switches: 2, holds: 2, sweep: true, writes: 1, runs: 4, ..s },
        "everything, one leader",
    );
}
#[test]
fn rules() {
    let s = Runs { election: true, ..Runs::SMALL };
    let back = Runs { restart: false, switches: 2, holds: 2, sweep: true, writes: 0, runs: 4, ..s };
    let one: &[&'static [Rule]] = &[
        &[CleanTarget],
        &[UnlinksAnswered],
        &[NoReopening],
        &[NamingBeforeApproval],
        &[QuorumRound],
        &[LookIntoLog],
        &[MarkBeforeKill],
        &[Kill],
        &[CloseBeforeStart],
        &[CloseSweepBeforeStart],
        &[StartEndsSweep],
        &[CloseBeforeSwitch],
        &[CloseBeforeStartRun],
        &[CloseBeforeCleaned],
        &[TermOnStart],
        &[TermOnSwitch],
        &[TermOnStartRun],
        &[TermOnCleaned],
        &[NextRun],
        &[AttemptOnHold],
        &[AttemptOnSwitch],
        &[HoldIdOnSwitch],
        &[RunOnCleaned],
        &[RestartBehindFence],
    ];
    for r in one {
        let m = match r[0] {
            CleanTarget => Runs { without: r, runs: 2, ..s },
            UnlinksAnswered => Runs { without: r, runs: 2, two_lanes: true, ..s },
            NamingBeforeApproval => Runs { without: r, detail: true, ..s },
            RestartBehindFence | HoldIdOnSwitch => Runs { without: r, holds: 2, ..s },
            CloseSweepBeforeStart
            | StartEndsSweep
            | CloseBeforeStartRun
            | CloseBeforeCleaned
            | TermOnStartRun
            | TermOnCleaned
            | RunOnCleaned
            | NextRun => Runs { without: r, ..back },
            _ => Runs { without: r, ..s },
        };
        show(&m, &format!("{r:?}"));
    }
}
