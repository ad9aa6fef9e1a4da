//! The file descriptors of this process: how many there are, how many clients and admin connections that allows, and
//! whether one is left; and files that are opened without waiting for another process.
//! Knows nothing of what they are used for.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::{
    fs::OFlags,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Lets an open return at once also for a pipe, which else waits for a process at its other end. For a regular file it
/// changes nothing.
pub const NO_WAIT: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// Opens a regular file to read it: a pipe could keep the reader waiting for ever, and can be read only once.
///
/// # Errors
/// It is not a regular file, or cannot be opened.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(NO_WAIT).open(path)?;
    // Of the open file: the path may have another one by now.
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::other("it is not a regular file, but a pipe, a device or a directory"))
}

/// Descriptors that clients do not get: for the log, Raft, the admin port, probes, movers and shared connections to
/// servers. A cluster of 100 servers in 16 databases needs some hundred.
const RESERVED: u64 = 1_000;

/// Dedicated connections to servers that a node may have for blocked clients and large values, if there are files for them:
/// more than one product with the default `proxy.dedicated_max` uses.
const DEDICATED: u64 = 10_000;

/// Raises the limit of open files to the hard limit. Returns the limit that applies now; `None`: unlimited.
pub fn raise_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised");
            limit.current
        }
    }
}

/// How many clients a node accepts that is to accept `wanted`, if it may open `limit` files. Where files are few, half
/// of them are reserved.
#[must_use]
pub fn clients_allowed(limit: Option<u64>, wanted: usize) -> usize {
    let Some(limit) = limit else { return wanted };
    let for_clients = limit - reserved(limit) - dedicated(limit);
    wanted.min(usize::try_from(for_clients).unwrap_or(usize::MAX))
}

/// How many dedicated connections to servers a node may have that may open `limit` files: where files are few, a third
/// of those that are not reserved.
#[must_use]
pub fn dedicated_allowed(limit: Option<u64>) -> usize {
    usize::try_from(limit.map_or(DEDICATED, dedicated)).unwrap_or(usize::MAX)
}

/// Descriptors for dedicated connections, of `limit`. A third: with 20,000 files, 5,000 clients can block.
fn dedicated(limit: u64) -> u64 {
    DEDICATED.min((limit - reserved(limit)) / 3)
}

/// How many connections the admin port may have in a process that may open `limit` files: half of the descriptors that
/// clients do not get. By default these are 500, and the leader of a cluster of 128 nodes has three from each of them.
#[must_use]
pub fn admin_connections_allowed(limit: Option<u64>) -> usize {
    usize::try_from(limit.map_or(RESERVED, reserved) / 2).unwrap_or(usize::MAX).max(1)
}

/// Descriptors that clients do not get, of `limit`.
fn reserved(limit: u64) -> u64 {
    RESERVED.min(limit / 2)
}

/// Whether a file or connection can be opened now.
#[must_use]
pub fn is_one_left() -> bool {
    !matches!(std::fs::File::open("/dev/null"), Err(error) if is_shortage(&error))
}

/// Whether an operation failed because this process, or the machine, has no file descriptor or memory for it left.
#[must_use]
pub fn is_shortage(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| shortages.iter().any(|shortage| shortage.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_files_to_the_node() {
        for (limit, wanted, allowed) in [
            (None, 50_000, 50_000),
            (Some(131_072), 50_000, 50_000),
            (Some(50_500), 50_000, 39_500),
            (Some(4_096), 50_000, 2_064),
            (Some(1_024), 50_000, 342),
            (Some(256), 50_000, 86),
            (Some(256), 50, 50),
            (Some(1), 100, 1),
        ] {
            assert_eq!(clients_allowed(limit, wanted), allowed, "{limit:?} {wanted}");
        }
    }

    #[test]
    fn clients_admin_port_and_dedicated_connections_leave_files_to_the_rest() {
        for limit in [64, 256, 1_024, 4_096, 20_000, 65_536, 131_072, 1 << 30] {
            let taken = clients_allowed(Some(limit), usize::MAX)
                + dedicated_allowed(Some(limit))
                + admin_connections_allowed(Some(limit));
            let left = limit - taken as u64;
            assert!(left >= 500.min(limit / 4), "{limit}: {left}");
        }
        assert_eq!([Some(256), Some(20_000), Some(131_072), None].map(dedicated_allowed), [42, 6_333, 10_000, 10_000]);
    }

    #[test]
    fn the_admin_port_gets_half_of_what_clients_leave() {
        for (limit, allowed) in [(None, 500), (Some(131_072), 500), (Some(1_024), 256), (Some(256), 64), (Some(1), 1)] {
            assert_eq!(admin_connections_allowed(limit), allowed, "{limit:?}");
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, pipe) = (dir.path().join("file"), dir.path().join("pipe"));
        std::fs::write(&file, "text").expect("a file");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
        assert!(open_regular(&file).is_ok());
        for (path, part) in [(&*pipe, "a pipe"), (dir.path(), "a directory"), (Path::new("/dev/null"), "a device")] {
            let error = open_regular(path).expect_err(part).to_string();
            assert!(error.contains("not a regular file") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_shortage_is_recognised() {
        assert!(is_one_left());
        assert!(is_shortage(&rustix::io::Errno::MFILE.into()));
        assert!(!is_shortage(&rustix::io::Errno::CONNRESET.into()));
    }
}
