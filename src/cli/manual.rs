//! `pontoon completions` and `pontoon man`: what shells and `man` know of the commands, made from their definition.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{
    Cli,
    error::{CliError, failed},
    output,
};

/// `pontoon completions SHELL`
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell; for bash: pontoon completions bash > /etc/bash_completion.d/pontoon
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// `pontoon man DIR`
#[derive(Args, Debug)]
pub struct ManArgs {
    /// Directory that the pages are written to, for example /usr/local/share/man/man1; it is made if there is none
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// The name of the program, for what is generated.
const NAME: &str = "pontoon";

pub(super) fn completions(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut script);
    output::print_text(&String::from_utf8_lossy(&script));
    Ok(())
}

pub(super) fn man(args: &ManArgs) -> Result<(), CliError> {
    // Elsewhere it means standard input or output; there are many pages, and a directory of this name helps nobody.
    if args.dir.as_os_str() == "-" {
        return Err(CliError::Usage(
            "man: the pages are files in a directory; give one, as pontoon man /usr/local/share/man/man1 (./- for one named -)"
                .into(),
        ));
    }
    let written = std::fs::create_dir_all(&args.dir).and_then(|()| clap_mangen::generate_to(Cli::command(), &args.dir));
    written.map_err(|e| failed(format!("the pages cannot be written to {}: {e}", args.dir.display())))?;
    output::print_text(&format!("the manual pages are in {}\n", args.dir.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("man1");
        man(&ManArgs { dir: into.clone() }).unwrap();
        let refused = man(&ManArgs { dir: "-".into() }).unwrap_err().to_string();
        assert!(refused.contains("in a directory") && !std::path::Path::new("-").exists(), "{refused}");
        let read = |name: &str| std::fs::read_to_string(into.join(name)).unwrap();
        assert!(read("pontoon.1").contains("Exit codes"), "{}", read("pontoon.1"));
        assert!(read("pontoon-group-create.1").contains("primary"));
        assert!(!into.join("pontoon-exec-child.1").exists() && !into.join("pontoon-help.1").exists());
    }
}
