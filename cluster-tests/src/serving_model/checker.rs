//! An explicit-state model checker. It searches breadth first, so the first counterexample that it finds is a shortest
//! one. Knows nothing of what the states mean.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt::Debug,
    hash::{BuildHasherDefault, Hash, Hasher},
};

/// A state machine that can be explored: its states, what can happen in each of them, and which of them are violations.
pub trait Model {
    /// A state. It must be small: all states of the current depth are in memory at once.
    type State: Clone + Eq + Hash + Debug;
    /// One step of one party, or the passing of time.
    type Action: Copy + Debug;

    /// The state in which every exploration starts.
    fn initial(&self) -> Self::State;
    /// Adds to `out` the actions that may happen in `state`. It may add actions that `step` rejects as impossible.
    fn actions(&self, state: &Self::State, out: &mut Vec<Self::Action>);
    /// Returns the state after `action`, or `None` if the action is impossible in `state`.
    fn step(&self, state: &Self::State, action: Self::Action) -> Option<Self::State>;
    /// Returns why `state` must never be reached, or `None` if it may be reached.
    fn violation(&self, state: &Self::State) -> Option<String>;
}

/// What an exploration found.
#[derive(Debug)]
pub enum Verdict<A> {
    /// Every reachable state was visited, and none is a violation.
    Holds {
        /// Number of states.
        states: usize,
        /// Number of steps from the initial state to the farthest state.
        depth: usize,
    },
    /// A shortest sequence of steps that leads to a violation.
    Violated {
        /// The violation in the last state.
        why: String,
        /// The steps from the initial state.
        trace: Vec<A>,
        /// Number of states that were visited before the violation was found.
        states: usize,
    },
    /// There are more states than the limit allows. The exploration proves nothing.
    TooLarge,
}

/// The hash by which a state is known in the table of visited states. It has 128 bits: with ten million states, the
/// probability that two of them have the same name, so that one is missed, is below 10^-24.
type Name = u128;

/// Two independent 64-bit mixers over what `derive(Hash)` writes. They are several times faster than SipHash, which
/// resists attackers, and their keys are fixed, so that an exploration is repeatable.
struct Namer(u64, u64);

impl Hasher for Namer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }
    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
    fn write_u64(&mut self, word: u64) {
        // A full 64x64 multiplication folded onto itself mixes every bit of the word into every bit of the half.
        let mix = |half: u64, key: u64| {
            let product = u128::from(half ^ word ^ key) * u128::from(key);
            (product as u64) ^ ((product >> 64) as u64) ^ half.rotate_left(23)
        };
        self.0 = mix(self.0, 0x9e37_79b9_7f4a_7c15);
        self.1 = mix(self.1, 0xd1b5_4a32_d192_ed03);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

fn name(state: &impl Hash) -> Name {
    let mut namer = Namer(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344);
    state.hash(&mut namer);
    u128::from(namer.0) << 64 | u128::from(namer.1)
}

/// Uses one half of a name as its hash. A name is a hash already, so it needs no further mixing.
#[derive(Default)]
struct NameHasher(u64);

impl Hasher for NameHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("names are u128");
    }
    fn write_u128(&mut self, name: u128) {
        self.0 = (name >> 64) as u64;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

type Seen = HashMap<Name, (Name, u8), BuildHasherDefault<NameHasher>>;

/// Explores `model` until every state is visited, a violation is found, or `states_max` states are exceeded.
pub fn explore<M: Model>(model: &M, states_max: usize) -> Verdict<M::Action> {
    // Name of each visited state -> name of the state from which it was first reached, and the number of the action.
    let mut seen = Seen::default();
    let initial = model.initial();
    let root = name(&initial);
    seen.insert(root, (root, 0));
    if let Some(why) = model.violation(&initial) {
        return Verdict::Violated { why, trace: Vec::new(), states: 1 };
    }
    let mut level = vec![(initial, root)];
    let mut actions = Vec::new();
    let mut depth = 0;
    loop {
        let mut next = Vec::new();
        for (state, from) in level {
            actions.clear();
            model.actions(&state, &mut actions);
            for (number, action) in actions.iter().enumerate() {
                let Some(after) = model.step(&state, *action) else { continue };
                let to = name(&after);
                let Entry::Vacant(new) = seen.entry(to) else { continue };
                new.insert((from, u8::try_from(number).expect("a model offers fewer than 256 actions")));
                if let Some(why) = model.violation(&after) {
                    return Verdict::Violated { why, trace: trace(model, &seen, root, to), states: seen.len() };
                }
                next.push((after, to));
            }
            if seen.len() > states_max {
                return Verdict::TooLarge;
            }
        }
        if next.is_empty() {
            return Verdict::Holds { states: seen.len(), depth };
        }
        depth += 1;
        level = next;
    }
}

/// Returns the actions that lead from the initial state to the state with the name `end`.
fn trace<M: Model>(model: &M, seen: &Seen, root: Name, end: Name) -> Vec<M::Action> {
    let mut numbers = Vec::new();
    let mut at = end;
    while at != root {
        let (from, number) = seen[&at];
        numbers.push(number);
        at = from;
    }
    let mut state = model.initial();
    let mut steps = Vec::new();
    for number in numbers.into_iter().rev() {
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        let action = actions[usize::from(number)];
        state = model.step(&state, action).expect("this step was made before");
        steps.push(action);
    }
    steps
}

/// Formats a trace for people: one numbered step per line.
pub fn pretty<A: Debug>(trace: &[A]) -> String {
    trace.iter().enumerate().map(|(i, action)| format!("{:3}. {action:?}\n", i + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two counters, each of which can be incremented up to `top`. A state is a violation if their sum is `bad_sum`.
    struct Counters {
        top: u8,
        bad_sum: u8,
    }

    impl Model for Counters {
        type State = (u8, u8);
        type Action = usize;
        fn initial(&self) -> (u8, u8) {
            (0, 0)
        }
        fn actions(&self, _: &(u8, u8), out: &mut Vec<usize>) {
            out.extend([0, 1]);
        }
        fn step(&self, s: &(u8, u8), action: usize) -> Option<(u8, u8)> {
            let after = if action == 0 { (s.0 + 1, s.1) } else { (s.0, s.1 + 1) };
            (after.0 <= self.top && after.1 <= self.top).then_some(after)
        }
        fn violation(&self, s: &(u8, u8)) -> Option<String> {
            (s.0 + s.1 == self.bad_sum).then(|| format!("{s:?}"))
        }
    }

    #[test]
    fn visits_every_state() {
        let found = explore(&Counters { top: 9, bad_sum: 99 }, 1000);
        assert!(matches!(found, Verdict::Holds { states: 100, depth: 18 }), "{found:?}");
    }

    #[test]
    fn finds_a_shortest_violation() {
        let Verdict::Violated { trace, .. } = explore(&Counters { top: 9, bad_sum: 7 }, 1000) else {
            panic!("the sum 7 can be reached");
        };
        assert_eq!(trace.len(), 7);
    }

    #[test]
    fn reports_that_there_are_too_many_states() {
        assert!(matches!(explore(&Counters { top: 99, bad_sum: 255 }, 1000), Verdict::TooLarge));
    }
}
