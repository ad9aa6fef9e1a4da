//! Faults inside a node, which the tests request through files (`pontoon::faults`, debug builds only).
//! Knows nothing of the meaning of a fault point.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pontoon::faults::{Point, Rule};

use crate::wait::{GENEROUS, wait_until};

/// The faults of one node.
#[derive(Clone, Debug)]
pub struct Faults(PathBuf);

impl Faults {
    /// Returns the faults of the node that is started with this directory in `PONTOON_FAULTS`.
    ///
    /// # Panics
    /// When the directory cannot be created.
    #[must_use]
    pub fn in_dir(dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).expect("a directory can be made");
        Self(dir)
    }

    /// Returns the directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// From now on, the node pauses at `point`.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn pause_at(&self, point: Point) {
        let _ = fs::remove_file(self.file("reached", point.name()));
        fs::write(self.file("pause", point.name()), b"").expect("a file can be written");
    }

    /// Whether the node pauses at `point`, or has paused there since `pause_at`.
    #[must_use]
    pub fn has_reached(&self, point: Point) -> bool {
        self.file("reached", point.name()).exists()
    }

    /// Waits until the node pauses at `point`.
    ///
    /// # Panics
    /// At the deadline.
    #[track_caller]
    pub fn wait_reached(&self, point: Point) {
        wait_until(&format!("the node to reach {}", point.name()), GENEROUS, || self.has_reached(point));
    }

    /// Lets the node continue from `point`. It does not pause there again.
    pub fn go_on(&self, point: Point) {
        let _ = fs::remove_file(self.file("pause", point.name()));
    }

    /// Makes a task of the node panic. If several tasks have this name, one of them panics.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn panic(&self, task: &str) {
        fs::write(self.file("panic", task), b"").expect("a file can be written");
    }

    /// Waits until the task is about to panic.
    ///
    /// # Panics
    /// At the deadline.
    #[track_caller]
    pub fn wait_panics(&self, task: &str) {
        wait_until(&format!("a task {task} to panic"), GENEROUS, || !self.file("panic", task).exists());
    }

    /// Makes the node leave out a rule. Must be called before the node starts.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn without(&self, rule: Rule) {
        fs::write(self.file("without", rule.name()), b"").expect("a file can be written");
    }

    fn file(&self, what: &str, name: &str) -> PathBuf {
        self.0.join(format!("{what}.{name}"))
    }
}
