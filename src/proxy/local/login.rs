//! AUTH and HELLO.
//! Knows nothing of servers; the product has the password.

use super::{QUOTED_MAX, SERVER_VERSION, name};
use crate::{
    commands::Args,
    model::route::ProductRoutes,
    proxy::{dispatch::CallContext, session::Session},
    resp::{
        number,
        write::{self, Version},
    },
};

pub(super) fn auth(session: &Session, routes: &ProductRoutes, call: &CallContext<'_>, out: &mut Vec<u8>) {
    let (user, password) = match call.args.len() {
        2 => (None, call.get(1)),
        3 => (Some(call.get(1)), call.get(2)),
        _ => return write::error(out, "ERR syntax error"),
    };
    match log_in(session, routes, user, password) {
        Ok(()) => write::simple(out, "OK"),
        Err(error) => write::error(out, error),
    }
}

pub(super) fn log_in(
    session: &Session,
    routes: &ProductRoutes,
    user: Option<&[u8]>,
    password: &[u8],
) -> Result<(), &'static str> {
    let Some(wanted) = &routes.auth else {
        return match user {
            // As Redis' default user without a password: any will do.
            Some(b"default") => Ok(()),
            Some(_) => Err("WRONGPASS invalid username-password pair or user is disabled."),
            None => {
                Err("ERR AUTH <password> called without any password configured for the default user. Are you sure \
                    your configuration is correct?")
            }
        };
    };
    let user_fits = user.unwrap_or(b"default") == wanted.username.as_deref().unwrap_or("default").as_bytes();
    // The password is compared in both cases, so that the time does not reveal which of the two was wrong.
    let password_fits = wanted.password.matches(password);
    if user_fits && password_fits {
        session.client.borrow_mut().logged_in = true;
        Ok(())
    } else {
        Err("WRONGPASS invalid username-password pair or user is disabled.")
    }
}

pub(super) fn hello(session: &Session, routes: &ProductRoutes, call: &CallContext<'_>, out: &mut Vec<u8>) {
    let mut version = session.client.borrow().version;
    let mut at = 1;
    if call.args.len() > 1 {
        version = match call.get(1) {
            b"2" => Version::Resp2,
            b"3" => Version::Resp3,
            other if number::parse(other).is_none() => {
                return write::error(out, "ERR Protocol version is not an integer or out of range");
            }
            _ => return write::error(out, "NOPROTO unsupported protocol version"),
        };
        at = 2;
    }
    let mut new_name = None;
    while at < call.args.len() {
        let left = call.args.len() - at - 1;
        let option = call.get(at);
        if option.eq_ignore_ascii_case(b"AUTH") && left >= 2 {
            if let Err(error) = log_in(session, routes, Some(call.get(at + 1)), call.get(at + 2)) {
                return write::error(out, error);
            }
            at += 3;
        } else if option.eq_ignore_ascii_case(b"SETNAME") && left >= 1 {
            match name(call.get(at + 1)) {
                Ok(name) => new_name = Some(name),
                Err(error) => return write::error(out, error),
            }
            at += 2;
        } else {
            let option = String::from_utf8_lossy(&option[..option.len().min(QUOTED_MAX)]).into_owned();
            return write::error(out, &format!("ERR Syntax error in HELLO option '{option}'"));
        }
    }
    let mut client = session.client.borrow_mut();
    if !client.logged_in {
        return write::error(
            out,
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
                <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        );
    }
    if let Some(name) = new_name {
        client.name = name;
    }
    client.version = version;
    drop(client);
    session.forget_backend_set();
    write::map(out, 7, version);
    for (key, value) in [("server", "redis"), ("version", SERVER_VERSION)] {
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
    write::array(out, 0);
}
