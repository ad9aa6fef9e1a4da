use cluster_tests::{
    migration_model::failover::{Failover, Rule, Rule::*},
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
    let s = Failover::SMALL;
    show(&s, "small");
    show(&Failover { promotions: [0, 1], links: true, ..s }, "links");
    show(&Failover { promotions: [0, 2], ..s }, "twice");

    let one: &[&'static [Rule]] = &[
        &[EpochsOnStart],
        &[FinishRestarts],
        &[EpochsOnSwitch],
        &[NoHoldAtPromotion],
        &[NoPromotionAtHold],
        &[LogBeforePromotion],
        &[Wait],
        &[ReachedSwitch],
        &[ReachedSwitch, Wait],
        &[DivergedIsNone],
        &[SameReplication],
        &[FetchWhereFeed],
        &[ReachedSwitch, NoHoldAtPromotion],
        &[ReachedSwitch, NoPromotionAtHold],
        &[ReachedSwitch, LogBeforePromotion],
        &[ReachedSwitch, DivergedIsNone],
        &[EpochsOnSwitch, FinishRestarts],
        &[EpochsOnSwitch, NoHoldAtPromotion, NoPromotionAtHold],
        &[FinishRestarts, NoHoldAtPromotion, NoPromotionAtHold],
        &[EpochsOnSwitch, FinishRestarts, NoHoldAtPromotion],
        &[EpochsOnSwitch, FinishRestarts, FetchWhereFeed],
        &[FinishRestarts, FetchWhereFeed],
    ];
    for without in one {
        show(&Failover { without, ..s }, &format!("{without:?}"));
    }
    show(&Failover { promotions: [0, 1], links: true, without: &[ReachedSwitch], ..s }, "links Reached");
    show(&Failover { promotions: [0, 2], without: &[ClosedOnReturn], ..s }, "ClosedOnReturn");
    let s = Failover { promotions: [0, 0], available: true, ..s };
    show(&s, "available");
    show(&Failover { without: &[Wait], ..s }, "available, Wait");
}
