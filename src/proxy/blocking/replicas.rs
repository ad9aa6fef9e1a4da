//! WAIT and WAITAOF: how many replicas have the writes of a session. Each group that it has written to is asked over a
//! dedicated connection; the smallest answer counts. Knows nothing of `min-acks`.
//!
//! A server counts the replicas that have what the asking connection has written. PING makes it remember its present
//! offset for a connection that has written nothing, and that offset is behind the session's writes, since all of them are
//! answered. Only the process that has executed them knows of their replicas: for others the answer is 0.

use std::rc::Rc;

use tokio::{sync::oneshot, time::Instant};

use super::{
    call::Registration,
    connection::{BlockedConnection, NotOpen},
    decision::LeaseState,
};
use crate::{
    commands::{Args, BlockTimeout, Spec},
    model::{ids::HostPort, route::GroupRoute},
    proxy::{
        backend::{Backend, ConnectionIdentity},
        operation::{Blocks, Operation, StepRequest, StepResult, StepSlots, or_unknown},
    },
    resp::{
        number::{Header, header},
        write,
    },
};

/// How the wait ends.
enum Ended {
    Error(String),
    /// There is no client any more.
    Close,
}

/// A group that is asked.
struct Asked {
    group: GroupRoute,
    /// The process that has executed the writes. `None`: the session has written nothing.
    process: Option<Rc<ConnectionIdentity>>,
    connection: BlockedConnection,
    answer: Option<oneshot::Receiver<StepResult>>,
}

/// A call of WAIT or WAITAOF.
struct Replicas<'a> {
    operation: &'a Operation,
    registration: &'a Registration,
    spec: &'static Spec,
    began: Instant,
    asked: Vec<Asked>,
    /// Servers whose process that has executed writes is gone.
    gone: Vec<HostPort>,
    /// The smallest of each number in the answers.
    smallest: Option<Vec<i64>>,
}

/// Runs WAIT or WAITAOF.
pub(in crate::proxy) async fn run(operation: Operation, spec: &'static Spec) {
    let registration = Registration::new(&operation.worker, &operation.session, None);
    registration.count();
    let mut replicas = Replicas::new(&operation, &registration, spec);
    let ended = match replicas.ask_all().await {
        Ok(()) => replicas.answers().await,
        Err(ended) => Err(ended),
    };
    let Replicas { asked, gone, .. } = replicas;
    drop(registration);
    match ended {
        Ok(reply) => {
            operation.session.forget_written(&gone);
            operation.finish(&reply);
        }
        Err(Ended::Error(text)) => operation.refuse(&text),
        Err(Ended::Close) => drop(operation),
    }
    for Asked { mut connection, .. } in asked {
        connection.settle().await;
    }
}

impl<'a> Replicas<'a> {
    /// Finds the groups to ask: those that the session has written to, or all if it has written nothing.
    fn new(operation: &'a Operation, registration: &'a Registration, spec: &'static Spec) -> Self {
        let routes = operation.routes();
        let written = operation.session.written();
        let mut replicas = Self {
            operation,
            registration,
            spec,
            began: Instant::now(),
            asked: Vec::new(),
            gone: Vec::new(),
            smallest: None,
        };
        let asked = |group: &GroupRoute, process| Asked {
            group: group.clone(),
            process,
            connection: BlockedConnection::new(&operation.worker, &operation.session),
            answer: None,
        };
        if written.servers.is_empty() && !written.lost {
            replicas.asked = routes.groups.iter().map(|group| asked(group, None)).collect();
        }
        for server in written.servers {
            match routes.groups.iter().find(|group| group.primary == server.addr) {
                Some(group) => replicas.asked.push(asked(group, Some(server.identity))),
                None => replicas.gone.push(server.addr),
            }
        }
        if written.lost || !replicas.gone.is_empty() {
            replicas.count_none();
        }
        replicas
    }

    /// Connects to each group and asks it.
    async fn ask_all(&mut self) -> Result<(), Ended> {
        for mut one in std::mem::take(&mut self.asked) {
            let opened = tokio::select! {
                opened = one.connection.open(&one.group) => opened,
                () = self.client_is_gone() => return Err(Ended::Close),
            };
            match opened {
                Ok(backend) if one.process.as_ref().is_some_and(|p| !p.same_process(&backend.identity())) => {
                    self.gone.push(one.group.primary.clone());
                    self.count_none();
                }
                Ok(backend) => {
                    self.operation.may_serve().map_err(Ended::Error)?;
                    one.answer = Some(self.ask(&backend).map_err(Ended::Error)?);
                }
                Err(NotOpen::TooMany(text)) => return Err(Ended::Error(text)),
                Err(NotOpen::Down(text)) if one.process.is_none() => return Err(Ended::Error(text)),
                Err(NotOpen::Down(_)) => self.count_none(),
            }
            self.asked.push(one);
        }
        Ok(())
    }

