//! The data user at Redis 6.0, of which there is no package: a Redis 6.2 behind a relay, without what came with 6.2.

use std::process::Command;

use pontoon::{
    model::ids::HostPort,
    resp::{
        reply::ReplyScanner,
        request::{RequestScanner, Scanned},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{Served, kinds::Kind, rights::assert_rights, server::Redis};

/// Commands that came with Redis 6.2.
const NEWER: [&str; 19] = [
    "blmove",
    "copy",
    "failover",
    "geosearch",
    "geosearchstore",
    "getdel",
    "getex",
    "hrandfield",
    "lmove",
    "reset",
    "smismember",
    "xautoclaim",
    "zdiff",
    "zdiffstore",
    "zinter",
    "zmscore",
    "zrandmember",
    "zrangestore",
    "zunion",
];

/// What Redis 6.0 answers itself; `None`: as Redis 6.2 does.
fn answer(request: &[Vec<u8>]) -> Option<String> {
    let words: Vec<String> = request.iter().map(|word| String::from_utf8_lossy(word).to_ascii_lowercase()).collect();
    match [words.first()?.as_str(), words.get(1)?] {
        ["acl", "setuser"] => {
            let newer = |rule: &&String| rule.contains("channels") || rule.contains("payload") || rule.starts_with('&');
            let rule = words[3..].iter().find(newer)?;
            Some(format!("-ERR Error in ACL SETUSER modifier '{rule}': Syntax error\r\n"))
        }
        ["config", "get"] if words.get(2)? == "sanitize-dump-payload" => Some("*0\r\n".to_owned()),
        _ => None,
    }
}

/// Serves one connection: one request after the other.
async fn relay(mut client: TcpStream, mut server: TcpStream) -> Option<()> {
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    loop {
        let mut scanner = RequestScanner::default();
        let request = loop {
            if let Scanned::Request(len) = scanner.scan(&requests).unwrap() {
                let words: Vec<Vec<u8>> = scanner.args().iter().map(|arg| arg.of(&requests).to_vec()).collect();
                break (requests.drain(..len).collect::<Vec<u8>>(), words);
            }
            if client.read_buf(&mut requests).await.ok()? == 0 {
                return None;
            }
        };
        let reply = match answer(&request.1) {
            Some(reply) => reply.into_bytes(),
            None => {
                server.write_all(&request.0).await.ok()?;
                let mut scanner = ReplyScanner::default();
                loop {
                    if let Some(len) = scanner.scan(&replies).unwrap() {
                        break replies.drain(..len).collect();
                    }
                    if server.read_buf(&mut replies).await.ok()? == 0 {
                        return None;
                    }
                }
            }
        };
        client.write_all(&reply).await.ok()?;
    }
}

/// A relay to a server. Returns its address.
async fn as_redis_6_0(redis: &Redis) -> HostPort {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = HostPort::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    let server = redis.addr.to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(relay(client, server));
        }
    });
    addr
}

#[tokio::test]
async fn it_is_made_at_redis_6_0() {
    let options: Vec<&str> = NEWER.iter().flat_map(|name| ["--rename-command", name, ""]).collect();
    let redis = Redis::start_program(|| Command::new(Kind::Redis6.program()), &options, None).await;
    let addr = as_redis_6_0(&redis).await;
    let mut served = Served::at(redis, &addr).await;
    let allowed = assert_rights(Kind::Redis6, &mut served).await;
    assert!(allowed.contains("set") && !allowed.contains("getex"), "{allowed:?}");
    // Nothing that only newer servers have was done.
    let found = served.redis.run("CONFIG GET sanitize-dump-payload").await;
    assert_eq!(found.items().unwrap()[1].text(), Some("no"));
}
