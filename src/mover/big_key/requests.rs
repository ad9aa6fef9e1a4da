//! Encoded requests for one server.
//! Knows nothing of connections and replies.

use crate::resp::write;

/// Encoded requests and how many replies they will get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    bytes: Vec<u8>,
    count: usize,
}

impl Requests {
    /// Appends a whole request.
    pub fn push(&mut self, args: &[&[u8]]) {
        write::request(&mut self.bytes, args);
        self.count += 1;
    }

    /// Starts a request of `args` arguments, its name included. Exactly that many [`Requests::arg`] must follow.
    pub fn open(&mut self, args: usize) {
        write::array(&mut self.bytes, args);
        self.count += 1;
    }

    /// Appends one argument to the request that was opened last.
    pub fn arg(&mut self, bytes: &[u8]) {
        write::bulk(&mut self.bytes, bytes);
    }

    /// Appends arguments as a server sent them: whole bulk strings with header and line end. Copying them unchanged is
    /// half of why chunks cost no more than one payload.
    pub fn splice(&mut self, bulks: &[u8]) {
        self.bytes.extend_from_slice(bulks);
    }

    /// The encoded requests.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many replies will come.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Removes and returns everything, for sending.
    #[must_use]
    pub fn take(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.bytes), std::mem::take(&mut self.count))
    }
}
