//! The login sequence of a connection to a server: which commands, in which order, and what each reply means. Pure.
//! Knows nothing of sockets: one caller writes all requests at once, others wait for each reply.

use super::{
    number::{self, Header},
    write::{self, Version},
};

/// A command of the sequence. The sequence has them in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginStep {
    /// AUTH.
    Auth,
    /// HELLO 3: the connection uses RESP3.
    Hello,
    /// SELECT of another database than 0.
    Select,
    /// INFO server, for the server's run id. An address may have another process behind it at any time.
    RunId,
    /// CLIENT SETNAME: operators and the connection fence find the connection by its name.
    SetName,
    /// CLIENT ID.
    ClientId,
    /// AUTH as another user, which may do less than the one that prepared the connection.
    Become,
}

impl LoginStep {
    /// The name for messages, without arguments that may be secret.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auth => "AUTH",
            Self::Hello => "HELLO 3",
            Self::Select => "SELECT",
            Self::RunId => "INFO server",
            Self::SetName => "CLIENT SETNAME",
            Self::ClientId => "CLIENT ID",
            Self::Become => "AUTH of the data user",
        }
    }

    /// The first word of the command.
    #[must_use]
    pub fn command(self) -> &'static str {
        self.name().split(' ').next().unwrap_or_default()
    }

    /// Whether a server may leave a refusal of this step unanswered while replies to earlier requests are on their way. (AUTH,
    /// from Redis 7.2 on; redis/redis issue 15640.) Such a step is sent when all earlier ones are answered.
    #[must_use]
    pub fn is_unanswered_behind_others(self) -> bool {
        self == Self::Become
    }

    /// Whether the request contains the password, so that a server's error text may quote it.
    #[must_use]
    pub fn holds_password(self) -> bool {
        matches!(self, Self::Auth | Self::Become)
    }
}

/// Which error replies to CLIENT SETNAME are accepted.
///
/// Other errors are never about the name: a password is missing, there are too many clients, the server is in protected
/// mode. Requests over such a connection would not be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// None: the connection fence finds the connection by its name.
    Required,
    /// The user is not permitted to run CLIENT. The name only informs people.
    UnlessForbidden,
    /// The user is not permitted to run CLIENT, or the server does not have it.
    IfSupported,
    /// The user is not permitted to run CLIENT, or the server is busy with a script, which the connection is to end.
    IfIdle,
}

/// The parameters of the sequence.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    /// Username, if it is not that of the default user, and password. `None`: the server needs no password.
    pub credentials: Option<(Option<&'a str>, &'a str)>,
    /// The protocol version.
    pub version: Version,
    /// The database.
    pub db: u32,
    /// Whether the server's run id is requested.
    pub run_id: bool,
    /// Name of the connection; has no spaces.
    pub name: &'a str,
    /// What happens if the name cannot be set.
    pub naming: Naming,
    /// Whether the connection's id is requested.
    pub client_id: bool,
    /// The user that the connection becomes at the end: username and password as in `credentials`.
    pub become_user: Option<(Option<&'a str>, &'a str)>,
}

/// What a reply means for the login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    /// The login continues.
    Accepted,
    /// The login continues. The server's run id; empty: the server does not report it.
    RunId(String),
    /// The login continues. The connection's id.
    ClientId(u64),
    /// The login has failed, with the server's error text. See [`LoginStep::holds_password`].
    Refused(String),
    /// The login has failed: the reply has another form.
    Malformed,
}

impl<'a> Login<'a> {
    /// Only credentials and a name that must be set; RESP2, database 0.
    #[must_use]
    pub fn new(credentials: Option<(Option<&'a str>, &'a str)>, name: &'a str) -> Self {
        Self {
            credentials,
            version: Version::Resp2,
            db: 0,
            run_id: false,
            name,
            naming: Naming::Required,
            client_id: false,
            become_user: None,
        }
    }

