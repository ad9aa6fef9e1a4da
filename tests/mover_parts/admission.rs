//! control::admission::migration against real servers.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    server::{Redis, password},
    servers,
    wait::soon,
};
use pontoon::{
    control::admission::migration::{MigrationRequest, admit},
    model::{
        ids::{Epoch, GroupId, HostPort, ProductId, SlotId},
        migration::MigrationOptions,
        route::{Isolated, Mode},
        secret::Credentials,
        slot::Layout,
        state::{Group, GroupOptions, Product, Server, SlotState},
    },
};

const FROM: GroupId = GroupId(1);
const TO: GroupId = GroupId(2);

struct World {
    product: Product,
    slots: BTreeSet<SlotId>,
    options: MigrationOptions,
}

fn group(id: GroupId, servers: &[&HostPort], credentials: Option<Credentials>) -> Group {
    let server = |addr: &&HostPort| Server::new((*addr).clone(), String::new(), 0);
    Group {
        id,
        servers: servers.iter().map(server).collect(),
        credentials,
        former: None,
        data_user: None,
        epoch: Epoch(1),
        given_away: BTreeSet::new(),
        sweep: None,
        options: GroupOptions::default(),
        replid: String::new(),
        run_id: String::new(),
        restarted_with: None,
        required_offset: None,
        ejection: None,
    }
}

impl World {
    /// The source owns all slots; half of them are to move.
    fn new(source: &[&HostPort], target: &[&HostPort]) -> Self {
        let groups = BTreeMap::from([(FROM, group(FROM, source, None)), (TO, group(TO, target, None))]);
        let owned = SlotState { owner: Some(FROM), epoch: Epoch(1) };
        let product = Product {
            id: ProductId(1),
            name: "p".into(),
            port: 7000,
            layout: Layout::Codis,
            mode: Mode::Store,
            isolated: Isolated::Refuse,
            databases: 16,
            auth: Default::default(),
            groups,
            auto_rebalance: false,
            min_acks: 0,
            min_acks_ms: 1000,
            clients_max: 0,
            rules: Default::default(),
            reads: Default::default(),
            scripts: Default::default(),
            sweep_runs: 0,
            scans: Default::default(),
            slots: vec![owned; 1024],
        };
        Self { product, slots: (0..512).map(SlotId).collect(), options: MigrationOptions::default() }
    }

    async fn admit(&self) -> Result<Vec<String>, String> {
        self.admit_from_to(FROM, TO).await
    }

    async fn admit_from_to(&self, from: GroupId, to: GroupId) -> Result<Vec<String>, String> {
        let wanted = MigrationRequest { product: &self.product, from, to, slots: &self.slots, options: self.options };
        admit(wanted, soon()).await
    }

    #[track_caller]
    fn has(result: Result<Vec<String>, String>, words: &[&str]) {
        let text = result.expect_err(words[0]);
        for word in words {
            assert!(text.contains(word), "{text}\n does not have: {word}");
        }
    }
}

/// A key of a slot below 512 and one of a slot above.
fn keys() -> (String, String) {
    let find = |low: bool| (0..).map(|i| format!("k{i}")).find(|k| (Layout::Codis.slot(k.as_bytes()).0 < 512) == low);
    (find(true).unwrap(), find(false).unwrap())
}

#[tokio::test]
async fn what_needs_no_server() {
    let nobody = HostPort::parse("127.0.0.1:1").unwrap();
    let mut world = World::new(&[&nobody], &[&nobody]);
    World::has(world.admit_from_to(FROM, FROM).await, &["name another target"]);
    World::has(world.admit_from_to(FROM, GroupId(9)).await, &["has no group 9", "group ls"]);
    world.slots = BTreeSet::new();
    World::has(world.admit().await, &["no slots"]);
    world.slots = BTreeSet::from([SlotId(1024)]);
    World::has(world.admit().await, &["slots 0 to 1023"]);
    world.slots = (3..9).map(SlotId).collect();
    world.product.slots[4].owner = Some(TO);
    world.product.slots[5].owner = None;
    World::has(world.admit().await, &["slots 4-5 do not belong to group 1"]);
    world.slots = BTreeSet::from([SlotId(3)]);
    World::has(world.admit().await, &["cannot be reached", "group 1"]);
}

#[tokio::test]
async fn unexpected_keys_are_named() {
    let (source, target) = tokio::join!(Redis::start(&[]), Redis::start(&[]));
    let mut world = World::new(&[&source.addr], &[&target.addr]);
    let warnings = world.admit().await.unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains("forks once"), "{warnings:?}");
    let (inside, outside) = keys();
    target.run(&format!("SET {outside} 1")).await;
    world.admit().await.unwrap();
    let mut client = target.client().await;
    client.select(7, soon()).await.unwrap();
    client.ask(&[b"SET", inside.as_bytes(), b"1"], soon()).await.unwrap();
    let slot = Layout::Codis.slot(inside.as_bytes());
    let named = format!("'{inside}' (slot {slot}, database 7)");
    World::has(
        world.admit().await,
        &[&named, "group 2 never owned", "pontoon migrate start", " --to 2 ", "--wipe", target.addr.as_str()],
    );
    world.options.wipe = true;
    world.admit().await.unwrap();
    world.options.wipe = false;
    world.product.groups.get_mut(&TO).unwrap().given_away.insert(slot);
    world.admit().await.unwrap();
}

