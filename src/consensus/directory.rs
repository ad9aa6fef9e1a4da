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
    witness::{Witness, WitnessRecord},
};
use crate::model::ids::Uuid;

/// Name of the lock file. The file is never removed; what counts is the kernel's lock on it.
const LOCK: &str = "lock";

/// Bits of a mode that give access to others than the owner.
const MODE_OTHERS: u32 = 0o077;
/// Folders below the data directory: `raft` and the one of sled's large values.
const DEPTH_MAX: u32 = 2;

/// Holds the data directory for this process. It is free again when this is dropped or the process has ended.
#[derive(Debug)]
pub struct DirLock {
    /// `None`: it has no lock file, so no node has used it since it was made.
    _file: Option<File>,
}

/// What a data directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// It does not exist, or has nothing in it.
    Empty,
    /// It has a witness or a log.
    OfANode,
    /// It has neither, and something else: for example this.
    Foreign(String),
}

/// Checks whether a node could use the data directory, and leaves nothing behind.
///
/// # Errors
/// Returns why not and what to do, as text for the operator.
pub fn check(data_dir: &Path) -> Result<(), OpenError> {
    let shown = data_dir.display();
    if !data_dir.exists() {
        // The node makes what is missing below the first directory that exists.
        let mut above =
            data_dir.ancestors().skip(1).map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
        let Some(above) = above.find(|dir| dir.exists()) else { return Ok(()) };
        return may_write(above).and_then(|()| may_make_in(above)).map_err(|why| {
            OpenError(format!(
                "the data directory {shown} does not exist and cannot be made: {} {why}; make it for this user, or give \
                 another --data-dir",
                above.display()
            ))
        });
    }
    is_own_directory(data_dir)?;
    may_write(data_dir)
        .map_err(|why| OpenError(format!("the data directory {shown} {why}; run: chmod 700 {shown}")))?;
    refuse_foreign(data_dir)
}

/// Checks that a node has used the data directory, and changes nothing.
///
/// # Errors
/// Returns what it is instead, as text for the operator.
pub fn must_be_of_a_node(data_dir: &Path) -> Result<(), OpenError> {
    is_own_directory(data_dir)?;
    match kind(data_dir) {
        Kind::Empty => Err(OpenError(format!(
            "the data directory {} is empty, so there is no node in it; give the --data-dir of the node",
            data_dir.display()
        ))),
        Kind::OfANode | Kind::Foreign(_) => refuse_foreign(data_dir),
    }
}

/// Refuses what another program or another version has written. A node would close the files to others.
fn refuse_foreign(data_dir: &Path) -> Result<(), OpenError> {
    match kind(data_dir) {
        Kind::Foreign(what) => Err(OpenError(format!(
            "{} is not the data directory of a node: it has other files ({what}), and neither a log nor a witness; nothing \
             in it was changed. Give the --data-dir of this node, or an empty directory",
            data_dir.display()
        ))),
        Kind::Empty => Ok(()),
        // What cannot be read is reported when it is opened.
        Kind::OfANode => match Witness::other_version(data_dir) {
            Ok(Some(version)) => Err(of_another_version(data_dir, &version)),
            Ok(None) | Err(_) => Ok(()),
        },
    }
}

fn kind(data_dir: &Path) -> Kind {
    if super::witness::path(data_dir).exists() || disk::exists(data_dir) {
        return Kind::OfANode;
    }
    let names = fs::read_dir(data_dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    // A first start was interrupted, or the directory is the root of a file system.
    let foreign = names.filter(|name| ![LOCK, "witness.new", "lost+found"].iter().any(|own| name == own)).min();
    match foreign {
        Some(name) => Kind::Foreign(name.to_string_lossy().chars().filter(|c| !c.is_control()).take(80).collect()),
        None => Kind::Empty,
    }
}

fn of_another_version(data_dir: &Path, version: &str) -> OpenError {
    OpenError(format!(
        "the data directory {} was written by another version of Pontoon (its witness is of version {version}, this program \
         knows {}); start the program that wrote it",
        data_dir.display(),
        super::witness::VERSION
    ))
}

fn may_write(dir: &Path) -> Result<(), String> {
    if !dir.is_dir() {
        return Err("is not a directory".into());
    }
    let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    accessat(CWD, dir, access, AtFlags::EACCESS)
        .map_err(|e| format!("cannot be written by this user ({})", std::io::Error::from(e)))
}

/// Makes a directory in `dir` and removes it. Root may write everywhere by its rights, but `/proc` has no new files.
fn may_make_in(dir: &Path) -> Result<(), String> {
    let tried = dir.join(format!(".pontoon-check-{}", uuid::Uuid::new_v4()));
    let made = DirBuilder::new().mode(0o700).create(&tried).and_then(|()| fs::remove_dir(&tried));
    made.map_err(|e| format!("takes no new directory ({e})"))
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
    take(file, data_dir)
}

/// As [`lock`], but changes nothing in the directory, which must exist.
///
/// # Errors
/// Another process uses the directory, or its lock file cannot be read.
pub fn lock_unchanged(data_dir: &Path) -> Result<DirLock, OpenError> {
    let path = data_dir.join(LOCK);
    match File::open(&path) {
        Ok(file) => take(file, data_dir),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(DirLock { _file: None }),
        Err(e) => Err(OpenError(format!("cannot open the lock file {}: {e}", path.display()))),
    }
}

fn take(file: File, data_dir: &Path) -> Result<DirLock, OpenError> {
    let shown = data_dir.display();
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DirLock { _file: Some(file) }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError(format!(
            "another process uses the data directory {shown}; stop it first, or give this node its own --data-dir"
        ))),
        Err(e) => Err(OpenError(format!("cannot lock {shown}: {e}"))),
    }
}

