//! Reads secrets from files: the cluster secret, whose file only its owner may read, and passwords.
//! No error contains what was read.

use std::{
    fs::File,
    io::{Read, Take},
    os::unix::fs::MetadataExt,
    path::Path,
};

use secrecy::zeroize::Zeroizing;

use crate::{files, model::secret::Secret, wire::secrets::Secrets};

/// Longest secret file that is read; several times two of the longest secrets.
const FILE_LEN_MAX: u64 = 4096;
/// Bits of a file's mode that give access to others than the owner.
const MODE_OTHERS: u32 = 0o077;

/// The cluster secrets in `path`: one line, or two while the secret is replaced.
///
/// # Errors
/// Returns why, as text for the operator, if the file cannot be read, others may read it (with the command that changes
/// this), or its content cannot be cluster secrets.
pub fn cluster_secrets(path: &Path) -> Result<Secrets, String> {
    let show = path.display();
    let file = files::open_regular(path).map_err(|e| format!("secret file {show} cannot be read: {e}"))?;
    closed_to_others(&file, path, "secret")?;
    let text = text(file.take(FILE_LEN_MAX)).map_err(|e| format!("secret file {show}: {e}"))?;
    Secrets::parse(&text).map_err(|e| format!("secret file {show}: {e}"))
}

/// A password from a file, or from standard input if `path` is `-`.
///
/// # Errors
/// Returns why, as text for the operator, if it cannot be read, others may read it (with the command that changes this),
/// it is empty, or has more than one line.
pub fn password(path: &Path) -> Result<Secret, String> {
    let text = if path == Path::new("-") {
        line(std::io::stdin().lock().take(FILE_LEN_MAX)).map_err(|e| format!("password on standard input: {e}"))?
    } else {
        let show = path.display();
        let file = files::open_regular(path)
            .map_err(|e| format!("password file {show} cannot be read: {e} (- reads standard input)"))?;
        closed_to_others(&file, path, "password")?;
        line(file.take(FILE_LEN_MAX)).map_err(|e| format!("password file {show}: {e}"))?
    };
    Ok(Secret::new(text.to_string()))
}

/// Refuses a file that others than its owner may read. `what` is in it.
fn closed_to_others(file: &File, path: &Path, what: &str) -> Result<(), String> {
    let show = path.display();
    let found = file.metadata().map_err(|e| format!("{what} file {show}: {e}"))?;
    if found.mode() & MODE_OTHERS != 0 {
        return Err(format!(
            "{what} file {show} can be read by others (mode {:04o}); run: chmod 600 {show}",
            found.mode() & 0o7777
        ));
    }
    Ok(())
}

/// A whole text. Its memory is erased when it is dropped.
fn text<R: Read>(mut from: Take<R>) -> Result<Zeroizing<String>, String> {
    // With room for all of it, so that it does not move while it grows.
    let mut text = Zeroizing::new(String::with_capacity(FILE_LEN_MAX as usize));
    from.read_to_string(&mut text).map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
        _ => e.to_string(),
    })?;
    if from.limit() == 0 {
        return Err(format!("it is longer than {FILE_LEN_MAX} bytes"));
    }
    Ok(text)
}

/// The only line of a text, without its end.
fn line<R: Read>(from: Take<R>) -> Result<Zeroizing<String>, String> {
    let text = text(from)?;
    let text = text.strip_suffix('\n').unwrap_or(text.as_str());
    let text = text.strip_suffix('\r').unwrap_or(text);
    match text {
        "" => Err("it is empty".into()),
        _ if text.contains(['\n', '\r', '\0']) => Err("one line is expected".into()),
        _ => Ok(Zeroizing::new(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn modes_and_contents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "0123456789abcdef\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = cluster_secrets(&path).unwrap_err();
        assert!(refused.contains("chmod 600") && !refused.contains("0123"), "{refused}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(cluster_secrets(&path).unwrap().sent().reveal(), "0123456789abcdef");
        assert_eq!(password(&path).unwrap().reveal(), "0123456789abcdef");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        let refused = password(&path).unwrap_err();
        assert!(refused.contains("password file") && refused.contains("chmod 600"), "{refused}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();

        for (content, part) in [
            ("", "empty"),
            ("\n", "empty"),
            ("a\nb\n", "line 1: the cluster secret has 1 characters"),
            (&*"x".repeat(5000), "longer"),
            ("short\n", "characters"),
        ] {
            fs::write(&path, content).unwrap();
            let refused = cluster_secrets(&path).unwrap_err();
            assert!(refused.contains(part), "{content:.9}: {refused}");
        }
        fs::write(&path, "0123456789abcdef\nfedcba9876543210\n").unwrap();
        assert_eq!(cluster_secrets(&path).unwrap().tags().accepted(), 2);
        assert!(password(&path).unwrap_err().contains("one line"), "a password is one line");
        assert!(cluster_secrets(&dir.path().join("none")).unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn a_pipe_is_refused_and_nobody_waits_for_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let (send, read) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            send.send([cluster_secrets(&path).map(drop).unwrap_err(), password(&path).map(drop).unwrap_err()])
        });
        let refused = read.recv_timeout(std::time::Duration::from_secs(60)).expect("it waits for a writer");
        assert!(refused.iter().all(|text| text.contains("not a regular file")), "{refused:?}");
    }
}
