//! The command line as an operator types it, and what came of it.
//! Knows nothing of the calls behind it.

use std::{path::PathBuf, process::Output};

use serde_json::Value;

use crate::{binary, documented};

/// `pontoon --node ...`.
#[derive(Clone, Debug)]
pub struct Cli {
    node: String,
    secret: Option<PathBuf>,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// What was typed.
    pub args: String,
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Cli {
    /// Commands to the node with this admin address.
    #[must_use]
    pub fn new(node: String, secret: Option<PathBuf>) -> Self {
        Self { node, secret }
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When the program cannot be run.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Ran {
        let mut command = binary::command(binary::pontoon());
        command.arg("--node").arg(&self.node);
        if let Some(secret) = &self.secret {
            command.arg("--secret-file").arg(secret);
        }
        let output = command.args(args).output().expect("pontoon can be run");
        Ran::new(args.join(" "), &output)
    }

    /// Runs a command that must succeed.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert!(ran.code == 0, "this should have succeeded: {ran:#?}");
        ran
    }

    /// Runs a command that must be refused with code 1, and for this reason (the text must contain all parts).
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn refused(&self, args: &[&str], why: &[&str]) -> Ran {
        let ran = self.run(args);
        assert!(ran.code == 1, "this should have been refused: {ran:#?}");
        for part in why {
            assert!(ran.err.contains(part), "'{part}' is not in the reason: {ran:#?}");
        }
        ran
    }

    /// The JSON of a command that must succeed.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        self.ok(&[args, &["--output", "json"]].concat()).json()
    }

    /// The JSON of a command if it succeeds.
    ///
    /// # Errors
    /// What it said.
    pub fn try_json(&self, args: &[&str]) -> Result<Value, String> {
        let ran = self.run(&[args, &["--output", "json"]].concat());
        if ran.code == 0 { Ok(ran.json()) } else { Err(ran.err) }
    }
}

impl Ran {
    /// From an ended process.
    #[must_use]
    pub fn new(args: String, output: &Output) -> Self {
        Self {
            args,
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Its output as JSON.
    ///
    /// # Panics
    /// When it is none, or not what docs/json.md says.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        let json = serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("this is no JSON ({e}): {self:#?}"));
        if let Err(why) = documented::check(&self.args, &json) {
            panic!("{why}: {self:#?}");
        }
        json
    }
}
