//! Which arguments of a call are passwords, or say who has one: they are never shown.
//! Knows nothing of who shows calls.

use super::keys::Args;

/// Settings whose value is a secret. (Redis, `SENSITIVE_CONFIG`.)
const SECRET_SETTINGS: [&str; 5] =
    ["masterauth", "masteruser", "requirepass", "tls-client-key-file-pass", "tls-key-file-pass"];

/// The positions of the arguments of a call that must not be shown, in order. As in Redis, the name of a user that comes
/// with a password is one, too.
#[must_use]
pub fn secret_args(call: &(impl Args + ?Sized)) -> Vec<usize> {
    let len = call.len();
    let is = |at: usize, word: &str| at < len && call.get(at).eq_ignore_ascii_case(word.as_bytes());
    if is(0, "auth") {
        (1..len).collect()
    } else if is(0, "hello") {
        behind(len, 2, |at| match () {
            () if is(at, "auth") => (2, true),
            () if is(at, "setname") => (1, false),
            () => (0, false),
        })
    } else if is(0, "migrate") {
        // Behind host, port, key, database and timeout.
        behind(len, 6, |at| match () {
            () if is(at, "auth") => (1, true),
            () if is(at, "auth2") => (2, true),
            () => (0, false),
        })
    } else if is(0, "config") && is(1, "set") {
        let is_secret = |at: &usize| SECRET_SETTINGS.iter().any(|name| is(at - 1, name));
        (3..len).step_by(2).filter(is_secret).collect()
    } else if is(0, "acl") && (is(1, "setuser") || is(1, "deluser") || is(1, "getuser")) {
        (2..len).collect()
    } else {
        Vec::new()
    }
}

/// The secrets among the arguments from `from` on. `option`: how many arguments belong to the one at a position, and whether
/// they are secrets.
fn behind(len: usize, from: usize, option: impl Fn(usize) -> (usize, bool)) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = from;
    while at < len {
        let (count, are_secret) = option(at);
        if are_secret {
            found.extend((at + 1..=at + count).filter(|at| *at < len));
        }
        at += count + 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_as_a_table() {
        for (line, want) in [
            ("AUTH secret", vec![1]),
            ("auth user secret", vec![1, 2]),
            ("HELLO", vec![]),
            ("HELLO 3 AUTH user secret SETNAME x", vec![3, 4]),
            ("HELLO 3 SETNAME auth auth user secret", vec![5, 6]),
            ("HELLO 3 auth user", vec![3]),
            ("MIGRATE h 1 k 0 9 COPY AUTH secret", vec![8]),
            ("migrate h 1 auth 0 9 auth2 user secret KEYS a", vec![7, 8]),
            ("CONFIG SET save x requirepass secret masterauth secret", vec![5, 7]),
            ("CONFIG SET requirepass", vec![]),
            ("CONFIG GET requirepass", vec![]),
            ("ACL SETUSER joe >secret", vec![2, 3]),
            ("ACL WHOAMI", vec![]),
            ("SET auth secret", vec![]),
        ] {
            let words: Vec<Vec<u8>> = line.split(' ').map(Into::into).collect();
            assert_eq!(secret_args(&words[..]), want, "{line}");
        }
    }
}