    /// Sends PING and the command, with the time that is left.
    fn ask(&self, backend: &Backend) -> Result<oneshot::Receiver<StepResult>, String> {
        let call = self.operation.call();
        let timeout = BlockTimeout::of(self.spec, &call);
        let left = timeout.and_then(|timeout| timeout.length).map(|length| length.saturating_sub(self.began.elapsed()));
        let argument = timeout.zip(left).map(|(timeout, left)| (timeout.at, timeout.argument(left)));
        let words = (0..call.args.len()).map(|i| match &argument {
            Some((at, argument)) if *at == i => argument.as_bytes(),
            _ => call.get(i),
        });
        let (mut ping, mut bytes) = (Vec::new(), Vec::new());
        write::request(&mut ping, &[b"PING"]);
        write::request(&mut bytes, &words.collect::<Vec<_>>());
        let step = |bytes, blocks| StepRequest { bytes, slots: StepSlots::None, is_write: false, blocks };
        let send = |request| self.operation.send_request(backend, request).map_err(|error| error.text().to_owned());
        // Its reply is of no interest.
        drop(send(step(&ping, Blocks::No))?);
        send(step(&bytes, left.map_or(Blocks::Unlimited, Blocks::For)))
    }

    /// Waits for all answers; returns the reply.
    async fn answers(&mut self) -> Result<Vec<u8>, Ended> {
        for index in 0..self.asked.len() {
            let Some(answer) = self.asked[index].answer.take() else { continue };
            match self.answer(index, answer).await? {
                Ok(reply) => match numbers(&reply) {
                    Some(numbers) => self.count(numbers),
                    // The server says what is wrong.
                    None => return Ok(reply),
                },
                Err(error) if self.asked[index].process.is_none() || !self.is_leased() => {
                    return Err(Ended::Error(error.text().to_owned()));
                }
                // The connection was lost, and perhaps the writes with the process.
                Err(_) => self.count_none(),
            }
        }
        let numbers = self.smallest.take().unwrap_or_else(|| self.none());
        let mut out = Vec::new();
        if numbers.len() > 1 {
            write::array(&mut out, numbers.len());
        }
        numbers.into_iter().for_each(|number| write::int(&mut out, number));
        Ok(out)
    }

    /// Waits for the answer of a group; another client may end the wait.
    async fn answer(&mut self, index: usize, mut answer: oneshot::Receiver<StepResult>) -> Result<StepResult, Ended> {
        loop {
            if self.is_client_gone() {
                return Err(Ended::Close);
            }
            let (call, connection) = (&self.registration.call, &mut self.asked[index].connection);
            let unblock = async {
                match call.unblock() {
                    Some(how) => connection.unblock(how).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                result = &mut answer => return Ok(or_unknown(result)),
                () = call.changed() => {}
                () = unblock => {}
            }
        }
    }

    fn is_leased(&self) -> bool {
        self.registration.call.lease(&self.operation.worker) == LeaseState::Valid
    }

    fn is_client_gone(&self) -> bool {
        let session = &self.operation.session;
        session.is_closed() || session.is_closing() || self.registration.call.has_client_ended()
    }

    async fn client_is_gone(&self) {
        while !self.is_client_gone() {
            self.registration.call.changed().await;
        }
    }

    /// The answer of a group of which no replica is known to have the writes.
    fn none(&self) -> Vec<i64> {
        vec![0; if self.spec.name == "wait" { 1 } else { 2 }]
    }

    fn count_none(&mut self) {
        self.count(self.none());
    }

    /// Keeps the smaller of each number.
    fn count(&mut self, numbers: Vec<i64>) {
        match &mut self.smallest {
            None => self.smallest = Some(numbers),
            Some(smallest) => smallest.iter_mut().zip(numbers).for_each(|(least, number)| *least = number.min(*least)),
        }
    }
}

/// The numbers in the reply to WAIT or WAITAOF.
fn numbers(reply: &[u8]) -> Option<Vec<i64>> {
    let number = |from: usize| match (reply.get(from), header(reply, from + 1)) {
        (Some(b':'), Header::Number(number, end)) => Some((number, end)),
        _ => None,
    };
    if !reply.starts_with(b"*2\r\n") {
        return number(0).map(|(number, _)| vec![number]);
    }
    let (local, end) = number(b"*2\r\n".len())?;
    let (replicas, _) = number(end)?;
    Some(vec![local, replicas])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_errors_are_not() {
        for (reply, want) in [
            (":3\r\n", Some(vec![3])),
            ("*2\r\n:1\r\n:0\r\n", Some(vec![1, 0])),
            ("-ERR timeout is negative\r\n", None),
            ("*2\r\n:1\r\n", None),
            ("+OK\r\n", None),
        ] {
            assert_eq!(numbers(reply.as_bytes()), want, "{reply:?}");
        }
    }
}
