//! Scripts that were called by their digest and whose bodies the node does not know: other nodes are asked, and the calls wait
//! for their answer. Knows nothing of how nodes are asked.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::oneshot, time::timeout};

use super::{BodyRequest, bodies::Key};
use crate::{
    model::ids::ProductId,
    proxy::{session::Session, worker::Worker},
};

/// How long a call waits: a node that is down must not delay it for long.
const WAIT_MAX: Duration = Duration::from_millis(250);

/// Ticks (of 100 ms) after an answer in which a script is not asked for again: one second. They double with each answer, since
/// a script that servers have and no node knows is called often.
const PAUSE_MIN: u32 = 10;

/// The longest pause: about a minute.
const PAUSE_MAX: u32 = 640;

/// Scripts of one product that a worker asks for within a tick. Each is a call to every node, and clients may send digests
/// without end; the nodes carry out 64 at a time.
const ASKED_PER_TICK_MAX: u32 = 8;

/// Scripts of which a worker remembers that it has asked for them.
const ASKED_MAX: usize = 4096;

#[derive(Debug)]
enum Asked {
    /// These sessions wait for the answer. The next pause has this length.
    Waiting(Vec<Rc<Session>>, u32),
    /// The answer came at a tick, and the pause has a length.
    Answered(u32, u32),
}

/// What a worker has asked for.
#[derive(Debug, Default)]
pub(in crate::proxy) struct AskedBodies {
    all: RefCell<HashMap<Key, Asked>>,
    /// How many scripts of each product were asked for in a tick.
    of_products: RefCell<HashMap<ProductId, u32>>,
    /// That tick.
    tick: Cell<u32>,
}

impl AskedBodies {
    /// Whether a call has to wait until other nodes have answered, which are asked now. The session is woken then.
    pub(in crate::proxy) fn must_wait(&self, worker: &Rc<Worker>, session: &Rc<Session>, key: Key) -> bool {
        let now = worker.clock.tick();
        let mut all = self.all.borrow_mut();
        let pause = match all.get_mut(&key) {
            Some(Asked::Waiting(sessions, _)) => {
                // A session that calls it again and again is the last one.
                if !sessions.last().is_some_and(|last| Rc::ptr_eq(last, session)) {
                    sessions.push(session.clone());
                }
                return true;
            }
            Some(Asked::Answered(then, pause)) if now.wrapping_sub(*then) < *pause => return false,
            Some(Asked::Answered(_, pause)) => (2 * *pause).min(PAUSE_MAX),
            None => PAUSE_MIN,
        };
        let Some(answer) = self.ask(worker, key, now) else { return false };
        if all.len() >= ASKED_MAX {
            all.retain(|_, asked| matches!(asked, Asked::Waiting(..)));
        }
        all.insert(key, Asked::Waiting(vec![session.clone()], pause));
        let flushes = worker.bodies.flushes(key.0);
        let worker = worker.clone();
        tokio::task::spawn_local(async move {
            // An error: the node ends.
            let body = timeout(WAIT_MAX, answer).await.ok().and_then(Result::ok).flatten();
            // What was forgotten meanwhile does not come back.
            if let Some(body) = body.filter(|_| worker.bodies.flushes(key.0) == flushes) {
                worker.bodies.add(key, &body);
            }
            worker.asked_bodies.end(&worker, key);
        });
        true
    }

    /// Whether other nodes are being asked for a script.
    pub(in crate::proxy) fn is_waiting(&self, key: &Key) -> bool {
        matches!(self.all.borrow().get(key), Some(Asked::Waiting(..)))
    }

    /// A server lacks the script, so that it is worth while to ask again soon.
    pub(in crate::proxy) fn is_missing(&self, key: &Key) {
        if let Some(Asked::Answered(_, pause)) = self.all.borrow_mut().get_mut(key) {
            *pause = PAUSE_MIN;
        }
    }

    /// `None`: it cannot be asked for now.
    fn ask(&self, worker: &Worker, key: Key, now: u32) -> Option<oneshot::Receiver<Option<Bytes>>> {
        let mut of_products = self.of_products.borrow_mut();
        if self.tick.replace(now) != now {
            of_products.clear();
        }
        let count = of_products.entry(key.0).or_default();
        if *count >= ASKED_PER_TICK_MAX {
            return None;
        }
        let link = worker.config.scripts.as_ref()?;
        let (reply, answer) = oneshot::channel();
        link.bodies.try_send(BodyRequest::Find { product: key.0, digest: key.1, reply }).ok()?;
        *count += 1;
        Some(answer)
    }

    /// The nodes have answered, or took too long. A body that was found is known now.
    fn end(&self, worker: &Worker, key: Key) {
        let mut all = self.all.borrow_mut();
        let Some(Asked::Waiting(sessions, pause)) = all.remove(&key) else { return };
        all.insert(key, Asked::Answered(worker.clock.tick(), pause));
        drop(all);
        sessions.iter().for_each(|session| session.wake());
    }
}
