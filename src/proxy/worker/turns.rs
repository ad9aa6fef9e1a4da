//! Whose turn it is: a task with much work, such as a client with a long pipeline or a server's large replies, must not
//! delay the others. Such a task waits in a queue, from which a few go on between two checks of the sockets.
//! Knows nothing of what the tasks do.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use crate::model::ids::ProductId;

/// Time that large turns may take together between two checks of the sockets: what they add to the latency of others.
const LARGE_TURNS_TIME: Duration = Duration::from_micros(300);

/// Time after which a large turn ends: long enough for some reads.
const LARGE_TURN_TIME: Duration = Duration::from_micros(200);

/// The least that a turn is expected to take, so that few tasks are woken at once.
const LARGE_TURN_LEAST: Duration = Duration::from_micros(20);

/// What a task does. Tasks of different kinds have their turns alternately: a server's replies do not wait for all
/// clients, and a product does not wait for all tasks of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum TaskKind {
    /// It serves a client of the product.
    Session(ProductId),
    /// It reads from a server of the product.
    Backend(ProductId),
}

/// The tasks of a worker that have more work than a small turn allows.
#[derive(Debug, Default)]
pub(in crate::proxy) struct LargeTurnQueue {
    /// Those of each kind; the first kind is the next one.
    kinds: RefCell<VecDeque<(TaskKind, VecDeque<Rc<TaskTurns>>)>>,
    /// Tasks that were woken, but found the time used up. They are the next ones.
    postponed: RefCell<VecDeque<Rc<TaskTurns>>>,
    /// Time that is left for large turns before the next check of the sockets.
    left: Cell<Duration>,
    root: Arc<RootWaker>,
}

/// The state of one task.
#[derive(Debug)]
pub(in crate::proxy) struct TaskTurns {
    kind: TaskKind,
    state: Cell<State>,
    waker: RefCell<Option<Waker>>,
    /// Duration of the last large turn.
    took: Cell<Duration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The next turn is small.
    #[default]
    Small,
    /// It is in the queue.
    Waiting,
    /// It has left the queue, and may have its large turn.
    Next,
}

/// One turn of a task.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) enum Turn {
    /// The task does little, then ends the turn.
    Small,
    /// It may do more, and began at this time.
    Large(Instant),
}

impl Turn {
    /// Whether it is a large turn.
    #[inline]
    pub(in crate::proxy) fn is_large(self) -> bool {
        matches!(self, Self::Large(_))
    }

    /// Whether a large turn has taken its time.
    #[inline]
    pub(in crate::proxy) fn is_over(self) -> bool {
        matches!(self, Self::Large(began) if began.elapsed() >= LARGE_TURN_TIME)
    }
}

impl TaskTurns {
    pub(in crate::proxy) fn new(kind: TaskKind) -> Rc<Self> {
        let took = Cell::new(LARGE_TURN_TIME);
        Rc::new(Self { kind, state: Cell::default(), waker: RefCell::default(), took })
    }

    /// Begins a turn; `None` if the task must wait until it is woken.
    #[inline]
    pub(in crate::proxy) fn begin(self: &Rc<Self>, queue: &LargeTurnQueue, cx: &Context<'_>) -> Option<Turn> {
        match self.state.get() {
            State::Small => Some(Turn::Small),
            State::Waiting => None,
            State::Next => self.begin_large(queue, cx),
        }
    }

    #[cold]
    fn begin_large(self: &Rc<Self>, queue: &LargeTurnQueue, cx: &Context<'_>) -> Option<Turn> {
        if queue.left.get().is_zero() {
            self.wait(cx);
            queue.postponed.borrow_mut().push_back(self.clone());
            queue.root.wake_runtime();
            return None;
        }
        Some(Turn::Large(Instant::now()))
    }

    /// Ends a turn. `more`: it was cut short; the next one is large, and follows without an event.
    #[inline]
    pub(in crate::proxy) fn end(self: &Rc<Self>, queue: &LargeTurnQueue, turn: Turn, more: bool, cx: &Context<'_>) {
        if more || turn.is_large() {
            self.end_large(queue, turn, more, cx);
        }
    }

    #[cold]
    fn end_large(self: &Rc<Self>, queue: &LargeTurnQueue, turn: Turn, more: bool, cx: &Context<'_>) {
        if let Turn::Large(began) = turn {
            self.took.set(began.elapsed());
            queue.spend(began.elapsed());
        }
        if more {
            self.wait(cx);
            queue.push(self.clone());
        } else {
            self.state.set(State::Small);
        }
    }

    fn wait(&self, cx: &Context<'_>) {
        self.state.set(State::Waiting);
        *self.waker.borrow_mut() = Some(cx.waker().clone());
    }
}

