//! Requests for one server, encoded one behind the other.
//! Knows nothing of connections and of what is answered.

use crate::resp::write;

/// Encoded requests and how many answers they will get.
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

    /// Begins a request of `args` arguments, its name included; exactly so many must follow.
    pub fn open(&mut self, args: usize) {
        write::array(&mut self.bytes, args);
        self.count += 1;
    }

    /// One argument of the request that was opened last.
    pub fn arg(&mut self, bytes: &[u8]) {
        write::bulk(&mut self.bytes, bytes);
    }

    /// Arguments as they came from a server: whole bulk strings, header and line end included. Copying them as they are is
    /// half of why chunks cost no more than one payload.
    pub fn splice(&mut self, bulks: &[u8]) {
        self.bytes.extend_from_slice(bulks);
    }

    /// What is to be sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many answers will come.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes everything out, for sending.
    #[must_use]
    pub fn take(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.bytes), std::mem::take(&mut self.count))
    }
}
