//! The playground's directory: its shape, the servers' configuration, data and logs.
//! Knows nothing of processes; a command is a list of words.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use super::{
    CliError,
    layout::{LayoutRequest, PlaygroundLayout, PlaygroundServer, PlaygroundShape},
};
use crate::cli::{error::failed, output};

/// The shape of the playground; written before anything is started.
const SHAPE: &str = "playground.json";
/// Exists when groups and slots have been made: then a resumed playground only starts programs.
const READY: &str = "ready";
/// Locked while a playground runs in the directory.
const LOCK: &str = "lock";

/// The directory, locked.
#[derive(Debug)]
pub struct PlaygroundFiles {
    dir: PathBuf,
    shape: PlaygroundShape,
    temporary: bool,
    _lock: File,
}

impl PlaygroundFiles {
    /// Locks the directory, and creates it if it does not exist (mode 0700).
    ///
    /// # Errors
    /// [`CliError::Failed`] if another playground runs in it, it has another shape than `asked`, it contains other
    /// files, or it cannot be written.
    pub fn open(named: Option<&Path>, asked: LayoutRequest) -> Result<Self, CliError> {
        let dir = match named {
            Some(dir) => dir.to_owned(),
            None => std::env::temp_dir().join(format!("pontoon-playground-{}", uuid::Uuid::new_v4().simple())),
        };
        let at = |e: std::io::Error| failed(format!("{}: {e}", dir.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(at)?;
        // Children run in it, and the printed commands are for other terminals: both need an absolute path.
        let dir = dir.canonicalize().map_err(at)?;
        let shape_file = dir.join(SHAPE);
        if !shape_file.exists() && !dir.join(LOCK).exists() && fs::read_dir(&dir).map_err(failed)?.next().is_some() {
            return Err(CliError::Failed(format!(
                "{} is not empty and was not made by a playground; name an empty or new directory",
                dir.display()
            )));
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK)).map_err(failed)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(CliError::Failed(format!(
                "another playground runs in {}; stop it, or use another --dir",
                dir.display()
            )));
        }
        let shape = if shape_file.exists() {
            let made = read_shape(&shape_file)?;
            let shape = asked.or(made);
            if shape != made {
                return Err(CliError::Failed(format!(
                    "{} was made with --nodes {} --groups {} --replicas {} --port {}; leave these flags out, or use another --dir",
                    dir.display(),
                    made.nodes,
                    made.groups,
                    made.replicas,
                    made.port
                )));
            }
            shape
        } else {
            asked.or(PlaygroundShape::default())
        };
        Ok(Self { dir, shape, temporary: named.is_none(), _lock: lock })
    }

    /// The shape.
    #[must_use]
    pub fn shape(&self) -> PlaygroundShape {
        self.shape
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it is removed when the playground ends.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.temporary
    }

    /// Whether an earlier run has made the groups.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.dir.join(READY).exists()
    }

    /// Records that the groups have been made.
    ///
    /// # Errors
    /// [`CliError::Failed`] if the directory cannot be written.
    pub fn mark_ready(&self) -> Result<(), CliError> {
        fs::write(self.dir.join(READY), "").map_err(failed)
    }

    /// Writes the files that do not exist yet. A server's file is never overwritten: the server keeps its role in it.
    ///
    /// # Errors
    /// [`CliError::Failed`] if the directory cannot be written.
    pub fn write(&self, layout: &PlaygroundLayout) -> Result<(), CliError> {
        let PlaygroundShape { nodes, groups, replicas, port } = self.shape;
        fs::create_dir_all(self.dir.join("nodes")).map_err(failed)?;
        for server in layout.servers() {
            let dir = self.server_dir(&server);
            fs::create_dir_all(&dir).map_err(failed)?;
            let path = dir.join("redis.conf");
            if path.exists() {
                continue;
            }
            let mut conf = format!(
                "# Made by pontoon playground, once.\nbind 127.0.0.1\nport {}\ndir \"{}\"\nappendonly yes\nsave \"\"\nrepl-diskless-sync yes\nrepl-diskless-sync-delay 0\n",
                server.port,
                dir.display()
            );
            if let Some(primary) = server.primary_port {
                conf += &format!("replicaof 127.0.0.1 {primary}\n");
            }
            write_aside(&path, &conf)?;
        }
        let path = self.dir.join(SHAPE);
        if path.exists() {
            return Ok(());
        }
        let text = json!({"nodes": nodes, "groups": groups, "replicas": replicas, "port": port});
        write_aside(&path, &format!("{text:#}\n"))
    }

    fn server_dir(&self, server: &PlaygroundServer) -> PathBuf {
        self.dir.join(format!("redis-{}", server.port))
    }

    /// Where a server's output goes.
    #[must_use]
    pub fn server_log(&self, server: &PlaygroundServer) -> PathBuf {
        self.dir.join(format!("redis-{}.log", server.port))
    }

    /// Where a node's output goes.
    #[must_use]
    pub fn node_log(&self, node: u16) -> PathBuf {
        self.dir.join(format!("node-{node}.log"))
    }

    /// The command that starts a server.
    #[must_use]
    pub fn server_command(&self, program: &Path, server: &PlaygroundServer) -> Vec<String> {
        vec![program.display().to_string(), self.server_dir(server).join("redis.conf").display().to_string()]
    }

    /// The command that starts a node.
    #[must_use]
    pub fn node_command(&self, program: &Path, layout: &PlaygroundLayout, node: u16) -> Vec<String> {
        let peers: Vec<_> = (1..=self.shape.nodes).map(|n| format!("{n}={}", layout.admin(n))).collect();
        let data_dir = self.dir.join("nodes").join(node.to_string());
        let words = [
            &program.display().to_string(),
            "serve",
            "--id",
            &node.to_string(),
            "--admin",
            &layout.admin(node),
            "--peers",
            &peers.join(","),
            "--bind",
            "127.0.0.1",
            "--port-offset",
            &node.to_string(),
            "--data-dir",
            &data_dir.display().to_string(),
            "--set",
            &format!("default_port={}", self.shape.port),
        ];
        words.map(str::to_owned).to_vec()
    }

    /// Removes the directory if it is a temporary one.
    pub fn finish(self) {
        if self.temporary
            && let Err(e) = fs::remove_dir_all(&self.dir)
        {
            output::note(&format!("{} could not be removed: {e}", self.dir.display()));
        }
    }
}