/// Whether the node of a data directory belongs to a cluster. Changes nothing.
///
/// # Errors
/// The witness file is damaged, or is missing although there is a log. The text says what to do.
pub fn belongs_to_a_cluster(data_dir: &Path) -> Result<bool, OpenError> {
    match Witness::facts_of(data_dir) {
        Ok(facts) => Ok(facts.cluster_id.is_some()),
        Err(e) if e.kind() == ErrorKind::NotFound && !disk::exists(data_dir) => Ok(false),
        Err(e) => Err(without_witness(data_dir, &e)),
    }
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
        Err(e) => Err(without_witness(data_dir, &e)),
    }
}

/// What to do about a witness that cannot be read although there should be one.
fn without_witness(data_dir: &Path, e: &std::io::Error) -> OpenError {
    match e.kind() {
        ErrorKind::NotFound => disk::remedy(data_dir, "its witness file is missing"),
        ErrorKind::InvalidData => disk::remedy(data_dir, &format!("its witness file {e}")),
        _ => disk::unreadable_witness(data_dir, e),
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
    let found = is_own_directory(data_dir)?;
    refuse_foreign(data_dir)?;
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

fn is_own_directory(data_dir: &Path) -> Result<fs::Metadata, OpenError> {
    let shown = data_dir.display();
    let found = fs::metadata(data_dir).map_err(|e| OpenError(format!("cannot use the data directory {shown}: {e}")))?;
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
    Ok(found)
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

    #[test]
    fn a_check_says_why_a_directory_cannot_be_used_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        fs::create_dir(at("home")).unwrap();
        fs::write(at("home/thesis.tex"), "").unwrap();
        fs::set_permissions(at("home"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(at("newer")).unwrap();
        let mut slots = vec![0; 8192];
        [0, 4096].iter().for_each(|at| slots[*at..at + 8].copy_from_slice(b"PNTNWIT2"));
        fs::write(at("newer/witness"), &slots).unwrap();
        // One slot is damaged, and the other one counts.
        fs::create_dir(at("torn")).unwrap();
        slots[4096..4104].copy_from_slice(b"PNTNWIT1");
        fs::write(at("torn/witness"), &slots).unwrap();
        fs::create_dir_all(at("full/lost+found")).unwrap();
        for (name, part) in [
            ("file", Some("is not a directory")),
            ("file/below", Some("cannot be made")),
            ("home", Some("other files (thesis.tex)")),
            ("newer", Some("another version of Pontoon (its witness is of version 2")),
            ("torn", None),
            ("full", None),
            ("new/below/it", None),
        ] {
            let checked = check(&at(name)).map_err(|e| e.to_string());
            match part {
                None => assert_eq!(checked, Ok(()), "{name}"),
                Some(part) => assert!(checked.as_ref().is_err_and(|e| e.contains(part)), "{name}: {checked:?}"),
            }
        }
        // A start refuses them as well, and leaves nothing there.
        assert!(lock(&at("home")).unwrap_err().to_string().contains("thesis.tex"));
        assert!(lock(&at("newer")).unwrap_err().to_string().contains("another version"));
        assert_eq!(fs::metadata(at("home")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(at("home")).unwrap().count() + fs::read_dir(at("newer")).unwrap().count(), 2);
        assert!(!at("new").exists());
        assert!(must_be_of_a_node(&at("full")).unwrap_err().to_string().contains("is empty"));
        assert!(must_be_of_a_node(&at("home")).unwrap_err().to_string().contains("thesis.tex"));
        must_be_of_a_node(&at("torn")).unwrap();
    }
}
