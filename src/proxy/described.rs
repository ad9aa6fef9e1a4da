//! The reply to COMMAND of a product, which is long, and which every client library asks for when it connects: kept until the
//! commands of its servers change. Knows nothing of what is in it.

use std::{rc::Rc, sync::Arc};

use crate::{commands::ServerCommands, resp::write::Version};

/// The replies in RESP2 and RESP3.
#[derive(Debug, Default)]
pub(super) struct DescribedCommands {
    /// What the servers had then.
    servers: Option<Arc<ServerCommands>>,
    replies: [Option<Rc<[u8]>>; 2],
}

impl DescribedCommands {
    /// The reply, if the servers still have the same commands.
    pub(super) fn get(&self, servers: &Arc<ServerCommands>, version: Version) -> Option<Rc<[u8]>> {
        let are_same = self.servers.as_ref().is_some_and(|known| Arc::ptr_eq(known, servers));
        self.replies[usize::from(version == Version::Resp3)].clone().filter(|_| are_same)
    }

    /// Keeps a reply.
    pub(super) fn keep(&mut self, servers: Arc<ServerCommands>, version: Version, reply: &[u8]) {
        if !self.servers.as_ref().is_some_and(|known| Arc::ptr_eq(known, &servers)) {
            *self = Self { servers: Some(servers), replies: [None, None] };
        }
        self.replies[usize::from(version == Version::Resp3)] = Some(reply.into());
    }
}