impl LargeTurnQueue {
    /// Waits for a large turn of a task that is no poll function. The turn counts with its longest time.
    pub(in crate::proxy) async fn turn(&self, kind: TaskKind) {
        let task = TaskTurns::new(kind);
        let mut queued = false;
        poll_fn(|cx| {
            if !std::mem::replace(&mut queued, true) {
                task.wait(cx);
                self.push(task.clone());
            }
            if task.begin(self, cx).is_some() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.spend(LARGE_TURN_TIME);
    }

    fn push(&self, task: Rc<TaskTurns>) {
        let mut kinds = self.kinds.borrow_mut();
        match kinds.iter_mut().find(|(kind, _)| *kind == task.kind) {
            Some((_, tasks)) => tasks.push_back(task),
            None => kinds.push_back((task.kind, VecDeque::from([task]))),
        }
        self.root.wake_runtime();
    }

    fn pop(&self) -> Option<Rc<TaskTurns>> {
        if let Some(task) = self.postponed.borrow_mut().pop_front() {
            return Some(task);
        }
        let mut kinds = self.kinds.borrow_mut();
        let (kind, mut tasks) = kinds.pop_front()?;
        let task = tasks.pop_front();
        if !tasks.is_empty() {
            kinds.push_back((kind, tasks));
        }
        task
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.kinds.borrow().is_empty() && self.postponed.borrow().is_empty()
    }

    fn spend(&self, time: Duration) {
        self.left.set(self.left.get().saturating_sub(time));
    }

    /// Wakes the next tasks.
    #[cold]
    fn wake_next(&self) {
        self.left.set(LARGE_TURNS_TIME);
        let mut left = LARGE_TURNS_TIME;
        while !left.is_zero()
            && let Some(task) = self.pop()
        {
            // Otherwise the task has ended.
            if Rc::strong_count(&task) > 1
                && let Some(waker) = task.waker.borrow_mut().take()
            {
                task.state.set(State::Next);
                waker.wake();
                left = left.saturating_sub(task.took.get().max(LARGE_TURN_LEAST));
            }
        }
        if !self.is_empty() {
            self.root.wake_runtime();
        }
    }
}

/// Notes that the future of a worker was woken.
#[derive(Debug, Default)]
struct RootWaker {
    woken: AtomicBool,
    runtime: OnceLock<Waker>,
}

impl RootWaker {
    fn wake_runtime(&self) {
        if let Some(waker) = self.runtime.get() {
            waker.wake_by_ref();
        }
    }
}

impl Wake for RootWaker {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.wake_runtime();
    }
}

/// Polls a worker's own future when it was woken, and begins large turns: once between two checks of the sockets.
///
/// A `LocalSet` polls its root future before up to 61 tasks, then the runtime checks the sockets. (tokio 1.54,
/// `LocalSet::tick` and `CoreGuard::block_on`.)
pub(super) struct Root<F> {
    pub(super) turns: Rc<LargeTurnQueue>,
    pub(super) future: Pin<Box<F>>,
}

impl<F: Future> Future for Root<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let root = &this.turns.root;
        // The waker of a runtime stays the same.
        root.runtime.get_or_init(|| {
            root.woken.store(true, Ordering::Relaxed);
            cx.waker().clone()
        });
        if !this.turns.is_empty() {
            this.turns.wake_next();
        }
        if root.woken.load(Ordering::Relaxed) && root.woken.swap(false, Ordering::Acquire) {
            return this.future.as_mut().poll(&mut Context::from_waker(&Waker::from(root.clone())));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    /// Number of tasks with much work.
    const TASKS: usize = 100;
    /// Large turns of each.
    const TURNS: usize = 5;

    /// A task whose turns are all cut short.
    async fn works((id, kind): (usize, TaskKind), turns: Rc<LargeTurnQueue>, log: Rc<RefCell<Vec<usize>>>) {
        let task = TaskTurns::new(kind);
        let mut left = TURNS + 1;
        poll_fn(|cx| {
            let Some(turn) = task.begin(&turns, cx) else { return Poll::Pending };
            if turn.is_large() {
                log.borrow_mut().push(id);
            }
            let began = Instant::now();
            while began.elapsed() < LARGE_TURNS_TIME {
                std::hint::spin_loop();
            }
            left -= 1;
            task.end(&turns, turn, left > 0, cx);
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    #[test]
    fn large_turns_are_one_by_one_in_order_and_small_ones_in_between() {
        let turns = Rc::<LargeTurnQueue>::default();
        let log = Rc::<RefCell<Vec<usize>>>::default();
        let small = TASKS;
        let (all, record) = (turns.clone(), log.clone());
        let future = async move {
            let tasks: Vec<_> = (0..TASKS)
                .map(|id| {
                    let kind = if id == 0 { TaskKind::Backend(ProductId(1)) } else { TaskKind::Session(ProductId(1)) };
                    tokio::task::spawn_local(works((id, kind), all.clone(), record.clone()))
                })
                .collect();
            tokio::task::spawn_local(async move {
                loop {
                    record.borrow_mut().push(small);
                    // To the end of the queue, as a task whose socket has become readable.
                    let mut yielded = false;
                    poll_fn(|cx| {
                        if std::mem::replace(&mut yielded, true) {
                            return Poll::Ready(());
                        }
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    })
                    .await;
                }
            });
            for task in tasks {
                task.await.expect("the task does not panic");
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, Root { turns, future: Box::pin(future) });
        let log = log.borrow();
        let large: Vec<usize> = log.iter().copied().filter(|id| *id != small).collect();
        assert_eq!(large.len(), TASKS * TURNS);
        let sessions: Vec<usize> = large.iter().copied().filter(|id| *id > 0).collect();
        assert_eq!(sessions, (0..TURNS).flat_map(|_| 1..TASKS).collect::<Vec<_>>(), "each before one has two");
        let last_backend = large.iter().rposition(|id| *id == 0);
        assert!(last_backend < Some(3 * TURNS), "a server has its turns between those of clients: {last_backend:?}");
        let together = log.split(|id| *id == small).map(<[usize]>::len).max();
        assert!(together <= Some(2), "others wait for few large turns: {together:?}");
    }
}