#[tokio::test]
async fn roles_rights_and_credentials() {
    let (source, target) = tokio::join!(Redis::start(&[]), Redis::start(&[]));
    let replica = target.replica().await;
    World::has(World::new(&[&source.addr], &[&replica.addr]).admit().await, &["read-only", replica.addr.as_str()]);
    World::has(World::new(&[&source.addr], &[&source.as_localhost()]).admit().await, &["one and the same server"]);
    let mut world = World::new(&[&source.addr], &[&target.addr]);
    let mut with = async |id: GroupId, redis: &Redis, rules: &str| {
        redis.run(&format!("ACL SETUSER u reset on >p ~* &* +@all {rules}")).await;
        let credentials = Credentials { username: Some("u".into()), ..password("p") };
        world.product.groups.get_mut(&id).unwrap().credentials = Some(credentials);
        let result = world.admit().await;
        world.product.groups.get_mut(&id).unwrap().credentials = None;
        result
    };
    World::has(with(TO, &target, "-client|kill").await, &["target, group 2", "+client|kill", target.addr.as_str()]);
    World::has(with(FROM, &source, "-client|list").await, &["source, group 1", "+client|list"]);
    World::has(with(TO, &target, "-restore").await, &["+restore"]);
    World::has(with(FROM, &source, "-unlink").await, &["+unlink", "cleaned after the switch"]);
    World::has(with(FROM, &source, "-dump").await, &["+dump"]);
    let no_feed = with(FROM, &source, "-psync -client|tracking").await;
    World::has(no_feed, &["no way to learn which keys change", "+psync", "give group 1 a replica"]);
    let warnings = with(FROM, &source, "-psync").await.unwrap();
    assert!(warnings.iter().any(|text| text.contains("CLIENT TRACKING")), "{warnings:?}");
    World::has(with(TO, &target, ">other <p").await, &["refuses the password"]);
    world.product.groups.get_mut(&TO).unwrap().credentials = Some(password("guess"));
    World::has(world.admit().await, &["group 2", "password"]);
}

#[tokio::test]
async fn clocks_that_differ_cause_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let shifted = Redis::start_program(|| servers::with_shifted_clock(40, dir.path()), &[], None);
    let (source, target) = tokio::join!(Redis::start(&[]), shifted);
    for (from, to, words) in [(&source, &target, "ahead of"), (&target, &source, "behind")] {
        let warnings = World::new(&[&from.addr], &[&to.addr]).admit().await.unwrap();
        let clocks: Vec<_> = warnings.iter().filter(|text| text.contains("the clock of")).collect();
        assert!(clocks.len() == 1 && clocks[0].contains(words) && clocks[0].contains(to.addr.as_str()), "{warnings:?}");
    }
}

#[tokio::test]
async fn the_target_needs_room() {
    let (source, target) = tokio::join!(Redis::start(&[]), Redis::start(&["--maxmemory", "60mb"]));
    let mut client = source.client().await;
    let value = vec![b'x'; 10_000];
    for i in 0..8000 {
        client.ask(&[b"SET", format!("key:{i}").as_bytes(), &value], soon()).await.unwrap();
    }
    // 80 MB; half of the slots are 40 MB, 48 with the margin and 64 with room for buffers.
    let mut world = World::new(&[&source.addr], &[&target.addr]);
    World::has(world.admit().await, &["of its maxmemory left", "the source's 8000 keys", "raise maxmemory"]);
    world.slots = (0..128).map(SlotId).collect();
    let warnings = world.admit().await.unwrap();
    assert!(!warnings.iter().any(|text| text.contains("maxmemory-policy")), "{warnings:?}");
    target.run("CONFIG SET maxmemory-policy allkeys-lru").await;
    let warnings = world.admit().await.unwrap();
    assert!(warnings.iter().any(|text| text.contains("maxmemory-policy allkeys-lru")), "{warnings:?}");
    // Keys of other slots need no memory, however many there are.
    target.run("CONFIG SET maxmemory 20mb").await;
    source.run("FLUSHALL").await;
    for i in 0..3000 {
        let key = format!("{{{}}}{i}", keys().1);
        client.ask(&[b"SET", key.as_bytes(), &value], soon()).await.unwrap();
    }
    world.admit().await.unwrap();
    target.run("CONFIG SET maxmemory 1mb").await;
    World::has(world.admit().await, &["out of memory", "raise its maxmemory"]);
}

#[tokio::test]
async fn a_replica_feeds_where_there_is_a_healthy_one() {
    let (source, target) = tokio::join!(Redis::start(&[]), Redis::start(&[]));
    let replica = source.replica().await;
    source.run("CONFIG SET min-replicas-to-write 1").await;
    source.until_info("min_slaves_good_slaves", "1").await;
    let world = World::new(&[&source.addr, &replica.addr], &[&target.addr]);
    assert_eq!(world.admit().await, Ok(vec![]));
    // Without a replica the primary must provide the feed, and then it counts the feed as a replica.
    let alone = World::new(&[&source.addr], &[&target.addr]).admit().await.unwrap();
    assert!(alone.iter().any(|text| text.contains("min-replicas-to-write 1")), "{alone:?}");
    let unrelated = Redis::start(&[]).await;
    let warnings = World::new(&[&source.addr, &unrelated.addr], &[&target.addr]).admit().await.unwrap();
    assert!(warnings.iter().any(|text| text.contains("is not a replica now")), "{warnings:?}");
    source.run("CONFIG SET min-replicas-to-write 3").await;
    let warnings = world.admit().await.unwrap();
    assert!(warnings.iter().any(|text| text.contains("not cleaned after the switch")), "{warnings:?}");
    target.run("CONFIG SET min-replicas-to-write 3").await;
    World::has(world.admit().await, &["fewer replicas than its min-replicas-to-write"]);
}
