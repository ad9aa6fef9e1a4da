//! What a command says of itself to the cluster, for the events of its changes: the user, the host, the command.
//! It is no proof of anything. Never contains values of flags.

use std::env;

use clap::ArgMatches;

/// The names of a command and of those above it: "group set".
pub(super) fn command(matches: &ArgMatches) -> String {
    let mut names = Vec::new();
    let mut below = matches.subcommand();
    while let Some((name, matches)) = below {
        names.push(name);
        below = matches.subcommand();
    }
    names.join(" ")
}

/// "alice@host: pontoon group set", or "root (sudo by alice)@host: ...".
pub(super) fn text(command: &str) -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    let by = env::var("SUDO_USER").map_or_else(|_| String::new(), |user| format!(" (sudo by {user})"));
    format!("{}{by}@{host}: pontoon {command}", user())
}

/// The name of the user of this process as its environment has it, or its number.
fn user() -> String {
    let named = ["USER", "LOGNAME"].into_iter().find_map(|name| env::var(name).ok().filter(|user| !user.is_empty()));
    named.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn only_the_names_of_a_command_are_declared() {
        let of = |line: &str| command(&Cli::command().try_get_matches_from(line.split_whitespace()).unwrap());
        assert_eq!(of("pontoon --product shop group set 3 down-after=5s --secret-file /s"), "group set");
        assert_eq!(of("pontoon rebalance --apply"), "rebalance");
        assert!(text("group set").ends_with(": pontoon group set"));
    }
}
