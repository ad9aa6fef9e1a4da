//! How much memory this process may use: that of the machine, or less if a control group limits it.
//! Knows nothing of what it is used for.

use std::{fs, path::Path};

/// Bytes of memory, at least 1.
#[must_use]
pub fn total() -> u64 {
    let machine = rustix::system::sysinfo();
    let machine = machine.totalram.saturating_mul(u64::from(machine.mem_unit));
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit_files(&own)
        .iter()
        .filter_map(|file| parse_limit(&fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok()?))
        .fold(machine, u64::min)
        .max(1)
}

/// The files below `/sys/fs/cgroup` that may limit a process, from its `/proc/self/cgroup`: of version 2 its group and
/// all above it, and of version 1 the group of the memory controller. (In a container both paths may begin at the
/// container's own group, which the first file of each version covers.)
fn limit_files(cgroup: &str) -> Vec<String> {
    let mut files = vec!["memory.max".to_owned(), "memory/memory.limit_in_bytes".to_owned()];
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let path = path.trim_matches('/');
        if controllers.is_empty() {
            let ends = path.char_indices().filter(|(_, c)| *c == '/').map(|(i, _)| i).chain([path.len()]);
            files.extend(ends.filter(|end| *end > 0).map(|end| format!("{}/memory.max", &path[..end])));
        } else if controllers.split(',').any(|controller| controller == "memory") {
            files.push(format!("memory/{path}/memory.limit_in_bytes"));
        }
    }
    files
}

/// The limit in such a file; `None`: none.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_above_counts() {
        let files = limit_files("0::/system.slice/pontoon.service\n5:cpu,memory:/docker/abc\n");
        let want = [
            "memory.max",
            "memory/memory.limit_in_bytes",
            "system.slice/memory.max",
            "system.slice/pontoon.service/memory.max",
            "memory/docker/abc/memory.limit_in_bytes",
        ];
        assert_eq!(files, want);
        assert_eq!(limit_files("0::/\ngarbage"), want[..2]);
        assert_eq!((parse_limit("1073741824\n"), parse_limit("max\n")), (Some(1 << 30), None));
        assert!(total() > 1 << 20);
    }
}
