//! The options of CLIENT LIST, KILL and PAUSE, with the errors of Redis.
//! Knows nothing of clients.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    commands::Args,
    model::{auth::ProductAuth, ids::ProductId},
    proxy::{
        client_view::{ClientCondition, ClientFilter, ClientKind},
        dispatch::CallContext,
    },
    resp::number,
};

const SYNTAX: &str = "ERR syntax error";

/// What differs between the two commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    List,
    Kill,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    pub(super) id: u64,
    pub(super) product: ProductId,
    pub(super) auth: &'a ProductAuth,
}

/// The filter of a call, from its argument 2 on.
///
/// # Errors
/// Returns the error of Redis.
pub(super) fn filter(of: Of, call: &CallContext<'_>, asker: Asker<'_>) -> Result<ClientFilter, String> {
    let mut filter = ClientFilter::of(asker.product);
    if of == Of::Kill {
        filter.except = Some(asker.id);
    }
    let mut at = 2;
    while at < call.len() {
        let Some(value) = (at + 1 < call.len()).then(|| call.get(at + 1)) else { return Err(SYNTAX.into()) };
        let text = String::from_utf8_lossy(value).into_owned();
        let word = call.get(at).to_ascii_lowercase();
        let (negated, word) = match word.strip_prefix(b"not-") {
            Some(word) => (true, word),
            None => (false, word.as_slice()),
        };
        let condition = match word {
            b"id" => {
                let ids = ids(of, call, at + 1)?;
                at += ids.len() - 1;
                ClientCondition::Ids(ids.into_iter().collect::<BTreeSet<u64>>())
            }
            b"type" => ClientCondition::Kind(kind(&text)?),
            b"user" if is_user(asker.auth, &text) => ClientCondition::User(text),
            b"user" => return Err(format!("ERR No such user '{text}'")),
            b"addr" => ClientCondition::Addr(text),
            b"laddr" => ClientCondition::Laddr(text),
            b"ip" => match text.parse() {
                Ok(ip) => ClientCondition::Ip(ip),
                Err(_) => return Err(format!("ERR '{text}' is no IP address")),
            },
            b"name" => ClientCondition::Name(text),
            b"maxage" => match number::parse(value) {
                None => return Err("ERR maxage is not an integer or out of range".into()),
                Some(seconds) if seconds <= 0 => return Err("ERR maxage should be greater than 0".into()),
                Some(seconds) => ClientCondition::MinAge(Duration::from_secs(seconds.unsigned_abs())),
            },
            b"skipme" if !negated => {
                filter.except = match text.to_ascii_lowercase().as_str() {
                    "yes" => Some(asker.id),
                    "no" => None,
                    _ => return Err(SYNTAX.into()),
                };
                at += 2;
                continue;
            }
            _ => return Err(SYNTAX.into()),
        };
        filter.require(negated, condition);
        at += 2;
    }
    Ok(filter)
}

/// The ids from an argument on: all that are numbers. At least one.
fn ids(of: Of, call: &CallContext<'_>, from: usize) -> Result<Vec<u64>, String> {
    let mut ids = Vec::new();
    for at in from..call.len() {
        match number::parse(call.get(at)) {
            Some(id) if of == Of::List => ids.push(u64::try_from(id).unwrap_or_default()),
            Some(id) if id > 0 => ids.push(id.unsigned_abs()),
            // Another option follows.
            None if !ids.is_empty() && is_option(call.get(at)) => break,
            _ if of == Of::List => return Err("ERR Invalid client ID".into()),
            _ if !ids.is_empty() => break,
            _ => return Err("ERR client-id should be greater than 0".into()),
        }
    }
    Ok(ids)
}

fn is_option(word: &[u8]) -> bool {
    let word = word.to_ascii_lowercase();
    let word = word.strip_prefix(b"not-").unwrap_or(&word);
    [b"id" as &[u8], b"type", b"user", b"addr", b"laddr", b"ip", b"name", b"maxage", b"skipme"].contains(&word)
}

fn kind(text: &str) -> Result<ClientKind, String> {
    match text.to_ascii_lowercase().as_str() {
        "normal" => Ok(ClientKind::Normal),
        "slave" | "replica" => Ok(ClientKind::Replica),
        "pubsub" => Ok(ClientKind::PubSub),
        "master" | "primary" => Ok(ClientKind::Primary),
        _ => Err(format!("ERR Unknown client type '{text}'")),
    }
}

/// Whether clients of the product may have logged in as this user.
fn is_user(auth: &ProductAuth, name: &str) -> bool {
    let former = auth.former.as_ref().map(|former| &former.credentials);
    name == "default" || auth.credentials.iter().chain(former).any(|credentials| credentials.user() == name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::resp::{request::RequestScanner, write};

    fn parse(of: Of, line: &str) -> Result<ClientFilter, String> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut bytes = Vec::new();
        write::request(&mut bytes, &words);
        let mut scanner = RequestScanner::default();
        scanner.scan(&bytes).unwrap();
        let call = CallContext { bytes: &bytes, args: scanner.args() };
        filter(of, &call, Asker { id: 7, product: ProductId(1), auth: &ProductAuth::default() })
    }

    #[test]
    fn errors_are_those_of_redis() {
        for (of, line, want) in [
            (Of::List, "CLIENT LIST foo", "ERR syntax error"),
            (Of::List, "CLIENT LIST ID", "ERR syntax error"),
            (Of::List, "CLIENT LIST ID abc", "ERR Invalid client ID"),
            (Of::List, "CLIENT LIST ID 1 abc", "ERR Invalid client ID"),
            (Of::List, "CLIENT LIST TYPE foo", "ERR Unknown client type 'foo'"),
            (Of::Kill, "CLIENT KILL ID 0", "ERR client-id should be greater than 0"),
            (Of::Kill, "CLIENT KILL ID abc", "ERR client-id should be greater than 0"),
            (Of::Kill, "CLIENT KILL ID 1 x", "ERR syntax error"),
            (Of::Kill, "CLIENT KILL foo bar", "ERR syntax error"),
            (Of::Kill, "CLIENT KILL TYPE foo", "ERR Unknown client type 'foo'"),
            (Of::Kill, "CLIENT KILL USER nobody", "ERR No such user 'nobody'"),
            (Of::Kill, "CLIENT KILL SKIPME foo", "ERR syntax error"),
            (Of::Kill, "CLIENT KILL MAXAGE x", "ERR maxage is not an integer or out of range"),
            (Of::Kill, "CLIENT KILL MAXAGE 0", "ERR maxage should be greater than 0"),
        ] {
            assert_eq!(parse(of, line).unwrap_err(), want, "{line}");
        }
    }

    #[test]
    fn options_are_combined() {
        assert_eq!(parse(Of::List, "CLIENT LIST").unwrap().except, None);
        assert_eq!(parse(Of::Kill, "CLIENT KILL USER default").unwrap().except, Some(7));
        assert_eq!(parse(Of::Kill, "CLIENT KILL USER default SKIPME no").unwrap().except, None);
        let mut want = ClientFilter::of(ProductId(1));
        want.require(false, ClientCondition::Ids([1, 2].into()));
        want.require(true, ClientCondition::Kind(ClientKind::PubSub));
        want.require(false, ClientCondition::MinAge(Duration::from_secs(3)));
        assert_eq!(parse(Of::List, "CLIENT LIST id 1 2 NOT-TYPE pubsub MAXAGE 3").unwrap(), want);
    }
}
