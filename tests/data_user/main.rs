//! The data user (`control::servers::data_user`) at servers of every kind: what it may run, directly and from scripts, what it
//! may restore, and what becomes of it where ACLs know less.
#![allow(clippy::unwrap_used)]

#[path = "../support/kinds.rs"]
mod kinds;
#[path = "../api/server.rs"]
#[allow(dead_code)]
mod server;
#[path = "../api/wait.rs"]
#[allow(dead_code)]
mod wait;

mod older;
mod payloads;
mod rights;

use std::process::Command;

use pontoon::{
    control::servers::data_user::{make, new_data_user},
    model::{data_user::DataUser, ids::HostPort},
    redis::{Client, RedisError, Reply},
};

use kinds::Kind;
use server::Redis;
use wait::soon;

/// A server with a data user, and a connection as each of its users.
struct Served {
    redis: Redis,
    user: DataUser,
    control: Client,
    data: Client,
}

impl Served {
    async fn start(kind: Kind, options: &[&str]) -> Self {
        // Otherwise newer servers refuse these commands to everybody, whatever their rights.
        let allow = ["--enable-debug-command", "yes", "--enable-module-command", "yes"];
        let allow = if kind == Kind::Redis6 { &[][..] } else { &allow };
        let options = [allow, options].concat();
        let redis = Redis::start_program(|| Command::new(kind.program()), &options, None).await;
        let addr = redis.addr.clone();
        Self::at(redis, &addr).await
    }

    /// Makes the data user at a server that is reached at this address.
    async fn at(redis: Redis, addr: &HostPort) -> Self {
        let user = new_data_user(None);
        let mut control = Client::connect(addr, None, "test", soon()).await.unwrap();
        assert!(make(&mut control, None, &user, soon()).await.unwrap(), "it has to be made");
        // A Redis 6 that has just started describes users in other orders each time.
        for _ in 0..10 {
            assert!(!make(&mut control, None, &user, soon()).await.unwrap(), "it is made already");
        }
        let data = Client::connect(addr, Some(&user.credentials), "test", soon()).await.unwrap();
        Self { redis, user, control, data }
    }
}

/// Whether the user of the connection may run a command; if not, it is not executed.
async fn may_run(client: &mut Client, words: &[&str]) -> bool {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    match client.ask(&words, soon()).await {
        Err(RedisError::NotAllowed { .. }) => false,
        // Since a transaction ends with EXEC in any case.
        Err(RedisError::Refused { text, .. }) if text.starts_with("EXECABORT") && text.contains("NOPERM ") => false,
        Ok(_) => true,
        Err(error) if error.answered() => true,
        Err(error) => panic!("{words:?}: {error}"),
    }
}

/// Runs a command from a script, and returns what the script got.
async fn in_script(client: &mut Client, words: &[&str]) -> Reply {
    let script = b"return redis.pcall(unpack(ARGV))".as_slice();
    let words = words.iter().map(|word| word.as_bytes());
    let call: Vec<&[u8]> = [b"EVAL".as_slice(), script, b"1", b"mine"].into_iter().chain(words).collect();
    client.pipeline(&[&call], soon()).await.unwrap().pop().unwrap()
}
