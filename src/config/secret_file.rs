//! Reads secrets from files: the cluster secret, whose file only its owner may read, and passwords.
//! No error contains what was read.

use std::{
    fs::File,
    io::{Read, Take},
    os::unix::fs::MetadataExt,
    path::Path,
};

use crate::{model::secret::Secret, wire::auth::ClusterSecret};

/// Longest secret file that is read; several times the longest secret.
const FILE_LEN_MAX: u64 = 4096;
/// Bits of a file's mode that give access to others than the owner.
const MODE_OTHERS: u32 = 0o077;

/// The cluster secret in `path`: its first and only line.
///
/// # Errors
/// Returns why, as text for the operator, if the file cannot be read, others may read it (with the command that changes this), or
/// its content cannot be a cluster secret.
pub fn cluster_secret(path: &Path) -> Result<ClusterSecret, String> {
    let show = path.display();
    let file = File::open(path).map_err(|e| format!("secret file {show} cannot be read: {e}"))?;
    let mode = file.metadata().map_err(|e| format!("secret file {show}: {e}"))?.mode();
    if mode & MODE_OTHERS != 0 {
        return Err(format!(
            "secret file {show} can be read by others (mode {:04o}); run: chmod 600 {show}",
            mode & 0o7777
        ));
    }
    let text = line(file.take(FILE_LEN_MAX)).map_err(|e| format!("secret file {show}: {e}"))?;
    ClusterSecret::new(&text).map_err(|e| format!("secret file {show}: {e}"))
}

/// A password from a file, or from standard input if `path` is `-`.
///
/// # Errors
/// Returns why, as text for the operator, if it cannot be read, is empty, or has more than one line.
pub fn password(path: &Path) -> Result<Secret, String> {
    let text = if path == Path::new("-") {
        line(std::io::stdin().lock().take(FILE_LEN_MAX)).map_err(|e| format!("password on standard input: {e}"))?
    } else {
        let show = path.display();
        let file = File::open(path).map_err(|e| format!("password file {show} cannot be read: {e}"))?;
        line(file.take(FILE_LEN_MAX)).map_err(|e| format!("password file {show}: {e}"))?
    };
    Ok(Secret::new(text))
}

/// The only line of a text, without its end.
fn line<R: Read>(mut from: Take<R>) -> Result<String, String> {
    let mut text = String::new();
    from.read_to_string(&mut text).map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
        _ => e.to_string(),
    })?;
    if from.limit() == 0 {
        return Err(format!("it is longer than {FILE_LEN_MAX} bytes"));
    }
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    match text {
        "" => Err("it is empty".into()),
        _ if text.contains(['\n', '\r', '\0']) => Err("one line is expected".into()),
        _ => Ok(text.to_owned()),
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
        let refused = cluster_secret(&path).unwrap_err();
        assert!(refused.contains("chmod 600") && !refused.contains("0123"), "{refused}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(cluster_secret(&path).unwrap().is_some());
        assert_eq!(password(&path).unwrap().reveal(), "0123456789abcdef");

        for (content, part) in [
            ("", "empty"),
            ("\n", "empty"),
            ("a\nb\n", "one line"),
            (&*"x".repeat(5000), "longer"),
            ("short\n", "characters"),
        ] {
            fs::write(&path, content).unwrap();
            let refused = cluster_secret(&path).unwrap_err();
            assert!(refused.contains(part), "{content:.9}: {refused}");
        }
        assert!(cluster_secret(&dir.path().join("none")).unwrap_err().contains("cannot be read"));
    }
}