    /// The commands of this login, in order.
    #[must_use]
    pub fn steps(&self) -> Vec<LoginStep> {
        [
            (LoginStep::Auth, self.credentials.is_some()),
            (LoginStep::Hello, self.version == Version::Resp3),
            (LoginStep::Select, self.db != 0),
            (LoginStep::RunId, self.run_id),
            (LoginStep::SetName, true),
            (LoginStep::ClientId, self.client_id),
            (LoginStep::Become, self.become_user.is_some()),
        ]
        .into_iter()
        .filter_map(|(step, wanted)| wanted.then_some(step))
        .collect()
    }

    /// Appends the request of a step.
    pub fn push(&self, step: LoginStep, out: &mut Vec<u8>) {
        match step {
            LoginStep::Auth => auth(self.credentials, out),
            LoginStep::Become => auth(self.become_user, out),
            LoginStep::Hello => write::request(out, &[b"HELLO", b"3"]),
            LoginStep::Select => write::request(out, &[b"SELECT", self.db.to_string().as_bytes()]),
            LoginStep::RunId => write::request(out, &[b"INFO", b"server"]),
            LoginStep::SetName => write::request(out, &[b"CLIENT", b"SETNAME", self.name.as_bytes()]),
            LoginStep::ClientId => write::request(out, &[b"CLIENT", b"ID"]),
        }
    }

    /// What a complete, encoded reply to a step means.
    #[must_use]
    pub fn outcome(&self, step: LoginStep, reply: &[u8]) -> LoginOutcome {
        let error = reply.strip_prefix(b"-").map(|text| String::from_utf8_lossy(text).trim_end().to_owned());
        match (step, error) {
            // A server that refuses INFO serves requests all the same.
            (LoginStep::RunId, Some(_)) => LoginOutcome::RunId(String::new()),
            (LoginStep::RunId, None) => LoginOutcome::RunId(run_id(reply)),
            (LoginStep::SetName, Some(text)) if self.accepts_without_name(&text) => LoginOutcome::Accepted,
            (_, Some(text)) => LoginOutcome::Refused(text),
            (LoginStep::ClientId, None) => match (reply.first(), number::header(reply, 1)) {
                (Some(b':'), Header::Number(id, _)) => {
                    u64::try_from(id).map_or(LoginOutcome::Malformed, LoginOutcome::ClientId)
                }
                _ => LoginOutcome::Malformed,
            },
            (_, None) => LoginOutcome::Accepted,
        }
    }

    fn accepts_without_name(&self, error: &str) -> bool {
        match self.naming {
            Naming::Required => false,
            Naming::UnlessForbidden => error.starts_with("NOPERM"),
            Naming::IfIdle => error.starts_with("NOPERM") || error.starts_with("BUSY"),
            Naming::IfSupported => error.starts_with("NOPERM") || error.starts_with("ERR unknown"),
        }
    }
}

/// Appends AUTH, if there are credentials.
fn auth(credentials: Option<(Option<&str>, &str)>, out: &mut Vec<u8>) {
    match credentials {
        Some((Some(user), password)) => write::request(out, &[b"AUTH", user.as_bytes(), password.as_bytes()]),
        Some((None, password)) => write::request(out, &[b"AUTH", password.as_bytes()]),
        None => {}
    }
}

