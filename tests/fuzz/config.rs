//! The configuration of a node: its file, variables of the environment, and flags.

use std::path::PathBuf;

use pontoon::config::Config;

use super::fuzzer::{Target, fuzz};

/// Fragments of TOML and of settings.
const TOKENS: &[&[u8]] = &[
    b"[proxy]\n",
    b"[timing]\n",
    b"[log]\n",
    b"[peers]\n",
    b"[[proxy]]\n",
    b"peers = { 1 = \"a:1\" }\n",
    b"id = 0\n",
    b"id = 18446744073709551616\n",
    b"0x10",
    b"1_000",
    b"-1",
    b"true",
    b"\"\"",
    b"'''",
    b"\"\"\"\n",
    b"\\u0000",
    b"= ",
    b".",
    b"\n",
    b"#",
    b"{",
    b"[",
    b"PONTOON_",
    b"PONTOON_PROXY_WORKERS=",
    b"proxy.workers=",
    b"4294967296",
];

/// A file of its own, since tests run side by side.
struct TempFile(tempfile::TempDir);

impl TempFile {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("pontoon.toml")
    }

    fn load(&self, text: &[u8]) -> Result<Config, String> {
        std::fs::write(self.path(), text).unwrap();
        Config::load(Some(&self.path()), [], &[]).map(|(config, _)| config)
    }
}

#[test]
fn files() {
    let file = TempFile::new();
    let report = fuzz(&Target::new("config", TOKENS).input_max(800), |bytes, _| {
        let place = file.path().display().to_string();
        check(file.load(bytes).map_err(|why| why.replace(&place, "file")), &file)
    });
    assert!(report.shapes > 60, "{report:?}: the mutations reach little");
}

#[test]
fn variables_and_flags() {
    let file = TempFile::new();
    let report = fuzz(&Target::new("settings", TOKENS), |bytes, _| {
        let text = String::from_utf8_lossy(bytes);
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let (env, flags): (Vec<_>, Vec<_>) = pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .partition(|(key, _)| key.starts_with("PONTOON_"));
        check(Config::load(None, env, &flags).map(|(config, _)| config), &file)
    });
    assert!(report.shapes > 40, "{report:?}: the mutations reach little");
}

/// A configuration that was read is the same when it is printed and read again.
fn check(loaded: Result<Config, String>, file: &TempFile) -> Result<String, String> {
    let config = match loaded {
        Ok(config) => config,
        Err(why) => return Ok(why.chars().filter(|c| c.is_ascii_lowercase()).take(50).collect()),
    };
    let checked = config.check();
    let again = file.load(config.print().as_bytes()).map_err(|why| format!("what it prints is not read: {why}"))?;
    if again != config {
        return Err(format!("{config:?} printed and read is {again:?}"));
    }
    Ok(checked.err().map_or_else(|| "good".to_owned(), |why| why.chars().take(30).collect()))
}
