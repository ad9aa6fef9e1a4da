//! The log of this process: which lines are written, and where to. Both can change while it runs.
//! Knows nothing of settings' names, and of who asks for a change.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    str::FromStr,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

use rustix::fs::{Access, AtFlags, CWD, OFlags, accessat, fcntl_getfl, fcntl_setfl};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Registry, filter::Targets, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::files;

/// Longest text of levels, bytes: dozens of directives.
const LEVELS_LEN_MAX: usize = 1024;
/// The target of this program's own lines, and the beginning of those of its modules.
const OWN: &str = "pontoon";
/// What everybody can read who may read logs of the system: lines have addresses, and no secrets.
const FILE_MODE: u32 = 0o640;

static LOG: OnceLock<Log> = OnceLock::new();

/// The levels of lines that are written: `info`, or `info,openraft=off,pontoon::consensus=debug`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Levels(Vec<Directive>);

/// `level`, or `target=level`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Directive {
    target: Option<String>,
    level: LevelFilter,
}

struct Log {
    filter: reload::Handle<Targets, Registry>,
    levels: Mutex<Now>,
    output: Output,
}

/// The levels in effect.
#[derive(Default)]
struct Now {
    configured: Levels,
    /// Chosen while the process runs; empty: none.
    chosen: Levels,
}

/// Where lines go: the file, or standard error.
#[derive(Clone, Default)]
struct Output(Arc<RwLock<Option<Arc<File>>>>);

/// A line on its way.
enum Line {
    File(Arc<File>),
    Stderr(io::Stderr),
}

/// What is written now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InEffect {
    /// All levels, as in a setting.
    pub levels: String,
    /// Whether some were chosen while the process runs.
    pub chosen: bool,
}

impl FromStr for Levels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > LEVELS_LEN_MAX {
            return Err(format!("it is longer than {LEVELS_LEN_MAX} bytes"));
        }
        text.split(',').map(directive).collect::<Result<_, _>>().map(Self)
    }
}

fn directive(text: &str) -> Result<Directive, String> {
    let (target, level) = match text.trim().split_once('=') {
        Some((target, level)) => (Some(target), level),
        None => (None, text.trim()),
    };
    // Any word alone would be a target for tracing, with all its lines: `debg` would be no mistake.
    let level = match level {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return Err(format!("'{level}' is not a level; the levels are off, error, warn, info, debug and trace")),
    };
    let is_path = |target: &str| {
        target
            .split("::")
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'))
    };
    match target {
        Some(target) if !is_path(target) => {
            Err(format!("'{target}' is not the name of a module, such as pontoon or pontoon::consensus"))
        }
        target => Ok(Directive { target: target.map(str::to_owned), level }),
    }
}

impl Levels {
    /// Levels for lines of this program only; a level alone is for all of its lines. At levels that nobody needs in
    /// normal operation, libraries write what they send and receive.
    ///
    /// # Errors
    /// Returns what is expected, as text for the operator.
    pub fn own(text: &str) -> Result<Self, String> {
        let Self(mut directives) = text.parse()?;
        for directive in &mut directives {
            let target = directive.target.get_or_insert_with(|| OWN.to_owned());
            let own = target.strip_prefix(OWN).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
            if !own {
                return Err(format!(
                    "the level of '{target}' cannot be set while a node runs, only those of pontoon and its modules; set \
                     log.level, and restart the node"
                ));
            }
        }
        Ok(Self(directives))
    }

    /// Of directives for the same target, the last one counts.
    fn targets(&self) -> Targets {
        self.0.iter().fold(Targets::new(), |targets, Directive { target, level }| match target {
            Some(target) => targets.with_target(target, *level),
            None => targets.with_default(*level),
        })
    }

    fn text(&self) -> String {
        let shown = self.0.iter().map(|Directive { target, level }| match target {
            Some(target) => format!("{target}={level}"),
            None => level.to_string(),
        });
        shown.collect::<Vec<_>>().join(",")
    }
}

impl Now {
    fn all(&self) -> Levels {
        Levels([self.configured.0.clone(), self.chosen.0.clone()].concat())
    }
}

/// Starts the log of this process. `file`: none is standard error.
///
/// # Errors
/// The file cannot be opened, or the log was started before. As text for the operator.
pub fn start(levels: Levels, json: bool, file: Option<&Path>) -> Result<(), String> {
    let output = Output::default();
    output.reopen(file)?;
    let (filter, handle) = reload::Layer::new(levels.targets());
    let lines = fmt::layer()
        .with_writer({
            let output = output.clone();
            move || output.line()
        })
        .with_ansi(!json && file.is_none() && io::stderr().is_terminal())
        // It would panic where standard error is closed: the terminal that the node was started in is gone.
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    let done = if json { registry.with(lines.json()).try_init() } else { registry.with(lines).try_init() };
    done.map_err(|e| format!("the log cannot be started: {e}"))?;
    let levels = Mutex::new(Now { configured: levels, chosen: Levels::default() });
    LOG.set(Log { filter: handle, levels, output }).map_err(|_| "the log was started before".to_owned())
}

/// Replaces the configured levels. Chosen ones stay in effect.
///
/// # Errors
/// The log was not started.
pub fn configure(levels: Levels) -> Result<InEffect, String> {
    change(|now| now.configured = levels)
}

/// Adds levels to the configured ones, in place of those that were added before; `None`: the configured ones only.
///
/// # Errors
/// The log was not started.
pub fn choose(levels: Option<Levels>) -> Result<InEffect, String> {
    change(|now| now.chosen = levels.unwrap_or_default())
}

