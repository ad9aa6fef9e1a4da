//! The data directory: its owner, the lock that one process holds, and the node's uuid in it.
//! Knows nothing of the log.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::fs::{Access, AtFlags, CWD, FlockOperation, accessat, flock};

use super::{
    OpenError, disk,
    witness::{self, Witness, WitnessRecord},
};
use crate::model::ids::Uuid;

/// Name of the lock file. The file is never removed; what counts is the kernel's lock on it.
const LOCK: &str = "lock";

/// What a data directory without a log may contain: the lock file of a node that got no further, and what file systems
/// and their tools make.
const HARMLESS: [&str; 3] = [LOCK, "lost+found", ".snapshot"];
/// Bits of a mode that give access to others than the owner.
const MODE_OTHERS: u32 = 0o077;
/// Folders below the data directory: `raft` and the one of sled's large values.
const DEPTH_MAX: u32 = 2;

/// Holds the data directory for this process. It is free again when this is dropped or the process has ended.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// Takes the data directory for this process. Makes it (mode 0700) if there is none, and corrects a wider mode, because
/// the log contains passwords.
///
/// # Errors
/// Another process uses the directory, it belongs to another user, or the file system refuses something. The text says
/// what to do.
pub fn lock(data_dir: &Path) -> Result<DirLock, OpenError> {
    prepare(data_dir)?;
    let path = data_dir.join(LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|e| {
        OpenError(format!(
            "cannot open the lock file {}: {e}; see that it is a file that this user may write, or move it away, and start \
             this node again",
            path.display()
        ))
    })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DirLock { _file: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError(format!(
            "another process uses the data directory {}; stop it first, or give this node its own --data-dir",
            data_dir.display()
        ))),
        Err(e) => Err(OpenError(format!("cannot lock {}: {e}", path.display()))),
    }
}

/// Whether a directory is, or was, the data directory of a node.
#[must_use]
pub fn has_data(data_dir: &Path) -> bool {
    witness::path(data_dir).exists() || disk::exists(data_dir)
}

/// Checks without a change whether a node can use the data directory, or make it.
///
/// # Errors
/// As [`lock`], except that a process that uses the directory is not noticed.
pub fn check(data_dir: &Path) -> Result<(), OpenError> {
    if data_dir.exists() {
        suitable(data_dir)?;
    }
    // The first directory above that exists; the path of a relative one ends with the working directory.
    let above = data_dir.ancestors().find(|dir| dir.as_os_str().is_empty() || dir.exists());
    let above = above.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let usable = Access::WRITE_OK | Access::EXEC_OK;
    let found = accessat(CWD, above, usable, AtFlags::EACCESS).map_err(std::io::Error::from);
    let found = found.and_then(|()| if above.is_dir() { Ok(()) } else { Err(ErrorKind::NotADirectory.into()) });
    found.map_err(|e| {
        let (shown, above) = (data_dir.display(), above.display());
        OpenError(format!("cannot use the data directory {shown}: {above}: {e}; see that this user may write there"))
    })
}

/// Refuses what cannot be a data directory of this process, and a directory with files of somebody else: a node closes
/// everything in its directory to others.
fn suitable(data_dir: &Path) -> Result<(), OpenError> {
    let shown = data_dir.display();
    let failed = |e: std::io::Error| OpenError(format!("cannot use the data directory {shown}: {e}"));
    let found = fs::metadata(data_dir).map_err(failed)?;
    if !found.is_dir() {
        return Err(OpenError(format!(
            "the data directory {shown} is not a directory; move it away, or give another --data-dir"
        )));
    }
    let me = rustix::process::geteuid().as_raw();
    if found.uid() != me {
        let owner = found.uid();
        return Err(OpenError(format!(
            "the data directory {shown} belongs to user {owner}, and this process runs as user {me}; run it as that user"
        )));
    }
    if has_data(data_dir) {
        return Ok(());
    }
    for entry in fs::read_dir(data_dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if !HARMLESS.iter().any(|known| name == *known) {
            return Err(OpenError(format!(
                "{shown} is not the data directory of a node and is not empty ({} is in it); give an empty directory, or \
                 one that does not exist yet",
                name.display()
            )));
        }
    }
    Ok(())
}

