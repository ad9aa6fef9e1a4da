//! AUTH and HELLO.
//! Knows nothing of servers; the product has the password.

use std::borrow::Cow;

use super::{QUOTED_MAX, name, version::Software};
use crate::{
    commands::Args,
    model::{auth::ProductAuth, route::ProductRoutes},
    proxy::{dispatch::CallContext, session::Session},
    resp::{
        number,
        write::{self, Version},
    },
};

/// The error for credentials that are not valid, as in Redis.
const WRONG: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// Why AUTH or HELLO is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The credentials are not valid.
    WrongPassword,
    /// For another reason, with this error.
    Other(Cow<'static, str>),
}

impl From<&'static str> for Refusal {
    fn from(text: &'static str) -> Self {
        Self::Other(text.into())
    }
}

impl Refusal {
    /// Writes the error.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::WrongPassword => write::error(out, WRONG),
            Self::Other(text) => write::error(out, &**text),
        }
    }
}

pub(super) fn auth(
    session: &Session,
    routes: &ProductRoutes,
    call: &CallContext<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let (user, password) = match call.args.len() {
        2 => (None, call.get(1)),
        3 => (Some(call.get(1)), call.get(2)),
        _ => return Err("ERR syntax error".into()),
    };
    log_in(session, &routes.auth, user, password)?;
    write::simple(out, "OK");
    Ok(())
}

fn log_in(session: &Session, auth: &ProductAuth, user: Option<&[u8]>, password: &[u8]) -> Result<(), Refusal> {
    if !auth.is_required() {
        return match user {
            // As Redis' default user without a password: any will do.
            Some(b"default") => Ok(()),
            // Nobody guesses where there is no password.
            Some(_) => Err(WRONG.into()),
            None => {
                Err("ERR AUTH <password> called without any password configured for the default user. Are you sure \
                    your configuration is correct?"
                    .into())
            }
        };
    }
    let version = auth.log_in(user, password).ok_or(Refusal::WrongPassword)?;
    session.client.borrow_mut().login = Some(version);
    Ok(())
}

/// `software`: what the product's clients are told that it is.
pub(super) fn hello(
    session: &Session,
    routes: &ProductRoutes,
    call: &CallContext<'_>,
    software: impl FnOnce() -> Software,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let mut version = session.client.borrow().version;
    let mut at = 1;
    if call.args.len() > 1 {
        version = match call.get(1) {
            b"2" => Version::Resp2,
            b"3" => Version::Resp3,
            other if number::parse(other).is_none() => {
                return Err("ERR Protocol version is not an integer or out of range".into());
            }
            _ => return Err("NOPROTO unsupported protocol version".into()),
        };
        at = 2;
    }
    let mut new_name = None;
    while at < call.args.len() {
        let left = call.args.len() - at - 1;
        let option = call.get(at);
        if option.eq_ignore_ascii_case(b"AUTH") && left >= 2 {
            log_in(session, &routes.auth, Some(call.get(at + 1)), call.get(at + 2))?;
            at += 3;
        } else if option.eq_ignore_ascii_case(b"SETNAME") && left >= 1 {
            new_name = Some(name(call.get(at + 1))?);
            at += 2;
        } else {
            let option = String::from_utf8_lossy(&option[..option.len().min(QUOTED_MAX)]).into_owned();
            return Err(Refusal::Other(format!("ERR Syntax error in HELLO option '{option}'").into()));
        }
    }
    let mut client = session.client.borrow_mut();
    if client.login.is_none() {
        return Err("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
            <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same \
            time"
            .into());
    }
    if let Some(name) = new_name {
        client.name = name;
    }
    client.version = version;
    drop(client);
    session.forget_backend_set();
    write::map(out, 7, version);
    let software = software();
    for (key, value) in [("server", "redis"), ("version", &software.version)] {
        write::bulk(out, key.as_bytes());
        write::bulk(out, value.as_bytes());
    }
    write::bulk(out, b"proto");
    write::int(out, if version == Version::Resp3 { 3 } else { 2 });
    write::bulk(out, b"id");
    write::int(out, session.id as i64);
    for (key, value) in [("mode", "standalone"), ("role", "master")] {
        write::bulk(out, key.as_bytes());
        write::bulk(out, value.as_bytes());
    }
    write::bulk(out, b"modules");
    super::module::list(&software, version, out);
    Ok(())
}
