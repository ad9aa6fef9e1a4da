//! The commands of a transaction for which the node asks its other threads, or servers: after the server has executed the
//! others, since nothing is executed of a transaction that is given up. Knows nothing of what they answer.

use std::{cell::RefCell, rc::Rc};

use super::{
    LocalCall, NodeCall,
    splice::{OTHER_REPLY, Parts, splice},
};
use crate::{
    proxy::{
        dispatch::CallContext,
        local::asks_servers,
        operation::{Operation, run_at_node, run_local},
        replies::Ticket,
        session::Session,
        worker::Worker,
    },
    resp::request::RequestScanner,
};

impl LocalCall {
    /// Whether others are asked for its reply.
    pub(super) fn asks(&self) -> bool {
        match self.command {
            NodeCall::OfNode(_) => true,
            NodeCall::Answered => false,
            NodeCall::Local(local) => {
                let mut scanner = RequestScanner::default();
                scanner.scan(&self.request).is_ok()
                    && asks_servers(local, &CallContext { bytes: &self.request, args: scanner.args() })
            }
        }
    }
}

/// The end of a transaction that the server has executed.
pub(super) struct Later {
    pub(super) worker: Rc<Worker>,
    pub(super) session: Rc<Session>,
    pub(super) ticket: Ticket,
    /// The server's reply to EXEC.
    pub(super) reply: Vec<u8>,
    pub(super) parts: Rc<Parts>,
    /// Bytes that the session counts as queued until the request is answered.
    pub(super) queued: usize,
}

impl Later {
    /// Asks for the replies that are missing, one after the other, and answers EXEC.
    pub(super) async fn run(mut self) {
        let mut bytes = self.reply.len();
        for call in self.parts.local.iter().filter(|call| call.asks()) {
            if self.session.is_closed() {
                return;
            }
            let mut scanner = RequestScanner::default();
            if scanner.scan(&call.request).is_err() {
                continue;
            }
            let context = CallContext { bytes: &call.request, args: scanner.args() };
            let (operation, answer) = Operation::within(&self.worker, &self.session, &context, self.ticket);
            match call.command {
                NodeCall::OfNode(command) => run_at_node(operation, command).await,
                NodeCall::Local(local) => run_local(operation, local).await,
                // It asks nobody.
                NodeCall::Answered => {}
            }
            let answer = RefCell::take(&answer);
            bytes += answer.len();
            if bytes > self.worker.config.limits.reply_max {
                // As for every reply that is too long.
                self.session.close_for_reply(&self.worker, bytes);
                return;
            }
            *call.reply.borrow_mut() = answer;
        }
        let reply = splice(&self.worker, &self.session, &self.reply, &self.parts);
        self.reply.clear();
        let reply = reply.unwrap_or_else(|| OTHER_REPLY.to_vec());
        self.session.clone().complete(&self.worker, self.ticket, &reply, self.queued);
        self.worker.flush_replied();
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        // The task panicked, or the worker ends: nothing else would answer the client.
        if !self.reply.is_empty() {
            self.session.kill();
        }
    }
}
