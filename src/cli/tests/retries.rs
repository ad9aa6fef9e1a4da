//! What a command prints, and its exit code, when nodes answer with errors or not at all: not executed, outcome
//! unknown, or made.

use std::{process::ExitCode, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tonic::Code;

use super::{
    fake::{Fake, FakeAnswer},
    *,
};

const NO_LEADER: FakeAnswer = FakeAnswer::Status(Code::Unavailable, "no leader is known", Some("none"));
const LOST: FakeAnswer = FakeAnswer::Status(Code::Unknown, "the leader went away", None);
const REFUSED: FakeAnswer = FakeAnswer::Status(Code::FailedPrecondition, "there is no node 7", None);

/// Runs a command line against `node`.
pub(super) async fn typed(node: &str, line: &str) -> Result<(), CliError> {
    let words = ["pontoon", "--node", node].into_iter().chain(line.split_whitespace());
    let words: Vec<_> = words.map(Into::into).collect();
    let Cli { common, command } = Cli::parse_words(&words).unwrap();
    remote(command, common).await
}

fn unknown(result: Result<(), CliError>) -> String {
    match result {
        Err(error @ CliError::Unknown(_)) => {
            assert_eq!(error.code(), ExitCode::from(3));
            error.to_string()
        }
        other => panic!("the outcome is unknown, and the command returned {other:?}"),
    }
}

pub(super) fn failed(result: Result<(), CliError>) -> String {
    match result {
        Err(error @ (CliError::Failed(_) | CliError::Refused(..))) => {
            assert_eq!(error.code(), ExitCode::from(1));
            error.to_string()
        }
        other => panic!("nothing was executed, and the command returned {other:?}"),
    }
}

#[tokio::test]
async fn a_call_is_repeated_under_one_id_while_the_leader_changes() {
    let node = Fake::start(&[NO_LEADER, LOST, NO_LEADER, FakeAnswer::Done]).await;
    typed(&node.address, "node remove 7").await.unwrap();
    let asked = node.asked();
    assert_eq!(asked.len(), 4);
    assert_eq!(asked[0].change_id.len(), 16);
    assert!(asked.iter().all(|o| o.change_id == asked[0].change_id), "{asked:?}");
    assert!(asked.windows(2).all(|w| w[1].timeout_ms < w[0].timeout_ms), "one deadline for all calls: {asked:?}");
}

#[tokio::test]
async fn each_command_has_its_own_id() {
    let node = Fake::start(&[FakeAnswer::Done]).await;
    typed(&node.address, "node remove 7 --wait").await.unwrap();
    typed(&node.address, "node remove 7 --dry-run").await.unwrap();
    let asked = node.asked();
    let flags: Vec<_> = asked.iter().map(|o| (o.wait, o.dry_run)).collect();
    // --wait: the change first, so that its ids can be shown; then the same change again, which waits.
    assert_eq!(flags, [(false, false), (true, false), (false, true)]);
    assert_eq!(asked[0].change_id, asked[1].change_id);
    assert_ne!(asked[0].change_id, asked[2].change_id);
    assert!((290_000..=300_000).contains(&asked[0].timeout_ms) && asked[2].timeout_ms <= 10_000, "{asked:?}");
}

#[tokio::test]
async fn a_wait_that_fails_says_that_the_change_was_made() {
    for (answer, part) in [(REFUSED, "no node 7"), (NO_LEADER, "no leader"), (LOST, "went away")] {
        let node = Fake::start(&[FakeAnswer::Done, answer]).await;
        let error = typed(&node.address, "product set p port=1 --wait --timeout 400ms").await.unwrap_err();
        assert!(matches!(&error, CliError::Made(why) if why.contains(part)), "{error:?}");
    }
}

#[tokio::test]
async fn errors_have_a_code_for_programs() {
    let node = Fake::start(&[REFUSED]).await;
    let error = typed(&node.address, "node remove 7").await.unwrap_err();
    let json = output::to_json(&error.json()).unwrap();
    assert_eq!(json, include_str!("golden/error.json"));
    let codes = [
        (CliError::Failed(String::new()), "failed", 1),
        (CliError::Usage(String::new()), "usage", 2),
        (CliError::Unknown(String::new()), "outcome-unknown", 3),
        (CliError::Made(String::new()), "made", 4),
        (CliError::Internal(String::new()), "internal", 5),
    ];
    for (error, code, exit) in codes {
        let json = serde_json::json!(error.json());
        assert_eq!((&json["error"]["code"], &json["error"]["exit_code"]), (&code.into(), &exit.into()));
        assert_eq!(error.code(), ExitCode::from(exit));
    }
    let words = |line: &str| line.split_whitespace().map(Into::into).collect::<Vec<OsString>>();
    for line in ["pontoon nonsense -o json", "pontoon --output json x", "pontoon -ojson", "pontoon x --output=json"] {
        assert!(asks_for_json(&words(line)), "{line}");
    }
    assert!(!asks_for_json(&words("pontoon slot key json -o table")));
}

#[tokio::test]
async fn without_a_leader_nothing_is_executed() {
    let node = Fake::start(&[NO_LEADER]).await;
    let text = failed(typed(&node.address, "node remove 7 --timeout 300ms").await);
    assert!(text.contains("not executed") && text.contains("no leader"), "{text}");
    assert!(node.asked().len() > 1);
}

#[tokio::test]
async fn a_refusal_is_not_repeated() {
    let node = Fake::start(&[REFUSED]).await;
    assert_eq!(failed(typed(&node.address, "node remove 7").await), "there is no node 7");
    assert_eq!(node.asked().len(), 1);
}

#[tokio::test]
async fn an_unanswered_call_makes_the_outcome_unknown() {
    // Also if its repeats were not executed, and if one was refused: the first may be the reason.
    for answers in [&[LOST][..], &[LOST, NO_LEADER], &[LOST, REFUSED], &[FakeAnswer::Silence]] {
        let node = Fake::start(answers).await;
        let text = unknown(typed(&node.address, "node remove 7 --timeout 400ms").await);
        assert!(text.contains("outcome unknown") && text.contains("check with: pontoon node ls"), "{text}");
    }
}

#[tokio::test]
async fn an_unknown_outcome_is_said_once() {
    let lost = FakeAnswer::Status(Code::Unknown, "outcome unknown: no majority had it (change id ab)", None);
    let node = Fake::start(&[lost]).await;
    let text = unknown(typed(&node.address, "node remove 7 --timeout 300ms").await);
    assert!(text.contains("300ms: no majority had it (change id ab)"), "{text}");
    assert_eq!(text.matches("outcome unknown").count(), 1, "{text}");
}

#[tokio::test]
async fn a_dry_run_is_never_unknown() {
    let node = Fake::start(&[LOST]).await;
    failed(typed(&node.address, "node remove 7 --dry-run --timeout 300ms").await);
}

#[tokio::test]
async fn a_change_that_was_made_is_reported_as_made() {
    for code in [Code::DeadlineExceeded, Code::FailedPrecondition] {
        let node =
            Fake::start(&[FakeAnswer::Status(code, "the change was made, but node 2 is silent", Some("made"))]).await;
        let error = typed(&node.address, "product set p port=1 --wait").await.unwrap_err();
        assert_eq!(error, CliError::Made("the change was made, but node 2 is silent".into()));
        assert_eq!(error.code(), ExitCode::from(4));
        assert_eq!(node.asked().len(), 1, "there is nothing to repeat");
    }
}

#[tokio::test]
async fn if_the_connection_breaks_the_outcome_is_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // A node that reads the request, and is killed.
    tokio::spawn(async move {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        // The first connection only asks whether a node answers.
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&settings).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&settings).await.unwrap();
        let mut seen = Vec::new();
        while !seen.windows(5).any(|w| w == [0, 1, 0, 0, 0]) && stream.read_buf(&mut seen).await.unwrap() > 0 {}
        drop((stream, listener));
    });
    let text = unknown(typed(&address, "node remove 7 --timeout 400ms").await);
    assert!(text.contains("check with"), "{text}");
}

#[tokio::test]
async fn reads_are_repeated_until_the_deadline() {
    let node = Fake::start(&[LOST, NO_LEADER, FakeAnswer::Done]).await;
    typed(&node.address, "status").await.unwrap();
    let node = Fake::start(&[LOST]).await;
    let text = failed(typed(&node.address, "status --timeout 300ms").await);
    assert!(text.contains("no answer within 300ms") && text.contains("went away"), "{text}");
}

#[tokio::test]
async fn a_refused_connection_is_reported_without_a_repeat() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let began = std::time::Instant::now();
    for line in ["status", "node remove 7 --wait"] {
        let text = failed(typed(&free, line).await);
        assert!(text.contains(&free) && text.contains("--node HOST:PORT"), "{text}");
    }
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_port_that_is_not_an_admin_port_is_recognised() {
    for says in ["-ERR Protocol error: invalid first byte\r\n", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut some = [0; 64];
                if stream.read(&mut some).await.is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(says.as_bytes()).await;
                }
            }
        });
        let text = failed(typed(&address, "node remove 7").await);
        assert!(text.contains("no admin port") && text.contains(&address), "{text}");
    }
}
