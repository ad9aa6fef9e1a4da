//! redis::capabilities and redis::rights against real servers and users with few rights.

use std::process::Command;

use pontoon::{
    model::secret::{Credentials, Secret},
    redis::{
        Role,
        capabilities::{Psync, capabilities, feeds},
        rights::missing,
    },
};

use crate::{kinds::Kind, server::Redis, wait::soon};

async fn user(redis: &Redis, rules: &str) -> Credentials {
    redis.run(&format!("ACL SETUSER u reset on >p {rules}")).await;
    Credentials { username: Some("u".into()), password: Secret::new("p".into()) }
}

#[tokio::test]
async fn a_server_that_allows_everything() {
    let redis = Redis::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]).await;
    redis.run("MSET a 1 b 2").await;
    let capabilities = capabilities(&redis.addr, None, soon()).await.unwrap();
    assert!(matches!(capabilities.role, Role::Primary { .. }) && !capabilities.loading);
    assert_eq!((capabilities.run_id.len(), capabilities.replid.len(), capabilities.keyspace[&0]), (40, 40, 2));
    assert_eq!((capabilities.policy.as_deref(), capabilities.min_replicas_to_write), (Some("allkeys-lru"), Some(0)));
    assert_eq!(capabilities.memory.max, 100 << 20);
    assert!(
        capabilities.memory.used > capabilities.memory.dataset
            && capabilities.memory.dataset > 0
            && capabilities.memory.system > 0
    );
    assert_eq!(capabilities.memory.free(), Some(capabilities.memory.max - capabilities.memory.used));
    for allowed in [
        &capabilities.client_name,
        &capabilities.client_list,
        &capabilities.client_kill,
        &capabilities.reads,
        &capabilities.restore,
        &capabilities.unlink,
        &capabilities.memory_usage,
        &capabilities.functions,
    ] {
        assert_eq!(*allowed, Ok(()));
    }
    // Nothing was changed.
    assert_eq!(redis.run("DBSIZE").await.integer(), Some(2));
}

/// What is tried has no effect, at servers of every kind: above all, it closes no connection.
#[tokio::test]
async fn trying_commands_does_nothing() {
    for kind in Kind::ALL {
        let redis = Redis::start_program(|| Command::new(kind.program()), &[], None).await;
        let mut other = redis.client().await;
        other.ask(&[b"SET", b"a", b"1"], soon()).await.unwrap();
        let mut client = redis.client().await;
        assert_eq!(missing(&mut client, soon()).await.unwrap(), [""; 0], "{kind:?}");
        let got = capabilities(&redis.addr, None, soon()).await.unwrap();
        for allowed in [
            &got.client_name,
            &got.client_list,
            &got.client_kill,
            &got.reads,
            &got.restore,
            &got.unlink,
            &got.memory_usage,
        ] {
            assert_eq!(*allowed, Ok(()), "{kind:?}");
        }
        let older = kind == Kind::Redis6;
        assert_eq!(got.functions.is_err(), older, "{kind:?}: {:?}", got.functions);
        let feeds = feeds(&redis.addr, None, soon()).await.unwrap();
        assert_eq!((feeds.psync.is_err(), feeds.tracking), (older, Ok(())), "{kind:?}: {:?}", feeds.psync);
        // It is still open.
        assert_eq!(other.dbsize(soon()).await.unwrap(), 1, "{kind:?}");
        assert!(matches!(client.role(soon()).await.unwrap(), Role::Primary { .. }), "{kind:?}");
    }
}

