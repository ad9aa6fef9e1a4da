//! control::fence against a real server: which connections it closes, and when it refuses to act.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    server::{Redis, password},
    wait::soon,
};
use pontoon::{
    control::servers::fence::{ConfirmLeadership, ControlTarget, Fence, FenceError},
    model::ids::{NodeId, Term, Uuid},
    redis::{Client, Reply},
};

const CLUSTER: Uuid = Uuid(0xc1);

/// A node that leads in this term; 0: it does not lead.
struct Leads(AtomicU64);

impl ConfirmLeadership for Leads {
    fn confirm(&self) -> Pin<Box<dyn Future<Output = Result<Term, String>> + Send + '_>> {
        Box::pin(async {
            match self.0.load(Ordering::Relaxed) {
                0 => Err("another node leads".into()),
                term => Ok(Term(term)),
            }
        })
    }
}

fn fence(node: u64, term: u64) -> Fence {
    Fence::new(CLUSTER, NodeId(node), Term(term), Arc::new(Leads(term.into())))
}

fn at(redis: &Redis) -> ControlTarget {
    ControlTarget { addr: redis.addr.clone(), credentials: None }
}

async fn named(redis: &Redis, name: &str) -> (Client, u64) {
    let mut client = Client::connect(&redis.addr, None, name, soon()).await.unwrap();
    let id = client.ask(&[b"CLIENT", b"ID"], soon()).await.unwrap().integer().unwrap();
    (client, u64::try_from(id).unwrap())
}

async fn lives(client: &mut Client) -> bool {
    client.ask(&[b"PING"], soon()).await.is_ok()
}

#[tokio::test]
async fn only_the_connections_of_the_run_are_closed_by_id_and_by_name() {
    let redis = Redis::start(&[]).await;
    let run = format!("pt:{CLUSTER}:run:m7.");
    let (mut known, id) = named(&redis, &format!("{run}1")).await;
    let (mut unknown, _) = named(&redis, &format!("{run}2")).await;
    let (mut other_job, _) = named(&redis, &format!("pt:{CLUSTER}:run:m71.1")).await;
    let (mut other_cluster, _) = named(&redis, &format!("pt:{}:run:m7.1", Uuid(0xc2))).await;
    let (mut client, _) = named(&redis, "app").await;
    // A request that was sent and not read yet may be executed before the answer, never after it.
    let fence = fence(1, 3);
    let closed = fence.close(&at(&redis), &run, &[id], soon()).await.unwrap();
    assert_eq!(closed.killed, 2);
    assert!(!lives(&mut known).await && !lives(&mut unknown).await);
    assert!(lives(&mut other_job).await && lives(&mut other_cluster).await && lives(&mut client).await);
    // A repeat succeeds, also with ids of connections that are gone.
    assert_eq!(fence.close(&at(&redis), &run, &[id], soon()).await.unwrap().killed, 0);
}

#[tokio::test]
async fn nothing_that_a_closed_connection_sent_is_executed_after_the_answer() {
    let redis = Redis::start(&[]).await;
    let name = format!("pt:{CLUSTER}:run:m1.1");
    let fence = fence(1, 1);
    let mut looking = redis.client().await;
    for round in 0..50 {
        let (mut writer, id) = named(&redis, &name).await;
        let writing = tokio::spawn(async move {
            let one: &[&[u8]] = &[b"INCR", b"count"];
            while writer.pipeline(&vec![one; 200], soon()).await.is_ok() {}
        });
        let known = if round % 2 == 0 { vec![id] } else { vec![] };
        fence.close(&at(&redis), &name, &known, soon()).await.unwrap();
        let count = looking.ask(&[b"GET", b"count"], soon()).await.unwrap();
        writing.await.unwrap();
        assert_eq!(looking.ask(&[b"GET", b"count"], soon()).await.unwrap(), count, "round {round}");
    }
    assert_ne!(redis.run("GET count").await, Reply::Null, "the writers wrote nothing, so nothing was shown");
}

#[tokio::test]
async fn only_a_newer_leader_closes_the_connections_of_another_leader() {
    let redis = Redis::start(&[]).await;
    let (old, new) = (fence(1, 3), fence(2, 4));
    old.warm(&at(&redis), soon()).await.unwrap();
    let (mut stray, _) = named(&redis, &format!("pt:{CLUSTER}:ctl:3:2")).await;
    let (mut stranger, _) = named(&redis, &format!("pt:{}:ctl:3:2", Uuid(0xc2))).await;
    new.warm(&at(&redis), soon()).await.unwrap();
    assert!(!lives(&mut stray).await && lives(&mut stranger).await);
    // The connection of the old leader was killed. The old leader believes that it leads, and a later leader has a connection.
    assert!(matches!(old.warm(&at(&redis), soon()).await, Err(FenceError::Server(_))));
    assert!(matches!(old.warm(&at(&redis), soon()).await, Err(FenceError::NotLeader { .. })));
    new.warm(&at(&redis), soon()).await.unwrap();
}

#[tokio::test]
async fn a_node_that_does_not_lead_does_not_act() {
    let redis = Redis::start(&[]).await;
    let name = format!("pt:{CLUSTER}:run:m1.1");
    let (mut run, _) = named(&redis, &name).await;
    let leads = Arc::new(Leads(5.into()));
    let fence = Fence::new(CLUSTER, NodeId(1), Term(4), leads.clone());
    for term in [5, 0] {
        leads.0.store(term, Ordering::Relaxed);
        let refused = fence.close(&at(&redis), &name, &[], soon()).await;
        assert!(matches!(refused, Err(FenceError::NotLeader { .. })), "{refused:?}");
        assert!(lives(&mut run).await);
    }
    leads.0.store(4, Ordering::Relaxed);
    assert_eq!(fence.close(&at(&redis), &name, &[], soon()).await.unwrap().killed, 1);
}

#[tokio::test]
async fn a_server_that_denies_a_command_is_named() {
    let redis = Redis::start(&["--user", "poor", "on", ">pw", "~*", "+@all", "-client"]).await;
    let mut poor = password("pw");
    poor.username = Some("poor".into());
    let at = ControlTarget { addr: redis.addr.clone(), credentials: Some(poor) };
    let why = fence(1, 1).warm(&at, soon()).await.unwrap_err().to_string();
    assert!(why.contains("does not allow this user") && why.contains("client"), "{why}");
}
