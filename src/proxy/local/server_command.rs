//! What clients may send to one server with PONTOON ON: commands that only read, from a list. What is not on it is refused.
//! Knows nothing of how a server is asked.

use crate::{commands::Args, proxy::dispatch::CallContext};

/// Arguments behind the command: a client library that wants all sections of INFO names sixteen.
const ARGS_MAX: usize = 32;

/// How many more arguments a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    None,
    Any,
    /// A number, or nothing.
    Number,
    Some,
}

/// The commands: words, and what may stand behind them.
const ALLOWED: [(&[&str], More); 17] = [
    (&["INFO"], More::Any),
    (&["SLOWLOG", "GET"], More::Number),
    (&["SLOWLOG", "LEN"], More::None),
    (&["CLIENT", "LIST"], More::None),
    (&["MEMORY", "STATS"], More::None),
    (&["MEMORY", "DOCTOR"], More::None),
    (&["CONFIG", "GET"], More::Some),
    (&["LATENCY", "LATEST"], More::None),
    (&["LATENCY", "DOCTOR"], More::None),
    (&["LATENCY", "HISTOGRAM"], More::Any),
    (&["COMMAND", "COUNT"], More::None),
    (&["MODULE", "LIST"], More::None),
    (&["DBSIZE"], More::None),
    (&["LASTSAVE"], More::None),
    (&["ROLE"], More::None),
    (&["TIME"], More::None),
    (&["PING"], More::None),
];

/// Words in names of settings that are secrets, or say how servers know each other.
const SECRET: [&str; 5] = ["pass", "auth", "user", "secret", "aclfile"];

/// A command for one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct ServerCommand {
    /// Its words, the names in upper case.
    pub(in crate::proxy) words: Vec<Vec<u8>>,
    /// Whether its reply is a list of settings, some of which are secrets.
    pub(in crate::proxy) is_config: bool,
}

impl ServerCommand {
    /// The command of a call of PONTOON ON.
    ///
    /// # Errors
    /// Returns the error for the client if it is not on the list.
    pub(in crate::proxy) fn of(call: &CallContext<'_>) -> Result<Self, String> {
        let words: Vec<&[u8]> = (3..call.args.len()).map(|i| call.get(i)).collect();
        Self::of_words(&words)
    }

    fn of_words(words: &[&[u8]]) -> Result<Self, String> {
        let begins = |name: &[&str]| {
            name.len() <= words.len()
                && name.iter().zip(words).all(|(name, word)| word.eq_ignore_ascii_case(name.as_bytes()))
        };
        let found = ALLOWED.iter().find(|(name, _)| begins(name));
        let Some((name, more)) = found else {
            return Err(
                "ERR PONTOON ON sends only commands that read, from a list, not executed. See PONTOON HELP".into()
            );
        };
        let args = &words[name.len()..];
        let is_number = |word: &&[u8]| word.len() < 10 && word.iter().all(u8::is_ascii_digit);
        let fits = args.len() <= ARGS_MAX
            && match more {
                More::None => args.is_empty(),
                More::Any => true,
                More::Number => args.len() <= 1 && args.iter().all(is_number),
                More::Some => !args.is_empty(),
            };
        if !fits {
            return Err(format!("ERR wrong arguments for {}, not executed. See PONTOON HELP", name.join(" ")));
        }
        let names = name.iter().map(|name| name.as_bytes().to_vec());
        let words = names.chain(args.iter().map(|arg| arg.to_vec())).collect();
        Ok(Self { words, is_config: name[0] == "CONFIG" })
    }
}

/// Whether a setting of a server is shown.
pub(in crate::proxy) fn is_shown(setting: &str) -> bool {
    let setting = setting.to_ascii_lowercase();
    !SECRET.iter().any(|word| setting.contains(word))
}

/// The list, for PONTOON HELP.
pub(super) fn listed() -> String {
    let with = |(name, more): &(&[&str], More)| {
        let more = match more {
            More::None => "",
            More::Any => " [<arg> ...]",
            More::Number => " [<count>]",
            More::Some => " <pattern> ...",
        };
        format!("{}{more}", name.join(" "))
    };
    ALLOWED.iter().map(with).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(line: &str) -> Result<String, String> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let words = ServerCommand::of_words(&words)?.words;
        Ok(words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn only_the_list_is_sent() {
        for (line, want) in [
            ("info", "INFO"),
            ("info Server cpu", "INFO Server cpu"),
            ("slowlog get 10", "SLOWLOG GET 10"),
            ("Client List", "CLIENT LIST"),
            ("config get max*", "CONFIG GET max*"),
            ("dbsize", "DBSIZE"),
        ] {
            assert_eq!(sent(line).as_deref(), Ok(want));
        }
        for line in [
            "get k",
            "keys *",
            "client",
            "client kill 1",
            "client list id 1",
            "slowlog reset",
            "slowlog get -1",
            "slowlog get 1 2",
            "config",
            "config get",
            "config set a b",
            "config rewrite",
            "flushall",
            "debug sleep 1",
            "shutdown",
            "role x",
            "latency reset",
            "memory purge",
            "module load x",
            "eval x 0",
            "info\r\nflushall",
        ] {
            assert!(sent(line).is_err(), "{line}");
        }
        assert!(sent(&format!("info{}", " x".repeat(ARGS_MAX + 1))).is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let secrets = [
            "requirepass",
            "masterauth",
            "masteruser",
            "primaryauth",
            "primaryuser",
            "tls-key-file-pass",
            "tls-client-key-file-pass",
            "aclfile",
            "sentinel-pass",
        ];
        assert!(secrets.iter().all(|name| !is_shown(name)));
        assert!(["maxmemory", "save", "appendonly", "timeout", "databases"].iter().all(|name| is_shown(name)));
    }
}
