//! Arguments of the command line.

use clap::{CommandFactory, FromArgMatches};
use pontoon::cli::Cli;

use super::fuzzer::{Target, fuzz};

/// Words of the command line.
const WORDS: &[&[u8]] = &[
    b" ",
    b" --",
    b" -",
    b" --wait",
    b" --dry-run",
    b" --output json",
    b" --product p",
    b" --timeout 10s",
    b" --timeout 99999999999999999999h",
    b" --help",
    b" --to",
    b" all",
    b" 0-1023",
    b" 5-",
    b" 1,2,3-9",
    b" g1=1,g2=",
    b" 127.0.0.1:6379",
    b" [::1]:1",
    b" 65536",
    b" 18446744073709551616",
    b" migrate",
    b" group",
    b" slot",
    b"=",
    b"\xff",
];

#[test]
fn arguments() {
    let command = Cli::command();
    let report = fuzz(&Target::new("cli", WORDS).input_max(200), |bytes, _| check(bytes, &command));
    assert!(report.shapes > 60, "{report:?}: the mutations reach little");
}

fn check(bytes: &[u8], command: &clap::Command) -> Result<String, String> {
    use std::os::unix::ffi::OsStrExt;
    let words: Vec<&std::ffi::OsStr> =
        bytes.split(|b| *b == b' ').filter(|word| !word.is_empty()).map(std::ffi::OsStr::from_bytes).collect();
    let parse = |words: &[&std::ffi::OsStr]| {
        let program = std::ffi::OsStr::new("pontoon");
        let mut matches = command.clone().try_get_matches_from([program].iter().chain(words))?;
        Cli::from_arg_matches_mut(&mut matches)
    };
    match parse(&words) {
        Ok(cli) => {
            let debug = format!("{cli:?}");
            let again = parse(&words).map_err(|error| error.to_string())?;
            if format!("{again:?}") != debug {
                return Err("the same words mean something else".into());
            }
            // A flag that does not exist is never ignored.
            let mut more = vec![std::ffi::OsStr::new("--no-such-flag")];
            more.extend(&words);
            if parse(&more).is_ok() {
                return Err(format!("{debug} with a flag that does not exist"));
            }
            let command = debug.split("command: ").nth(1).unwrap_or_default();
            Ok(command.chars().take_while(|c| !c.is_ascii_digit()).take(40).collect())
        }
        Err(error) => {
            let code = error.exit_code();
            let text = error.render().to_string();
            if text.is_empty() || !matches!(code, 0 | 2) {
                return Err(format!("exit code {code}: {text}"));
            }
            Ok(format!("{:?} {code} {}", error.kind(), text.lines().count().min(5)))
        }
    }
}
