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

/// A group that is asked.
struct Asked {
    group: GroupRoute,
    /// The process that has executed the writes. `None`: the session has written nothing.
    process: Option<Rc<ConnectionIdentity>>,
    connection: BlockedConnection,
    answer: Option<oneshot::Receiver<StepResult>>,
}

/// How the wait ends.
enum Ended {
    Reply(Vec<u8>),
    Error(String),
    /// There is no client any more.
    Close,
}

/// Runs WAIT or WAITAOF.
pub(in crate::proxy) async fn run(operation: Operation, spec: &'static Spec) {
    let registration = Registration::new(&operation.worker, &operation.session, None);
    let written = operation.session.written();
    let routes = operation.routes();
    let of = |addr: &HostPort| routes.groups.iter().find(|group| group.primary == *addr).cloned();
    let mut gone: Vec<HostPort> = Vec::new();
    let mut asked = Vec::new();
    let mut ask = |group: GroupRoute, process| {
        let connection = BlockedConnection::new(&operation.worker, &operation.session);
        asked.push(Asked { group, process, connection, answer: None });
    };
    if written.servers.is_empty() && !written.lost {
        routes.groups.iter().for_each(|group| ask(group.clone(), None));
    }
    for server in written.servers {
        match of(&server.addr) {
            Some(group) => ask(group, Some(server.identity)),
            None => gone.push(server.addr),
        }
    }
    let mut smallest = (written.lost || !gone.is_empty()).then(|| zero(spec));
    let ended = wait(&operation, &registration, spec, &mut asked, &mut gone, &mut smallest).await;
    drop(registration);
    match ended {
        Ended::Reply(reply) => {
            operation.session.forget_written(&gone);
            operation.finish(&reply);
        }
        Ended::Error(text) => operation.refuse(&text),
        Ended::Close => drop(operation),
    }
    for Asked { mut connection, .. } in asked {
        connection.settle().await;
    }
}

/// The answer of a group of which no replica is known to have the writes.
fn zero(spec: &Spec) -> Vec<i64> {
    vec![0; if spec.name == "wait" { 1 } else { 2 }]
}

async fn wait(
    operation: &Operation,
    registration: &Registration,
    spec: &'static Spec,
    asked: &mut [Asked],
    gone: &mut Vec<HostPort>,
    smallest: &mut Option<Vec<i64>>,
) -> Ended {
    let began = Instant::now();
    for one in asked.iter_mut() {
        let backend = tokio::select! {
            opened = one.connection.open(&one.group) => opened,
            () = gone_client(operation, registration) => return Ended::Close,
        };
        let backend = match backend {
            Ok(backend) => backend,
            Err(NotOpen::TooMany(text)) => return Ended::Error(text),
            Err(NotOpen::Down(text)) if one.process.is_none() => return Ended::Error(text),
            Err(NotOpen::Down(_)) => {
                merge(smallest, zero(spec));
                continue;
            }
        };
        if one.process.as_ref().is_some_and(|process| !process.same_process(&backend.identity())) {
            gone.push(one.group.primary.clone());
            merge(smallest, zero(spec));
            continue;
        }
        if let Err(text) = operation.may_serve() {
            return Ended::Error(text);
        }
        match ask(operation, spec, &backend, began) {
            Ok(answer) => one.answer = Some(answer),
            Err(text) => return Ended::Error(text),
        }
    }
    for one in asked.iter_mut() {
        let Some(answer) = one.answer.take() else { continue };
        let result = match answer_of(operation, registration, &mut one.connection, answer).await {
            Ok(result) => result,
            Err(ended) => return ended,
        };
        match result {
            Ok(reply) => match numbers(&reply) {
                Some(numbers) => merge(smallest, numbers),
                // The server says what is wrong.
                None => return Ended::Reply(reply),
            },
            Err(error) if one.process.is_none() || registration.call.lease(&operation.worker) != LeaseState::Valid => {
                return Ended::Error(error.text().to_owned());
            }
            // The connection was lost, and perhaps the writes with the process.
            Err(_) => merge(smallest, zero(spec)),
        }
    }
    Ended::Reply(reply_of(spec, smallest.clone().unwrap_or_else(|| zero(spec))))
}

/// Sends PING and the command, with the time that is left.
fn ask(
    operation: &Operation,
    spec: &'static Spec,
    backend: &Backend,
    began: Instant,
) -> Result<oneshot::Receiver<StepResult>, String> {
    let call = operation.call();
    let timeout = BlockTimeout::of(spec, &call);
    let left = timeout.and_then(|timeout| timeout.length).map(|length| length.saturating_sub(began.elapsed()));
    let (mut ping, mut bytes) = (Vec::new(), Vec::new());
    write::request(&mut ping, &[b"PING"]);
    let argument = timeout.zip(left).map(|(timeout, left)| (timeout.at, timeout.argument(left)));
    let args: Vec<&[u8]> = (0..call.args.len())
        .map(|i| match &argument {
            Some((at, argument)) if *at == i => argument.as_bytes(),
            _ => call.get(i),
        })
        .collect();
    write::request(&mut bytes, &args);
    let step = |bytes, blocks| StepRequest { bytes, slots: StepSlots::None, is_write: false, blocks };
    let send = |request| operation.send_request(backend, request).map_err(|error| error.text().to_owned());
    // Its reply is of no interest.
    drop(send(step(&ping, Blocks::No))?);
    send(step(&bytes, left.map_or(Blocks::Unlimited, Blocks::For)))
}

/// Waits for the answer of a group; another client may end the wait.
async fn answer_of(
    operation: &Operation,
    registration: &Registration,
    connection: &mut BlockedConnection,
    mut answer: oneshot::Receiver<StepResult>,
) -> Result<StepResult, Ended> {
    loop {
        if is_gone(operation, registration) {
            return Err(Ended::Close);
        }
        let unblock = async {
            match registration.call.unblock() {
                Some(how) => connection.unblock(how).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            result = &mut answer => return Ok(or_unknown(result)),
            () = registration.call.changed() => {}
            () = unblock => {}
        }
    }
}

fn is_gone(operation: &Operation, registration: &Registration) -> bool {
    let session = &operation.session;
    session.is_closed() || session.is_closing() || registration.call.has_client_ended()
}

async fn gone_client(operation: &Operation, registration: &Registration) {
    while !is_gone(operation, registration) {
        registration.call.changed().await;
    }
}

/// Keeps the smaller of each number.
fn merge(smallest: &mut Option<Vec<i64>>, numbers: Vec<i64>) {
    match smallest {
        None => *smallest = Some(numbers),
        Some(smallest) => smallest.iter_mut().zip(numbers).for_each(|(least, number)| *least = number.min(*least)),
    }
}

/// The numbers in the reply to WAIT or WAITAOF.
fn numbers(reply: &[u8]) -> Option<Vec<i64>> {
    let number = |from: usize| match (reply.get(from), header(reply, from + 1)) {
        (Some(b':'), Header::Number(number, end)) => Some((number, end)),
        _ => None,
    };
    if reply.first() == Some(&b':') {
        return number(0).map(|(number, _)| vec![number]);
    }
    let from = b"*2\r\n".len();
    reply.starts_with(b"*2\r\n").then_some(())?;
    let (local, end) = number(from)?;
    let (replicas, _) = number(end)?;
    Some(vec![local, replicas])
}

fn reply_of(spec: &Spec, numbers: Vec<i64>) -> Vec<u8> {
    let mut out = Vec::new();
    if spec.name != "wait" {
        write::array(&mut out, numbers.len());
    }
    numbers.into_iter().for_each(|number| write::int(&mut out, number));
    out
}