/// Writes a file completely or not at all, even if this process is killed.
fn write_aside(path: &Path, text: &str) -> Result<(), CliError> {
    let aside = path.with_extension("new");
    fs::write(&aside, text)
        .and_then(|()| fs::rename(&aside, path))
        .map_err(|e| failed(format!("{}: {e}", path.display())))
}

fn read_shape(path: &Path) -> Result<PlaygroundShape, CliError> {
    let bad = |why: &str| {
        failed(format!("{}: {why}; it was made by a playground and is needed to resume it", path.display()))
    };
    let text = fs::read_to_string(path).map_err(|e| bad(&e.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| bad(&e.to_string()))?;
    let number = |key: &str, max: u16| {
        value
            .get(key)
            .and_then(Value::as_u64)
            .and_then(|n| u16::try_from(n).ok())
            .filter(|n| *n <= max)
            .ok_or_else(|| bad(&format!("'{key}' is missing or not a number from 0 to {max}")))
    };
    let shape = PlaygroundShape {
        nodes: number("nodes", 20)?,
        groups: number("groups", 32)?,
        replicas: number("replicas", 5)?,
        port: number("port", u16::MAX)?,
    };
    if shape.nodes == 0 || shape.groups == 0 || shape.port == 0 {
        Err(bad("nodes, groups and port must not be 0"))
    } else {
        Ok(shape)
    }
}

/// A word, quoted for a shell.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_resumed_directory_keeps_its_numbers_and_its_servers_files() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("d");
        let first = PlaygroundFiles::open(Some(&dir), LayoutRequest { port: Some(26_000), ..LayoutRequest::default() })
            .unwrap();
        let layout = PlaygroundLayout::new(first.shape()).unwrap();
        first.write(&layout).unwrap();
        let replica = layout.servers().nth(1).unwrap();
        let conf = first.server_dir(&replica).join("redis.conf");
        assert!(fs::read_to_string(&conf).unwrap().contains("replicaof 127.0.0.1 26201"));
        let locked = PlaygroundFiles::open(Some(&dir), LayoutRequest::default()).unwrap_err();
        assert!(locked.to_string().contains("another playground"), "{locked}");
        assert!(!first.is_ready());
        first.mark_ready().unwrap();
        drop(first);
        // The server got another role meanwhile, and has written it to its file.
        fs::write(&conf, "port 26202\n").unwrap();

        let again = PlaygroundFiles::open(Some(&dir), LayoutRequest::default()).unwrap();
        assert_eq!((again.shape().port, again.is_ready()), (26_000, true));
        again.write(&layout).unwrap();
        assert_eq!(fs::read_to_string(&conf).unwrap(), "port 26202\n");
        drop(again);

        let other = PlaygroundFiles::open(Some(&dir), LayoutRequest { nodes: Some(5), ..LayoutRequest::default() })
            .unwrap_err();
        assert!(other.to_string().contains("--nodes 3"), "{other}");
    }

    #[test]
    fn a_directory_with_other_files_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("thesis.tex"), "").unwrap();
        let refused = PlaygroundFiles::open(Some(temp.path()), LayoutRequest::default()).unwrap_err();
        assert!(refused.to_string().contains("not empty"), "{refused}");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_temporary_directory_is_removed() {
        let files = PlaygroundFiles::open(None, LayoutRequest::default()).unwrap();
        let dir = files.dir().to_owned();
        assert!(dir.exists());
        files.finish();
        assert!(!dir.exists());
    }

    #[test]
    fn shell_words() {
        assert_eq!(quoted("1=a:1,2=b:2"), "1=a:1,2=b:2");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
