//! What the operating system says about this process, for INFO. Knows nothing of products.

use std::{fs, sync::LazyLock};

/// The kernel and the architecture, as INFO has them.
pub(super) static OS: LazyLock<String> = LazyLock::new(|| {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}"));
        text.map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    format!("{} {} {}", read("ostype"), read("osrelease"), std::env::consts::ARCH).trim().to_owned()
});

/// The path of the program.
pub(super) static EXECUTABLE: LazyLock<String> =
    LazyLock::new(|| std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default());

/// Units of time in `/proc` per second, on every Linux (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct CpuTimes {
    pub(super) user: f64,
    pub(super) sys: f64,
    pub(super) user_children: f64,
    pub(super) sys_children: f64,
}

impl CpuTimes {
    /// Of the process.
    pub(super) fn of_process() -> Self {
        Self::read("/proc/self/stat")
    }

    /// Of the thread that calls this.
    pub(super) fn of_thread() -> Self {
        Self::read("/proc/thread-self/stat")
    }

    fn read(path: &str) -> Self {
        fs::read_to_string(path).ok().and_then(|stat| Self::parse(&stat)).unwrap_or_default()
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name of the program, in parentheses, may contain spaces. Behind it, utime is the 12th value.
        let (_, values) = stat.rsplit_once(')')?;
        let mut seconds = values.split_whitespace().skip(11).map(|ticks| ticks.parse::<f64>().ok());
        let mut next = || seconds.next().flatten().map(|ticks| ticks / TICKS_PER_SECOND);
        Some(Self { user: next()?, sys: next()?, user_children: next()?, sys_children: next()? })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "77 (a ) b) S 1 77 77 0 -1 4194304 100 0 0 0 250 125 7 3 20 0 1 0 100 1000 10";
        let want = CpuTimes { user: 2.5, sys: 1.25, user_children: 0.07, sys_children: 0.03 };
        assert_eq!(CpuTimes::parse(stat).unwrap(), want);
        assert_eq!(CpuTimes::parse("77 (x) S 1"), None);
    }
}
