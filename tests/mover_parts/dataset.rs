//! Random keys of every type, as commands that can be sent to more than one server.
//! Knows nothing of the tests.

use fastrand::Rng;
use pontoon::redis::Client;

use crate::{server::Redis, wait::soon};

pub type Command = Vec<Vec<u8>>;

pub fn words(text: &str) -> Command {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// Bytes of all kinds: numbers (which a server stores as integers), short, long and binary ones.
fn blob(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(0..5) {
        0 => rng.i64(-1000..1000).to_string().into_bytes(),
        1 => rng.i64(..).to_string().into_bytes(),
        2 => (0..rng.usize(0..40)).map(|_| rng.u8(..)).collect(),
        3 => vec![rng.u8(..); rng.usize(50..300)],
        _ => format!("value-{}", rng.u32(0..100_000)).into_bytes(),
    }
}

fn score(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(0..5) {
        0 => b"+inf".to_vec(),
        1 => b"-inf".to_vec(),
        2 => rng.i32(-5..5).to_string().into_bytes(),
        _ => ((rng.f64() - 0.5) * 10f64.powi(rng.i32(-20..20))).to_string().into_bytes(),
    }
}

/// Commands that create `count` keys `key:<n>`. `shuffle` determines the order of the elements of hashes and sets,
/// `seed` everything else.
pub fn commands(seed: u64, count: usize, mut shuffle: Rng) -> Vec<Command> {
    let mut rng = Rng::with_seed(seed);
    let mut all = Vec::new();
    for i in 0..count {
        let key = format!("key:{i}").into_bytes();
        // Sometimes longer than a page of 512.
        let len = if rng.u8(0..20) == 0 { rng.usize(500..1600) } else { rng.usize(1..40) };
        let distinct = |j: usize, rng: &mut Rng| [blob(rng), format!("#{j}").into_bytes()].concat();
        match i % 7 {
            0 => {
                let big = rng.u8(0..10) == 0;
                let value = if big { vec![rng.u8(..); rng.usize(500_000..1_700_000)] } else { blob(&mut rng) };
                all.push(vec![b"SET".to_vec(), key.clone(), value]);
            }
            1 => {
                for _ in 0..len {
                    all.push(vec![b"RPUSH".to_vec(), key.clone(), blob(&mut rng)]);
                }
            }
            2 => {
                let mut members: Vec<_> = (0..len).map(|j| distinct(j, &mut rng)).collect();
                shuffle.shuffle(&mut members);
                all.extend(members.into_iter().map(|member| vec![b"SADD".to_vec(), key.clone(), member]));
            }
            3 => {
                // Only numbers: an intset where the configuration allows one.
                let mut members: Vec<_> = (0..len).map(|_| rng.i32(..).to_string().into_bytes()).collect();
                shuffle.shuffle(&mut members);
                all.extend(members.into_iter().map(|member| vec![b"SADD".to_vec(), key.clone(), member]));
            }
            4 => {
                let mut fields: Vec<_> = (0..len).map(|j| (distinct(j, &mut rng), blob(&mut rng))).collect();
                shuffle.shuffle(&mut fields);
                all.extend(fields.into_iter().map(|(f, v)| vec![b"HSET".to_vec(), key.clone(), f, v]));
            }
            5 => {
                let mut members: Vec<_> = (0..len).map(|j| (score(&mut rng), distinct(j, &mut rng))).collect();
                shuffle.shuffle(&mut members);
                all.extend(members.into_iter().map(|(s, m)| vec![b"ZADD".to_vec(), key.clone(), s, m]));
            }
            _ => {
                for j in 0..len {
                    let id = format!("{}-{}", j / 3 + 1, j % 3 + 1).into_bytes();
                    let mut add = vec![b"XADD".to_vec(), key.clone(), id];
                    for _ in 0..rng.usize(1..4) {
                        add.extend([blob(&mut rng), blob(&mut rng)]);
                    }
                    all.push(add);
                }
                let name = String::from_utf8(key.clone()).unwrap();
                all.push(words(&format!("XGROUP CREATE {name} g{i} 0")));
                all.push(words(&format!("XGROUP CREATE {name} empty 1-1")));
                all.push(words(&format!("XGROUP CREATECONSUMER {name} g{i} idle")));
                all.push(words(&format!("XREADGROUP GROUP g{i} alice COUNT {} STREAMS {name} >", len / 2 + 1)));
                all.push(words(&format!("XREADGROUP GROUP g{i} bob COUNT 2 STREAMS {name} >")));
                all.push(words(&format!("XACK {name} g{i} 1-1")));
                if len > 3 {
                    all.push(words(&format!("XDEL {name} 2-1")));
                }
            }
        }
        if rng.u8(0..3) == 0 {
            let at = (4_000_000_000_000 + rng.u64(0..10_000_000)).to_string().into_bytes();
            all.push(vec![b"PEXPIREAT".to_vec(), key, at]);
        }
    }
    all
}

/// Sends commands. Panics on an error.
pub async fn send(redis: &Redis, db: u32, commands: &[Command]) {
    let mut client: Client = redis.client().await;
    client.select(db, soon()).await.unwrap();
    for chunk in commands.chunks(500) {
        let slices: Vec<Vec<&[u8]>> = chunk.iter().map(|c| c.iter().map(Vec::as_slice).collect()).collect();
        let slices: Vec<&[&[u8]]> = slices.iter().map(Vec::as_slice).collect();
        for (command, reply) in chunk.iter().zip(client.pipeline(&slices, soon()).await.unwrap()) {
            let name = String::from_utf8_lossy(&command[0]);
            assert!(!matches!(reply, pontoon::redis::Reply::Error(_)), "{name}: {reply:?}");
        }
    }
}