/// The run id in a reply to INFO; empty if the reply has none.
fn run_id(reply: &[u8]) -> String {
    let text = String::from_utf8_lossy(reply);
    text.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Login<'static> {
        Login {
            version: Version::Resp3,
            db: 7,
            run_id: true,
            client_id: true,
            become_user: Some((Some("less"), "secret")),
            ..Login::new(Some((Some("user"), "secret")), "pt:n")
        }
    }

    fn bytes(login: &Login<'_>) -> String {
        let mut out = Vec::new();
        login.steps().into_iter().for_each(|step| login.push(step, &mut out));
        String::from_utf8_lossy(&out).replace("\r\n", " ")
    }

    #[test]
    fn requests_come_in_order() {
        assert_eq!(
            bytes(&full()),
            "*3 $4 AUTH $4 user $6 secret *2 $5 HELLO $1 3 *2 $6 SELECT $1 7 *2 $4 INFO $6 server \
             *3 $6 CLIENT $7 SETNAME $4 pt:n *2 $6 CLIENT $2 ID \
             *3 $4 AUTH $4 less $6 secret "
        );
        assert_eq!(bytes(&Login::new(None, "a")), "*3 $6 CLIENT $7 SETNAME $1 a ");
        let password = Login::new(Some((None, "p")), "a");
        assert_eq!(bytes(&password), "*2 $4 AUTH $1 p *3 $6 CLIENT $7 SETNAME $1 a ");
    }

    #[test]
    fn replies_have_a_meaning() {
        use LoginOutcome::{Accepted, ClientId, Malformed, Refused, RunId};
        let refused = |text: &str| Refused(text.into());
        for (step, reply, outcome) in [
            (LoginStep::Auth, "+OK\r\n", Accepted),
            (LoginStep::Auth, "-WRONGPASS no\r\n", refused("WRONGPASS no")),
            (LoginStep::Hello, "%1\r\n+proto\r\n:3\r\n", Accepted),
            (LoginStep::Hello, "-NOPROTO sorry\r\n", refused("NOPROTO sorry")),
            (LoginStep::Select, "-ERR DB index is out of range\r\n", refused("ERR DB index is out of range")),
            (LoginStep::RunId, "$25\r\n# Server\r\nrun_id:abc\r\na:b\r\n", RunId("abc".into())),
            (LoginStep::RunId, "=29\r\ntxt:# Server\r\nrun_id:abc\r\na:b\r\n", RunId("abc".into())),
            (LoginStep::RunId, "$0\r\n\r\n", RunId(String::new())),
            (LoginStep::RunId, "-NOPERM no\r\n", RunId(String::new())),
            (LoginStep::SetName, "+OK\r\n", Accepted),
            (LoginStep::ClientId, ":12\r\n", ClientId(12)),
            (LoginStep::ClientId, ":-1\r\n", Malformed),
            (LoginStep::ClientId, "+12\r\n", Malformed),
            (LoginStep::ClientId, "-NOPERM no\r\n", refused("NOPERM no")),
            (LoginStep::Become, "+OK\r\n", Accepted),
            (LoginStep::Become, "-WRONGPASS no\r\n", refused("WRONGPASS no")),
        ] {
            assert_eq!(full().outcome(step, reply.as_bytes()), outcome, "{step:?} {reply:?}");
        }
    }

    #[test]
    fn a_name_may_be_optional() {
        let forbidden = "-NOPERM this user has no permissions to run the 'client|setname' command\r\n";
        let unknown = "-ERR unknown command 'CLIENT', with args beginning with: 'SETNAME'\r\n";
        let other = "-NOAUTH Authentication required.\r\n";
        for (naming, accepted) in [
            (Naming::Required, [false, false, false]),
            (Naming::UnlessForbidden, [true, false, false]),
            (Naming::IfSupported, [true, true, false]),
        ] {
            let login = Login { naming, ..full() };
            let found = [forbidden, unknown, other]
                .map(|reply| login.outcome(LoginStep::SetName, reply.as_bytes()) == LoginOutcome::Accepted);
            assert_eq!(found, accepted, "{naming:?}");
        }
    }

    #[test]
    fn only_auth_holds_the_password() {
        for step in full().steps() {
            let mut out = Vec::new();
            full().push(step, &mut out);
            let holds = String::from_utf8_lossy(&out).contains("secret");
            assert_eq!(holds, step.holds_password(), "{step:?}");
            assert!(step.name().starts_with(step.command()), "{step:?}");
        }
    }
}
