//! A copy of a data directory, in the system's directory for temporary files: sled writes when it only opens a log. It is
//! removed at the end. Knows nothing of what is read there.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Folders below a data directory: `raft` and the one of sled's large values.
const DEPTH_MAX: u32 = 2;

/// The copy. Only its owner can read it: it has passwords.
#[derive(Debug)]
pub struct DirCopy {
    of: PathBuf,
    path: PathBuf,
}

impl DirCopy {
    /// Copies a data directory, which no process may use.
    ///
    /// # Errors
    /// Returns what failed, as text for the operator.
    pub fn of(data_dir: &Path) -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("pontoon-{}", uuid::Uuid::new_v4()));
        // Made first, so that whatever is copied is removed.
        let copy = Self { of: data_dir.to_owned(), path };
        copy_folder(data_dir, &copy.path, DEPTH_MAX).map_err(|e| {
            format!(
                "{} cannot be copied to {}, which a dry run needs: {e}; set TMPDIR to a directory with space",
                data_dir.display(),
                copy.path.display()
            )
        })?;
        Ok(copy)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A text about the copy, as one about the original.
    pub fn about_original(&self, text: &str) -> String {
        text.replace(&*self.path.to_string_lossy(), &self.of.to_string_lossy())
    }
}

impl Drop for DirCopy {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a copy with passwords could not be removed; remove it");
        }
    }
}

fn copy_folder(from: &Path, to: &Path, depth: u32) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() && depth > 0 {
            copy_folder(&entry.path(), &to, depth - 1)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_copy_has_everything_and_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("raft/blobs")).unwrap();
        fs::write(dir.path().join("raft/blobs/1"), "one").unwrap();
        let copy = DirCopy::of(dir.path()).unwrap();
        let path = copy.path().to_owned();
        assert_eq!(fs::read_to_string(path.join("raft/blobs/1")).unwrap(), "one");
        let text = copy.about_original(&format!("{}/raft is damaged", path.display()));
        assert_eq!(text, format!("{}/raft is damaged", dir.path().display()));
        drop(copy);
        assert!(!path.exists());
        assert!(DirCopy::of(&dir.path().join("none")).unwrap_err().contains("cannot be copied"));
    }
}
