//! SCRIPT LOAD in front of a call of a script that the server may lack, on the same connection: whatever else follows, the
//! call finds the script. Knows nothing of where bodies come from.

use std::rc::{Rc, Weak};

use super::{Backend, InFlight, Requester};
use crate::{
    model::{ids::Epoch, script::ScriptDigest},
    proxy::{counters::count, scripts::ScriptToLoad, session::Session, worker::Worker},
};

/// A SCRIPT LOAD that the node has sent. Its reply is noted, and goes to nobody.
#[derive(Debug)]
pub(in crate::proxy) struct ScriptLoad {
    session: Rc<Session>,
    backend: Weak<Backend>,
    digest: ScriptDigest,
}

impl ScriptLoad {
    /// The session whose call follows.
    pub(super) const fn session(&self) -> &Rc<Session> {
        &self.session
    }

    /// The server has answered.
    pub(super) fn deliver(&self, reply: &[u8]) {
        self.end(reply.starts_with(b"$40\r\n"));
    }

    /// The server has not answered, or refuses it. Then it answers NOSCRIPT to the call.
    pub(super) fn fail(&self) {
        self.end(false);
    }

    fn end(&self, loaded: bool) {
        if let Some(backend) = self.backend.upgrade() {
            backend.scripts.end(self.digest, loaded);
        }
    }
}

impl Backend {
    /// Sends SCRIPT LOAD. The call that needs it must be sent next, in this turn.
    #[cold]
    pub(in crate::proxy) fn load_script(&self, worker: &Worker, session: &Rc<Session>, script: &ScriptToLoad) {
        count(&worker.stats.script_loads);
        self.scripts.begin(script.digest);
        let load = ScriptLoad { session: session.clone(), backend: self.weak_self.clone(), digest: script.digest };
        let request = script.request();
        self.send(
            &request,
            InFlight {
                requester: Requester::Load(Box::new(load)),
                epoch: Epoch(0),
                // A script is far below 4 GB.
                len: request.len() as u32,
                tick: worker.clock.tick(),
                generation: worker.routes.generation(),
                slot: None,
                is_write: false,
                command: None,
            },
        );
    }
}
