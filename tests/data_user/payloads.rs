//! What the data user may restore: servers check the payloads of clients, and trust those of the control user, who copies keys.

use pontoon::{mover::payload, redis::RedisError};

use super::{Served, kinds::Kind, wait::soon};

/// The payload of a set of integers in the wrong order, which no server makes. It harms none: the checks that every payload
/// passes accept it, and those of untrusted ones do not.
fn unsorted_set() -> Vec<u8> {
    const SET_OF_INTEGERS: u8 = 11;
    const OLDEST_VERSION: u16 = 9;
    let numbers = [7_i16, 5].map(i16::to_le_bytes).concat();
    let set = [2_u32.to_le_bytes(), 2_u32.to_le_bytes()].concat();
    let mut out = vec![SET_OF_INTEGERS, u8::try_from(set.len() + numbers.len()).unwrap()];
    out.extend([set, numbers].concat());
    out.extend(OLDEST_VERSION.to_le_bytes());
    let sum = payload::crc64(&out);
    out.extend(sum.to_le_bytes());
    out
}

#[tokio::test]
async fn servers_check_what_clients_restore_and_not_what_movers_do() {
    let bad = unsorted_set();
    for kind in Kind::ALL {
        let Served { mut control, mut data, redis, .. } = Served::start(kind, &[]).await;
        let restore = |key| [b"RESTORE".as_slice(), key, b"0", &bad];
        // The same from a script.
        let script = b"return redis.call('RESTORE', KEYS[1], 0, ARGV[1])".as_slice();
        for command in [&restore(b"clients")[..], &[b"EVAL", script, b"1", b"clients", &bad]] {
            let error = data.ask(command, soon()).await.unwrap_err();
            let RedisError::Refused { text, .. } = &error else { panic!("{kind:?}: {error}") };
            assert!(text.contains("Bad data format"), "{kind:?}: {text}");
        }
        control.ask(&restore(b"movers"), soon()).await.unwrap();
        // A good one.
        redis.run("SADD set 5 7").await;
        let pontoon::redis::Reply::Bulk(good) = data.ask(&[b"DUMP", b"set"], soon()).await.unwrap() else { panic!() };
        data.ask(&[b"RESTORE", b"copy", b"0", &good], soon()).await.unwrap();
    }
}

#[tokio::test]
async fn what_the_operator_has_set_is_kept() {
    use pontoon::control::servers::data_user::make;
    for kind in Kind::ALL {
        // `yes` is stricter.
        let Served { redis, .. } = Served::start(kind, &["--sanitize-dump-payload", "yes"]).await;
        let mut control = redis.client().await;
        assert_eq!(control.config("sanitize-dump-payload", soon()).await.unwrap().as_deref(), Some("yes"), "{kind:?}");

        // With `clients`, the control user still has to be trusted.
        let Served { user, redis, .. } = Served::start(kind, &["--sanitize-dump-payload", "clients"]).await;
        let mut control = redis.client().await;
        let trusted = async |client: &mut pontoon::redis::Client| {
            let bad = unsorted_set();
            client.ask(&[b"RESTORE", b"movers", b"0", &bad, b"REPLACE"], soon()).await.is_ok()
        };
        assert!(trusted(&mut control).await, "{kind:?}");
        // It is trusted again when another tool has changed it.
        redis.run("ACL SETUSER default sanitize-payload").await;
        assert!(!trusted(&mut control).await, "{kind:?}");
        assert!(make(&mut control, None, &user, soon()).await.unwrap(), "{kind:?}");
        assert!(trusted(&mut control).await, "{kind:?}");
        assert!(!make(&mut control, None, &user, soon()).await.unwrap(), "{kind:?}");
    }
}
