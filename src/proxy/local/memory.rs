//! MEMORY STATS, DOCTOR, PURGE and MALLOC-STATS: about the memory of the node. Knows nothing of the memory of servers.

use std::fs;

use crate::{
    proxy::worker::Worker,
    resp::write::{self, Version},
};

/// What the operating system says of the process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Resident {
    now: u64,
    peak: u64,
}

impl Resident {
    fn of_process() -> Self {
        fs::read_to_string("/proc/self/status").map(|status| Self::parse(&status)).unwrap_or_default()
    }

    fn parse(status: &str) -> Self {
        let field = |name: &str| {
            let (_, value) =
                status.lines().filter_map(|line| line.split_once(':')).find(|(other, _)| *other == name)?;
            Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
        };
        Self { now: field("VmRSS").unwrap_or_default(), peak: field("VmHWM").unwrap_or_default() }
    }
}

/// Writes the reply to MEMORY STATS: of the fields of Redis those that a node has.
pub(super) fn stats(worker: &Worker, version: Version, out: &mut Vec<u8>) {
    let resident = Resident::of_process();
    let buffers = worker.shared.latest().memory_used as u64;
    let fields = [
        ("peak.allocated", resident.peak),
        ("total.allocated", resident.now),
        ("startup.allocated", 0),
        ("replication.backlog", 0),
        ("clients.slaves", 0),
        ("clients.normal", buffers),
        ("cluster.links", 0),
        ("aof.buffer", 0),
        ("overhead.total", buffers),
    ];
    write::map(out, fields.len(), version);
    for (name, bytes) in fields {
        write::bulk(out, name.as_bytes());
        write::int(out, i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// Writes the reply to MEMORY DOCTOR.
pub(super) fn doctor(worker: &Worker, version: Version, out: &mut Vec<u8>) {
    let report = worker.shared.latest();
    let text = if report.memory_used < report.memory_max / 2 {
        "Hi Sam, I can't find any memory issue in your instance. I can only account for what occurs on this base.\n"
            .to_owned()
    } else {
        format!(
            "Sam, I detected a few issues in this Redis instance memory implants:\n\n * Buffers: clients use {} of the {} \
             bytes that this node has for requests and replies. Clients with much data are not read, and may be closed.\n\n\
             I'm here to keep you safe, Sam. I want to help you.\n",
            report.memory_used, report.memory_max
        )
    };
    write::verbatim(out, &text, version);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(Resident::parse(status), Resident { now: 1 << 20, peak: 2 << 20 });
        assert_eq!(Resident::parse("VmRSS: x kB"), Resident::default());
    }
}