/// The levels in effect.
///
/// # Errors
/// The log was not started.
pub fn in_effect() -> Result<InEffect, String> {
    Ok(shown(&log()?.levels.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Checks whether lines could be appended to a file, and changes nothing.
///
/// # Errors
/// Returns why not, as text for the operator.
pub fn check_file(file: &Path) -> Result<(), String> {
    let dir = match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let opened = match OpenOptions::new().append(true).custom_flags(files::NO_WAIT).open(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return accessat(CWD, dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).map_err(|e| {
                let (dir, e) = (dir.display(), io::Error::from(e));
                format!("log.file: {} cannot be made in {dir}: {e}", file.display())
            });
        }
        opened => opened,
    };
    opened.map(drop).map_err(|e| format!("log.file: {} cannot be opened: {e}", file.display()))
}

/// Opens the file again, which may have been renamed, or another one. Until it is open, lines go where they went before.
///
/// # Errors
/// The file cannot be opened; nothing has changed. As text for the operator.
pub fn reopen(file: Option<&Path>) -> Result<(), String> {
    log()?.output.reopen(file)
}

fn log() -> Result<&'static Log, String> {
    LOG.get().ok_or_else(|| "the log of this process was not started".to_owned())
}

fn change(change: impl FnOnce(&mut Now)) -> Result<InEffect, String> {
    let log = log()?;
    let mut now = log.levels.lock().unwrap_or_else(PoisonError::into_inner);
    change(&mut now);
    log.filter.reload(now.all().targets()).map_err(|e| format!("the levels of the log cannot be changed: {e}"))?;
    Ok(shown(&now))
}

fn shown(now: &Now) -> InEffect {
    InEffect { levels: now.all().text(), chosen: now.chosen != Levels::default() }
}

impl Output {
    fn reopen(&self, file: Option<&Path>) -> Result<(), String> {
        let open = |path: &Path| {
            // A pipe that nobody reads is refused; one that has a reader is written to as before.
            let mut options = OpenOptions::new();
            options.create(true).append(true).mode(FILE_MODE).custom_flags(files::NO_WAIT);
            let opened = options.open(path).and_then(|file| {
                let flags = fcntl_getfl(&file)?;
                fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
                Ok(file)
            });
            opened.map(Arc::new).map_err(|e| format!("the log file {} cannot be opened: {e}", path.display()))
        };
        let opened = file.map(open).transpose()?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = opened;
        Ok(())
    }

    fn line(&self) -> Line {
        match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            Some(file) => Line::File(file.clone()),
            None => Line::Stderr(io::stderr()),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => (&**file).write(bytes),
            Self::Stderr(stderr) => stderr.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => (&**file).flush(),
            Self::Stderr(stderr) => stderr.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn typing_mistakes_are_no_levels() {
        for good in ["info", "off", "info,openraft=off", " warn , pontoon::consensus=debug ", "h2=trace"] {
            assert!(good.parse::<Levels>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "debg",
            "INFO",
            "3",
            "pontoon=verbos",
            "pontoon=",
            "=info",
            "pontoon:consensus=info",
            "info,",
            "info,,warn",
            "a=b=info",
            "[span]=info",
            "pontoon[x{y=z}]=info",
            "pontoon",
            "pontoon::=info",
        ] {
            assert!(bad.parse::<Levels>().is_err(), "{bad}");
        }
        assert!("a,".repeat(600).parse::<Levels>().unwrap_err().contains("longer"));
    }

    #[test]
    fn what_is_chosen_comes_on_top_of_what_is_configured() {
        let own = |text| Levels::own(text).map(|levels| levels.text());
        assert_eq!(own("debug").as_deref(), Ok("pontoon=debug"));
        assert_eq!(own("pontoon::node=trace,warn").as_deref(), Ok("pontoon::node=trace,pontoon=warn"));
        for other in ["h2=trace", "pontoonx=debug", "debug,sled=info"] {
            assert!(own(other).unwrap_err().contains("cannot be set while a node runs"), "{other}");
        }
        let mut now = Now { configured: "info,openraft=off".parse().unwrap(), chosen: Levels::own("debug").unwrap() };
        let writes = |now: &Now, target, level| now.all().targets().would_enable(target, &level);
        assert!(writes(&now, "pontoon::node", tracing::Level::DEBUG) && !writes(&now, "h2", tracing::Level::DEBUG));
        assert!(!writes(&now, "openraft", tracing::Level::ERROR));
        assert_eq!(shown(&now), InEffect { levels: "info,openraft=off,pontoon=debug".into(), chosen: true });
        now.chosen = Levels::default();
        assert!(!writes(&now, "pontoon::node", tracing::Level::DEBUG) && !shown(&now).chosen);
    }

    #[test]
    fn a_renamed_file_is_left_and_a_file_that_cannot_be_opened_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        let output = Output::default();
        output.reopen(Some(&path)).unwrap();
        output.line().write_all(b"1").unwrap();
        std::fs::rename(&path, &moved).unwrap();
        output.line().write_all(b"2").unwrap();
        output.reopen(Some(&path)).unwrap();
        output.line().write_all(b"3").unwrap();
        assert!(output.reopen(Some(dir.path())).unwrap_err().contains("cannot be opened"));
        output.line().write_all(b"4").unwrap();
        let read = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!((read(&moved), read(&path)), ("12".into(), "34".into()));
    }
}