/// This node's uuid, made at the first call. The caller must hold the lock.
///
/// # Errors
/// The witness file is damaged, or is missing although there is a log. The text says what to do.
pub fn identity(data_dir: &Path) -> Result<Uuid, OpenError> {
    prepare(data_dir)?;
    match Witness::open(data_dir) {
        Ok(witness) => Ok(witness.facts().uuid),
        Err(e) if e.kind() == ErrorKind::NotFound && !disk::exists(data_dir) => {
            let uuid = Uuid(uuid::Uuid::new_v4().as_u128());
            Witness::create(data_dir, WitnessRecord { uuid, ..WitnessRecord::default() })
                .map_err(|e| OpenError(format!("cannot make the witness file in {}: {e}", data_dir.display())))?;
            Ok(uuid)
        }
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => {
            let what = if e.kind() == ErrorKind::NotFound { "is missing".into() } else { e.to_string() };
            Err(disk::remedy(data_dir, &format!("its witness file {what}")))
        }
        Err(e) => Err(disk::unreadable_witness(data_dir, &e)),
    }
}

fn prepare(data_dir: &Path) -> Result<(), OpenError> {
    let shown = data_dir.display();
    let failed = |e: std::io::Error| OpenError(format!("cannot use the data directory {shown}: {e}"));
    if !data_dir.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed)?;
        // Without this a power loss could remove the directory, and with it a vote that was given.
        if let Some(parent) = data_dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            File::open(parent).and_then(|f| f.sync_all()).map_err(failed)?;
        }
    }
    suitable(data_dir)?;
    let found = fs::metadata(data_dir).map_err(failed)?;
    if found.permissions().mode() & MODE_OTHERS != 0 {
        tracing::warn!(data_dir = %shown, "the data directory could be read by others; its mode is now 0700");
        fs::set_permissions(data_dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    let corrected = close_to_others(data_dir, DEPTH_MAX).map_err(failed)?;
    if corrected > 0 {
        tracing::warn!(data_dir = %shown, files = corrected, "files could be read by others; their mode is now 0600");
    }
    Ok(())
}

/// Takes the rights of others from all files below a directory; returns how many had some. Symbolic links are not
/// followed: what they lead to is the operator's.
fn close_to_others(dir: &Path, depth: u32) -> std::io::Result<usize> {
    let mut corrected = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let mode = entry.metadata()?.permissions().mode();
        let kind = entry.file_type()?;
        if kind.is_dir() && depth > 0 {
            corrected += close_to_others(&entry.path(), depth - 1)?;
        }
        if !kind.is_symlink() && mode & MODE_OTHERS != 0 {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode & 0o7777 & !MODE_OTHERS))?;
            corrected += 1;
        }
    }
    Ok(corrected)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_process_at_a_time_and_one_uuid_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b");
        let held = lock(&data).unwrap();
        assert!(lock(&data).unwrap_err().to_string().contains("another process"));
        let uuid = identity(&data).unwrap();
        assert_ne!(uuid, Uuid::default());
        assert_eq!(identity(&data).unwrap(), uuid);
        assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(crate::consensus::witness::path(&data)).unwrap().permissions().mode() & 0o777, 0o600);
        drop(held);
        lock(&data).unwrap();
    }

    #[test]
    fn a_foreign_directory_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("letter");
        fs::write(&file, "dear").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!has_data(dir.path()));
        for refused in [check(dir.path()), lock(dir.path()).map(drop)] {
            let text = refused.unwrap_err().to_string();
            assert!(text.contains("not the data directory of a node") && text.contains("letter"), "{text}");
        }
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn directories_are_checked_without_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b");
        check(&new).unwrap();
        assert!(!dir.path().join("a").exists());
        lock(&new).unwrap();
        check(&new).unwrap();
        identity(&new).unwrap();
        assert!(has_data(&new));
        check(&new).unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for bad in [file.as_path(), &file.join("below"), Path::new("/dev/null/data")] {
            let refused = check(bad);
            assert!(refused.is_err(), "{}", bad.display());
        }
    }

    #[test]
    fn a_mode_that_is_too_wide_is_corrected() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let (folder, file) = (dir.path().join("raft"), dir.path().join("raft/db"));
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "").unwrap();
        set(&file, 0o644);
        set(&folder, 0o755);
        set(dir.path(), 0o755);
        lock(dir.path()).unwrap();
        assert_eq!([dir.path(), &folder, &file].map(mode), [0o700, 0o700, 0o600]);
    }
}
