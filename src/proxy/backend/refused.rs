//! What becomes of a request that a server refused for a reason that the node has to mend. Knows nothing of other replies.

use super::{
    InFlight, ServerUser,
    connection::Pump,
    refusals::{OTHER_RULES, is_not_permitted},
};

impl Pump<'_> {
    /// Answers a write that a server refused because it is a replica: the route is wrong, and the group must be probed.
    #[cold]
    pub(super) fn refuse_misrouted(&self, entry: InFlight) {
        let addr = &self.backend.addr;
        self.worker.report_misrouted(addr);
        let server = self.backend.product.server_name(addr);
        let text = format!("-TRYAGAIN not executed: {server} is a replica now; its group is being probed\r\n");
        entry.fail_with(self.worker, false, text.as_bytes());
    }

    /// Whether an error says that the data user may not run a command that it has to be able to run.
    #[cold]
    pub(super) fn is_refused_data_user(&self, error: &[u8]) -> bool {
        let backend = self.backend;
        backend.user == ServerUser::Data && backend.login.data.is_some() && is_not_permitted(error)
    }

    /// Answers a request that a server refused because it has other rules for the data user.
    #[cold]
    pub(super) fn refuse_data_user(&self, entry: InFlight) {
        let addr = &self.backend.addr;
        self.worker.report_data_user(addr);
        let server = self.backend.product.server_name(addr);
        let text = format!("-TRYAGAIN not executed: {server} {OTHER_RULES}\r\n");
        entry.fail_with(self.worker, false, text.as_bytes());
    }
}
