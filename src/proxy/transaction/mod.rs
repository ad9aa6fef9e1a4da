//! Transactions: the commands between MULTI and EXEC wait in the node, and go to the owner of their slot as one block:
//! MULTI, the commands, EXEC. Only a transaction with WATCH needs a connection of its own.
//! Knows nothing of how requests are read.

mod block;
mod exec;
mod hash_import;
mod later;
mod probe;
mod queue;
mod splice;
mod watch;

pub(super) use block::{Block, BlockReply};
pub(super) use probe::Probe;
pub(super) use watch::Watch;

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    rc::Rc,
    sync::Arc,
};

use crate::{
    commands::{DifferingCommands, Local, NodeCommand, ServerCommands},
    model::ids::{HostPort, SlotId},
    proxy::scripts::ScriptKey,
    resp::write,
};

/// Room for the requests of a usual transaction, so that they are not copied while it grows.
const USUAL_BYTES: usize = 1024;

/// The commands of a transaction that is not executed yet.
#[derive(Debug)]
pub(super) struct Transaction {
    /// MULTI and the requests for the server.
    requests: Vec<u8>,
    /// Commands in `requests`, without MULTI.
    sent: usize,
    /// Those that the node answers itself.
    local: Vec<LocalCall>,
    /// The places of HIMPORT SET among all commands. The server gets two more for each.
    imports: Vec<usize>,
    /// The slot of all keys.
    slot: Option<SlotId>,
    /// Whether a command may change data.
    is_write: bool,
    /// The same, without the scripts that say that they change nothing.
    waits_for_pause: bool,
    /// The database that it selects last, if another one than the session's is selected.
    db: Option<u32>,
    /// The calls of scripts by their digest, as ranges of `requests`.
    script_calls: Vec<Range<usize>>,
    /// Whether it calls a function.
    calls_function: bool,
    /// The loading of libraries that its server may lack. `None`: that has not begun.
    loading: Option<LibraryLoading>,
    /// The scripts for which other nodes were asked. `None`: they were not asked yet.
    asked: Option<Vec<ScriptKey>>,
    /// Whether it has a script or a function.
    runs_script: bool,
    /// Whether a command was refused, so that EXEC executes nothing.
    refused: bool,
    /// Bytes that are charged to the session.
    charged: usize,
    /// What the servers say of their commands. `None`: they were not asked yet.
    commands: Option<Arc<ServerCommands>>,
}

/// Libraries that are being loaded at the server of a transaction.
#[derive(Debug)]
struct LibraryLoading {
    server: HostPort,
    /// Whether it has ended, perhaps without success.
    has_ended: Rc<Cell<bool>>,
}

/// A command of a transaction that the node answers itself.
#[derive(Debug)]
struct LocalCall {
    /// Its place among all commands of the transaction.
    place: usize,
    command: NodeCall,
    request: Vec<u8>,
    /// Its reply, if that is known, or others are asked for it.
    reply: RefCell<Vec<u8>>,
}

/// Who answers a command that no server executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeCall {
    /// The worker of the session, perhaps with the help of servers.
    Local(Local),
    /// All workers.
    OfNode(NodeCommand),
    /// Its reply is known.
    Answered,
}

impl Transaction {
    fn new(commands: Option<Arc<ServerCommands>>) -> Self {
        let mut requests = Vec::with_capacity(USUAL_BYTES);
        write::request(&mut requests, &[b"MULTI"]);
        Self {
            requests,
            sent: 0,
            local: Vec::new(),
            imports: Vec::new(),
            slot: None,
            is_write: false,
            waits_for_pause: false,
            db: None,
            script_calls: Vec::new(),
            calls_function: false,
            loading: None,
            asked: None,
            runs_script: false,
            refused: false,
            charged: 0,
            commands,
        }
    }

    /// The commands that the servers describe otherwise than the table.
    fn differing(&self) -> Option<&DifferingCommands> {
        self.commands.as_ref()?.differing()
    }

    /// Number of commands.
    pub(super) fn len(&self) -> usize {
        self.sent - 2 * self.imports.len() + self.local.len()
    }

    /// Bytes of its requests.
    fn bytes(&self) -> usize {
        self.requests.len() + self.local.iter().map(|call| call.request.len()).sum::<usize>()
    }

    /// Whether its EXEC waits while writes are paused.
    pub(super) fn waits_for_pause(&self) -> bool {
        self.waits_for_pause
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        let local: usize = self.local.iter().map(|call| call.request.capacity() + size_of::<LocalCall>()).sum();
        self.requests.capacity()
            + local
            + self.imports.capacity() * size_of::<usize>()
            + self.script_calls.capacity() * size_of::<Range<usize>>()
    }
}
