//! What happens next: events in the order of their times, and of their scheduling where those are equal.
//! Knows nothing of what an event is.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::network::Ns;

/// Ten times what a world needs.
const SCHEDULED_MAX: u64 = 2_000_000;

pub struct Queue<E> {
    order: BinaryHeap<Reverse<(Ns, u64, usize)>>,
    /// By place; places are used again, so that the queue stays as small as the number of open events.
    events: Vec<Option<E>>,
    free: Vec<usize>,
    scheduled: u64,
}

impl<E> Queue<E> {
    pub const fn new() -> Self {
        Self { order: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), scheduled: 0 }
    }

    pub fn push(&mut self, at: Ns, event: E) {
        let place = match self.free.pop() {
            Some(place) => {
                self.events[place] = Some(event);
                place
            }
            None => {
                self.events.push(Some(event));
                self.events.len() - 1
            }
        };
        self.scheduled += 1;
        self.order.push(Reverse((at, self.scheduled, place)));
    }

    /// The next event, if it is due by `end`.
    pub fn pop(&mut self, end: Ns) -> Option<(Ns, E)> {
        let Reverse((at, _, place)) = *self.order.peek().filter(|Reverse((at, ..))| *at <= end)?;
        self.order.pop();
        self.free.push(place);
        self.events[place].take().map(|event| (at, event))
    }

    /// Whether an event is scheduled endlessly.
    pub fn is_endless(&self) -> bool {
        self.scheduled > SCHEDULED_MAX
    }
}
