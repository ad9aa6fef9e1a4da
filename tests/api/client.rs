//! redis::Client against real servers and servers that send invalid answers.

use std::time::Duration;

use pontoon::{
    model::ids::HostPort,
    redis::{Client, RedisError, Reply, Role},
};
use tokio::time::Instant;

use crate::{
    fake,
    server::{Redis, password},
    wait::soon,
};

#[tokio::test]
async fn typed_calls() {
    let redis = Redis::start(&[]).await;
    let mut client = redis.client().await;
    let commands: Vec<Vec<Vec<u8>>> =
        (0..500).map(|i| vec![b"SET".to_vec(), format!("key:{i}").into_bytes(), vec![b'x'; 1000]]).collect();
    let borrowed: Vec<Vec<&[u8]>> = commands.iter().map(|c| c.iter().map(Vec::as_slice).collect()).collect();
    let slices: Vec<&[&[u8]]> = borrowed.iter().map(Vec::as_slice).collect();
    let replies = client.pipeline(&slices, soon()).await.unwrap();
    assert_eq!(replies, vec![Reply::Simple("OK".into()); 500]);
    client.select(3, soon()).await.unwrap();
    client.ask(&[b"SET", b"other", b"1"], soon()).await.unwrap();
    let info = client.info("default", soon()).await.unwrap();
    assert_eq!(info.keyspace().into_iter().collect::<Vec<_>>(), [(0, 500), (3, 1)]);
    assert!(info.version().unwrap() >= (6, 0));
    assert_eq!(client.dbsize(soon()).await.unwrap(), 1);
    assert_eq!(client.config("databases", soon()).await.unwrap().as_deref(), Some("16"));
    assert_eq!(client.config("no-such-thing", soon()).await.unwrap(), None);
    assert!(matches!(client.role(soon()).await.unwrap(), Role::Primary { replicas, .. } if replicas.is_empty()));
    client.select(0, soon()).await.unwrap();
    let (mut cursor, mut seen) = (0, std::collections::BTreeSet::new());
    loop {
        let page = client.scan(cursor, 100, soon()).await.unwrap();
        seen.extend(page.keys);
        cursor = page.cursor;
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(seen.len(), 500);
    // An error answer leaves the connection usable.
    assert!(matches!(client.ask(&[b"LPUSH", b"key:1", b"x"], soon()).await, Err(RedisError::Refused { .. })));
    assert_eq!(client.ask(&[b"CLIENT", b"GETNAME"], soon()).await.unwrap().text(), Some("test"));
}

#[tokio::test]
async fn replies_larger_than_every_buffer() {
    let redis = Redis::start(&[]).await;
    let mut client = redis.client().await;
    let value = vec![b'v'; 5 << 20];
    client.ask(&[b"SET", b"big", &value], soon()).await.unwrap();
    assert_eq!(client.ask(&[b"GET", b"big"], soon()).await.unwrap(), Reply::Bulk(value.into()));
}

#[tokio::test]
async fn passwords() {
    let secret = password("correct-horse");
    let redis = Redis::start_with(&["--requirepass", "correct-horse"], Some(secret.clone())).await;
    let without = Client::connect(&redis.addr, None, "test", soon()).await.err().unwrap();
    assert!(matches!(without, RedisError::PasswordNeeded { .. }), "{without}");
    let wrong = Client::connect(&redis.addr, Some(&password("battery-staple")), "test", soon()).await.err().unwrap();
    assert!(matches!(wrong, RedisError::WrongPassword { .. }), "{wrong}");
    assert!(!format!("{wrong} {wrong:?}").contains("battery-staple"));
    assert!(Client::connect(&redis.addr, Some(&secret), "test", soon()).await.is_ok());
    let open = Redis::start(&[]).await;
    let needless = Client::connect(&open.addr, Some(&secret), "test", soon()).await.err().unwrap();
    assert!(matches!(needless, RedisError::WrongPassword { .. }), "{needless}");
}

#[tokio::test]
async fn users_may_be_limited() {
    let redis = Redis::start(&[]).await;
    redis.run("ACL SETUSER narrow on >pw ~* +info +select +scan").await;
    let mut narrow = password("pw");
    narrow.username = Some("narrow".into());
    let mut client = Client::connect(&redis.addr, Some(&narrow), "test", soon()).await.unwrap();
    assert!(client.info("server", soon()).await.is_ok());
    assert_eq!(client.config("databases", soon()).await.unwrap(), None);
    let error = client.role(soon()).await.unwrap_err();
    assert!(matches!(&error, RedisError::NotAllowed { command, .. } if command == "role"), "{error}");
}

async fn first_error(answers: Vec<Vec<u8>>, hang: bool, within: Duration) -> RedisError {
    let addr = fake::server(answers, hang).await;
    match Client::connect(&addr, None, "test", Instant::now() + within).await {
        Err(error) => error,
        Ok(mut client) => client.role(Instant::now() + within).await.unwrap_err(),
    }
}

#[tokio::test]
async fn servers_with_invalid_or_no_answers() {
    let long = Duration::from_secs(10);
    let error = first_error(vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()], true, long).await;
    assert!(matches!(error, RedisError::Protocol { .. }), "{error}");
    // 40 KB that abort a process which decodes them recursively.
    let error = first_error(vec![fake::ok(), b"*1\r\n".repeat(10_000)], true, long).await;
    assert!(matches!(error, RedisError::Protocol { .. }), "{error}");
    let error = first_error(vec![fake::ok(), b"$536870912\r\n".to_vec()], true, long).await;
    assert!(matches!(error, RedisError::Protocol { .. }), "{error}");
    let error = first_error(vec![fake::ok(), b"*3\r\n$6\r\nmas".to_vec()], false, long).await;
    assert!(matches!(error, RedisError::Closed { .. }), "{error}");
    let error = first_error(vec![b"+OK\r\n+OK\r\n".to_vec()], true, long).await;
    assert!(matches!(error, RedisError::Protocol { .. }), "{error}");
    let error =
        first_error(vec![b"-DENIED Redis is running in protected mode because ...\r\n".to_vec()], false, long).await;
    assert!(matches!(error, RedisError::Protected { .. }), "{error}");
    let error =
        first_error(vec![fake::ok(), b"-LOADING Redis is loading the dataset in memory\r\n".to_vec()], false, long)
            .await;
    assert!(matches!(error, RedisError::Loading { .. }), "{error}");
    let began = Instant::now();
    let error = first_error(vec![fake::ok(), b"*3\r\n".to_vec()], true, Duration::from_millis(100)).await;
    assert!(matches!(error, RedisError::Timeout { .. }), "{error}");
    assert!(began.elapsed() < long, "a deadline was not kept");
}

#[tokio::test]
async fn a_refused_connection_is_an_error() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let addr = HostPort::parse(&format!("127.0.0.1:{port}")).unwrap();
    let error = Client::connect(&addr, None, "test", soon()).await.err().unwrap();
    assert!(matches!(error, RedisError::Unreachable { .. }) && error.to_string().contains(addr.as_str()), "{error}");
}