#[tokio::test]
async fn feeds_are_tried_without_a_fork() {
    let primary = Redis::start(&[]).await;
    let alone = feeds(&primary.addr, None, soon()).await.unwrap();
    assert_eq!((alone.psync, alone.tracking), (Ok(Psync::Prime), Ok(())));
    let full = async |redis: &Redis| {
        let info = redis.client().await.info("stats", soon()).await.unwrap();
        info.get("sync_full").map(str::to_owned)
    };
    assert_eq!(full(&primary).await.as_deref(), Some("0"));
    let replica = primary.replica().await;
    assert_eq!(full(&primary).await.as_deref(), Some("1"));
    for redis in [&primary, &replica] {
        assert_eq!(feeds(&redis.addr, None, soon()).await.unwrap().psync, Ok(Psync::Continue));
    }
    assert_eq!(full(&primary).await.as_deref(), Some("1"));
    assert_eq!(full(&replica).await.as_deref(), Some("0"));
    // A replica without its primary is not readable and reports why.
    drop(primary);
    replica.until_info("master_link_status", "down").await;
    let orphan = feeds(&replica.addr, None, soon()).await.unwrap();
    assert!(orphan.psync.unwrap_err().contains("link to its primary is down"));
}

#[tokio::test]
async fn refusals_have_reasons() {
    let redis = Redis::start(&["--rename-command", "MEMORY", ""]).await;
    let few = user(&redis, "~app:* &* +@all -psync -client|kill -client|list -function -dump -restore -unlink").await;
    let got = capabilities(&redis.addr, Some(&few), soon()).await.unwrap();
    for (allowed, words) in [
        (&got.client_list, "+client|list"),
        (&got.client_kill, "+client|kill"),
        (&got.reads, "+dump"),
        (&got.restore, "+restore"),
        (&got.unlink, "+unlink"),
        (&got.functions, "+function|list"),
        (&got.memory_usage, "unknown command"),
    ] {
        let why = allowed.clone().unwrap_err();
        assert!(why.contains(words) && why.contains(redis.addr.as_str()), "{why} does not have {words}");
    }
    assert_eq!(got.client_name, Ok(()));
    let refused = feeds(&redis.addr, Some(&few), soon()).await.unwrap();
    assert!(refused.any() && refused.psync.unwrap_err().contains("+psync"));
    // Without PEXPIRETIME, PTTL does.
    for (rules, words) in
        [("-pexpiretime", None), ("-pexpiretime -pttl", Some("+pttl")), ("-pttl", None), ("-time", Some("+time"))]
    {
        let user = user(&redis, &format!("~* &* +@all {rules}")).await;
        let why = capabilities(&redis.addr, Some(&user), soon()).await.unwrap().reads.err();
        assert_eq!(why.is_some(), words.is_some(), "{rules}: {why:?}");
        assert!(words.is_none_or(|words| why.unwrap().contains(words)));
    }
    // A user that may access only some keys may still run the commands.
    let some = user(&redis, "~app:* &* +@all").await;
    let got = capabilities(&redis.addr, Some(&some), soon()).await.unwrap();
    assert_eq!((got.reads, got.restore, got.unlink), (Ok(()), Ok(()), Ok(())));
    // No feed is allowed.
    let none = user(&redis, "~* resetchannels +@all -client|tracking").await;
    let refused = feeds(&redis.addr, Some(&none), soon()).await.unwrap();
    assert!(
        !refused.any() && refused.why_none().contains("&pt:*") && refused.why_none().contains("TRACKING"),
        "{refused:?}"
    );
    // Why a server refuses writes.
    redis.run("CONFIG SET min-replicas-to-write 2").await;
    let got = capabilities(&redis.addr, None, soon()).await.unwrap();
    assert!(got.min_replicas_to_write == Some(2) && got.restore.unwrap_err().contains("NOREPLICAS"));
    let replica = redis.replica().await;
    assert!(capabilities(&replica.addr, None, soon()).await.unwrap().restore.unwrap_err().contains("READONLY"));
    let wrong = Credentials { username: Some("u".into()), password: Secret::new("wrong".into()) };
    assert!(
        capabilities(&redis.addr, Some(&wrong), soon()).await.unwrap_err().to_string().contains("refuses the password")
    );
}
