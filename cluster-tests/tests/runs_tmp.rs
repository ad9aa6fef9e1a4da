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
    let s = Runs { election: true, ..Runs::SMALL };
    show(&Runs { detail: true, ..s }, "detail");
    show(&Runs { detail: true, writes: 0, restart: false, runs: 1, ..s }, "detail, one run");
    show(
        &Runs {
            restart: true,
            cancel: true,
            switches: 2,
            holds: 2,
            sweep: false,
            writes: 0,
            runs: 4,
            election: false,
            ..s
        },
        "no sweep, one leader",
    );
    show(
        &Runs {
            restart: false,
            cancel: true,
            switches: 2,
            holds: 2,
            sweep: true,
            writes: 1,
            runs: 4,
            election: false,
            ..s
        },
        "no restart, one leader",
    );
    show(
        &Runs {
            restart: true,
            cancel: true,
            switches: 1,
            holds: 2,
            sweep: false,
            writes: 1,
            runs: 3,
            election: false,
            ..s
        },
        "forth, one leader",
    );
}
#[test]
fn rules() {
    let s = Runs { election: false, ..Runs::SMALL };
    let one: &[&'static [Rule]] = &[
        &[CleanTarget],
        &[UnlinksAnswered],
        &[NoReopening],
        &[NamingBeforeApproval],
        &[LookIntoLog],
        &[MarkBeforeKill],
        &[Kill],
        &[CloseBeforeStart],
        &[CloseSweepBeforeStart],
        &[StartEndsSweep],
        &[CloseBeforeSwitch],
        &[CloseBeforeStartRun],
        &[CloseBeforeCleaned],
        &[NextRun],
        &[HoldIdOnSwitch],
        &[RunOnCleaned],
        &[RestartBehindFence],
    ];
    let back = Runs { restart: false, switches: 2, holds: 2, sweep: true, writes: 0, runs: 4, ..s };
    let wipe = Runs { restart: false, cancel: true, writes: 0, runs: 3, ..s };
    for r in one {
        let m = match r[0] {
            UnlinksAnswered => Runs { without: r, runs: 2, two_lanes: true, ..s },
            NamingBeforeApproval => Runs { without: r, detail: true, writes: 0, restart: false, runs: 1, ..s },
            RestartBehindFence | HoldIdOnSwitch => Runs { without: r, holds: 2, ..s },
            CloseBeforeStartRun | RunOnCleaned | NextRun => Runs { without: r, ..wipe },
            CloseSweepBeforeStart | StartEndsSweep | CloseBeforeCleaned => Runs { without: r, ..back },
            _ => Runs { without: r, ..s },
        };
        show(&m, &format!("{r:?}"));
    }
    let r = &[NextRun];
    show(&Runs { without: r, sweep: false, ..back }, "NextRun back");
    let r = &[RunOnCleaned];
    show(&Runs { without: r, sweep: false, ..back }, "RunOnCleaned back");
    let back = Runs { election: true, ..back };
    let r = &[TermOnStartRun];
    show(&Runs { without: r, sweep: false, ..back }, "TermOnStartRun back");
    let r = &[TermOnStartRun];
    show(&Runs { without: r, election: true, ..wipe }, "TermOnStartRun wipe");
    let r = &[TermOnCleaned];
    show(&Runs { without: r, sweep: false, ..back }, "TermOnCleaned back");
    let r = &[TermOnCleaned];
    show(&Runs { without: r, election: true, ..wipe }, "TermOnCleaned wipe");
}
