//! Damage to the data directory of a stopped node: each way ends in a clear refusal that loses nothing, or in a clean
//! start with everything acknowledged.

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use cluster_tests::{
    cluster::Cluster,
    stock,
    wait::{GENEROUS, wait_for},
};

/// What a start with the damage must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// Start, with everything that was acknowledged.
    Clean,
    /// Start as a new node, since nothing is there that shows that it is not.
    New,
    /// Refuse, with this text.
    Refused(&'static str),
}
use Expect::{Clean, New, Refused};

/// What the damage is made of.
struct Files<'a> {
    /// The data directory, as the node left it.
    dir: &'a Path,
    /// That of another node, in another cluster.
    other: &'a Path,
    /// An older copy of the node's own.
    older: &'a Path,
    /// A place outside.
    away: &'a Path,
}

impl Files<'_> {
    fn at(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.dir.to_path_buf() } else { self.dir.join(name) }
    }

    fn remove(&self, name: &str) {
        let path = self.at(name);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    fn cut(&self, name: &str, share: u64) {
        let file = fs::File::options().write(true).open(self.at(name)).unwrap();
        let len = file.metadata().unwrap().len();
        file.set_len(len.checked_div(share).unwrap_or(0)).unwrap();
    }

    /// Inverts bits of `count` bytes.
    fn flip(&self, name: &str, at: u64, count: usize) {
        let file = fs::File::options().read(true).write(true).open(self.at(name)).unwrap();
        let mut bytes = vec![0; count];
        let read = file.read_at(&mut bytes, at).unwrap();
        bytes.truncate(read);
        bytes.iter_mut().for_each(|b| *b ^= 0x5a);
        file.write_all_at(&bytes, at).unwrap();
    }

    fn replace(&self, name: &str, from: &Path) {
        self.remove(name);
        copy(&from.join(name), &self.at(name));
    }

    fn a_folder_instead(&self, name: &str) {
        self.remove(name);
        fs::create_dir(self.at(name)).unwrap();
    }

    fn a_file_instead(&self, name: &str) {
        self.remove(name);
        fs::write(self.at(name), "x").unwrap();
    }

    /// Moves a file or folder away, and leaves a symbolic link to it.
    fn a_link_instead(&self, name: &str) {
        let to = self.away.join("moved");
        fs::rename(self.at(name), &to).unwrap();
        symlink(to, self.at(name)).unwrap();
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The snapshot file of sled.
    fn snap(&self) -> Option<String> {
        let names = fs::read_dir(self.at("raft")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("snap.")).map(|name| format!("raft/{name}")).next()
    }
}

type Damage = (&'static str, Expect, fn(&Files));

/// The witness file: two slots of 4 KB.
const SLOT: u64 = 4096;

fn of_the_directory() -> Vec<Damage> {
    vec![
        ("the directory is missing", New, |f| fs::remove_dir_all(f.dir).unwrap()),
        ("the directory is empty", New, |f| ["lock", "witness", "raft"].iter().for_each(|name| f.remove(name))),
        ("the directory is a file", Refused("is not a directory"), |f| {
            fs::remove_dir_all(f.dir).unwrap();
            fs::write(f.dir, "x").unwrap();
        }),
        ("the directory is a symbolic link", Clean, |f| f.a_link_instead("")),
        ("the directory is another node's", Refused("belongs to node 2"), |f| {
            fs::remove_dir_all(f.dir).unwrap();
            copy(f.other, f.dir);
        }),
        ("others may read everything", Clean, |f| {
            f.mode("", 0o755);
            f.mode("raft/db", 0o644);
            f.mode("witness", 0o644);
        }),
        ("an unknown file is there", Clean, |f| fs::write(f.at("notes.txt"), "x").unwrap()),
        ("the lock is missing", Clean, |f| f.remove("lock")),
        ("the lock is not empty", Clean, |f| fs::write(f.at("lock"), [0; 4096]).unwrap()),
        ("the lock is a folder", Refused("cannot open"), |f| f.a_folder_instead("lock")),
    ]
}

fn of_the_witness() -> Vec<Damage> {
    let damaged = Refused("witness file");
    vec![
        ("the witness is missing", damaged, |f| f.remove("witness")),
        ("the witness is empty", damaged, |f| f.cut("witness", 0)),
        ("the witness is cut off", damaged, |f| f.cut("witness", 2)),
        ("the witness is too long", damaged, |f| {
            fs::File::options().write(true).open(f.at("witness")).unwrap().set_len(4 * SLOT).unwrap();
        }),
        ("the first slot of the witness is damaged", Clean, |f| f.flip("witness", 20, 8)),
        ("the second slot of the witness is damaged", Clean, |f| f.flip("witness", SLOT + 20, 8)),
        ("both slots of the witness are damaged", damaged, |f| {
            f.flip("witness", 20, 1);
            f.flip("witness", SLOT + 20, 1);
        }),
        ("the witness is another node's", Refused("is damaged"), |f| f.replace("witness", f.other)),
        ("the witness is an older one", Clean, |f| f.replace("witness", f.older)),
        ("the witness is a folder", Refused("witness"), |f| f.a_folder_instead("witness")),
        ("the witness is a symbolic link", Clean, |f| f.a_link_instead("witness")),
        ("the witness is a link to nothing", damaged, |f| {
            f.a_link_instead("witness");
            fs::remove_file(f.away.join("moved")).unwrap();
        }),
        ("a crash left an unfinished witness", Clean, |f| fs::write(f.at("witness.new"), "x").unwrap()),
        ("the unfinished witness is a folder", Clean, |f| fs::create_dir(f.at("witness.new")).unwrap()),
    ]
}

fn of_the_log() -> Vec<Damage> {
    let damaged = Refused("is damaged");
    vec![
        ("the log is missing", damaged, |f| f.remove("raft")),
        ("the log is empty", damaged, |f| {
            f.remove("raft");
            fs::create_dir(f.at("raft")).unwrap();
        }),
        ("the log is a file", Refused("raft"), |f| f.a_file_instead("raft")),
        ("the log is a symbolic link", Clean, |f| f.a_link_instead("raft")),
        ("the log is an older one", damaged, |f| f.replace("raft", f.older)),
        ("the log is another node's", damaged, |f| f.replace("raft", f.other)),
        ("the database is missing", damaged, |f| f.remove("raft/db")),
        ("the database is empty", damaged, |f| f.cut("raft/db", 0)),
        ("the database is cut off", damaged, |f| f.cut("raft/db", 512)),
        ("the beginning of the database is damaged", damaged, |f| f.flip("raft/db", 0, 64 << 10)),
        ("the database is an older one", damaged, |f| f.replace("raft/db", f.older)),
        ("the database is another node's", damaged, |f| f.replace("raft/db", f.other)),
        ("the database is a folder", Refused("raft"), |f| f.a_folder_instead("raft/db")),
        ("the database is a symbolic link", Clean, |f| f.a_link_instead("raft/db")),
        ("the configuration of the database is missing", Clean, |f| f.remove("raft/conf")),
        ("the configuration of the database is empty", Clean, |f| f.cut("raft/conf", 0)),
        ("the configuration of the database is damaged", damaged, |f| f.flip("raft/conf", 0, 16)),
        ("the index of the database is missing", Clean, |f| f.snap().iter().for_each(|name| f.remove(name))),
        ("the index of the database is empty", damaged, |f| f.snap().iter().for_each(|name| f.cut(name, 0))),
        ("the index of the database is damaged", damaged, |f| f.snap().iter().for_each(|name| f.flip(name, 8, 32))),
        ("a crash left an unfinished index", Clean, |f| {
            fs::write(f.at("raft/snap.00000000000000FF.generating"), "x").unwrap()
        }),
        ("the folder of large values is missing", Clean, |f| f.remove("raft/blobs")),
    ]
}

fn copy(from: &Path, to: &Path) {
    stock::run(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// A stopped node with a product that was made after the older copy, and a stopped node of another cluster.
struct Fixture {
    cluster: Cluster,
    good: PathBuf,
    older: PathBuf,
    other: PathBuf,
    _other: Cluster,
    cluster_id: serde_json::Value,
}

impl Fixture {
    fn new() -> Self {
        let mut other = Cluster::prepared(2);
        other.start_all();
        other.node_mut(2).terminate(GENEROUS);
        let mut cluster = Cluster::start(1);
        let dir = cluster.node(1).data_dir.clone();
        let [good, older] = ["good", "older"].map(|name| cluster.dir.path().join(name));
        cluster.node_mut(1).terminate(GENEROUS);
        copy(&dir, &older);
        cluster.node_mut(1).start();
        cluster.wait_formed();
        let port = cluster.ports.product(1).to_string();
        cluster.cli().ok(&["product", "create", "acknowledged", "--port", &port, "--timeout", "40s"]);
        let cluster_id = cluster.cli().json(&["status"])["cluster_id"].clone();
        cluster.node_mut(1).kill9();
        copy(&dir, &good);
        let other_dir = other.node(2).data_dir.clone();
        Self { cluster, good, older, other: other_dir, _other: other, cluster_id }
    }

    fn restore(&self) {
        let dir = &self.cluster.node(1).data_dir;
        if fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir()) {
            fs::remove_dir_all(dir).unwrap();
        } else {
            let _ = fs::remove_file(dir);
        }
        copy(&self.good, dir);
    }

    /// Damages the directory, starts the node, and checks what it does. `Err`: what it did instead.
    fn check(&mut self, (what, expect, damage): Damage) -> Result<(), String> {
        self.restore();
        let away = tempfile::tempdir().unwrap();
        let dir = self.cluster.node(1).data_dir.clone();
        damage(&Files { dir: &dir, other: &self.other, older: &self.older, away: away.path() });
        let before = self.cluster.node(1).log().len();
        self.cluster.node_mut(1).start();
        let cluster_id = self.cluster_id.clone();
        let node = self.cluster.node_mut(1);
        let ended = wait_for(&format!("a start or a refusal: {what}"), GENEROUS, || {
            if !node.runs() {
                return Ok(true);
            }
            let status = node.cli().try_json(&["status", "--timeout", "1s"])?;
            // A node that was killed learns anew what is committed, so the product may take a moment.
            let kept = node.cli().run(&["product", "ls"]).out.contains("acknowledged");
            let other_cluster = status["cluster_id"].is_string() && status["cluster_id"] != cluster_id;
            if kept || other_cluster { Ok(false) } else { Err(status.to_string()) }
        });
        let said = node.log().split_off(before);
        let did = if ended {
            node.wait_end(GENEROUS);
            judge_refusal(&said, &dir).map(|()| said.clone())
        } else {
            let kept = node.cli().ok(&["product", "ls"]).out.contains("acknowledged");
            node.kill9();
            assert_eq!(open_to_others(&dir), Vec::<PathBuf>::new(), "{what}");
            Ok(if kept { "clean" } else { "new" }.to_owned())
        };
        let as_expected = match (&did, expect) {
            (Ok(did), Clean) => !ended && did == "clean",
            (Ok(did), New) => !ended && did == "new",
            (Ok(said), Refused(part)) => ended && said.contains(part),
            (Err(_), _) => false,
        };
        if as_expected { Ok(()) } else { Err(format!("{what}: expected {expect:?}, and it did this: {did:?}\n{said}")) }
    }
}

/// The files and folders below a data directory that others than its owner may use.
pub fn open_to_others(dir: &Path) -> Vec<PathBuf> {
    let mut open = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            open.extend(open_to_others(&entry.path()));
        }
        if !kind.is_symlink() && entry.metadata().unwrap().permissions().mode() & 0o077 != 0 {
            open.push(entry.path());
        }
    }
    open
}

/// Checks that a refusal is clear: it names the directory, says what to do, and advises nothing that loses data.
fn judge_refusal(said: &str, dir: &Path) -> Result<(), String> {
    let last = said.lines().rev().find(|line| line.starts_with("pontoon: ")).ok_or("no error for people")?;
    if !last.contains(&dir.display().to_string()) {
        return Err(format!("it does not name the directory: {last}"));
    }
    let advice = ["move this directory away", "start it with", "start this node again", "give another", "move it away"];
    if !advice.iter().any(|part| last.contains(part)) {
        return Err(format!("it does not say what to do: {last}"));
    }
    let losing = ["rm -r", "delete ", "wipe this", "empty this"];
    if let Some(part) = losing.iter().find(|part| last.contains(**part)) {
        return Err(format!("it advises to '{part}': {last}"));
    }
    Ok(())
}

fn check_all(damages: Vec<Damage>) {
    let mut fixture = Fixture::new();
    let wrong: Vec<String> = damages.into_iter().filter_map(|damage| fixture.check(damage).err()).collect();
    assert!(wrong.is_empty(), "{} of them:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn damage_to_the_directory_is_refused_or_harmless() {
    check_all(of_the_directory());
}

#[test]
fn damage_to_the_witness_is_refused_or_harmless() {
    check_all(of_the_witness());
}

#[test]
fn damage_to_the_log_is_refused_or_harmless() {
    check_all(of_the_log());
}
