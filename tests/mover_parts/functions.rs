//! mover::functions between two servers.

use crate::{server::Redis, wait::soon};
use pontoon::{mover::copy::functions, redis::Reply};

async fn libraries(redis: &Redis) -> functions::Libraries {
    let reply = redis.client().await.ask(functions::LIST, soon()).await.unwrap();
    functions::Libraries::of(redis.addr.as_str(), &reply).unwrap()
}

fn library(name: &str, function: &str, result: u32) -> Vec<u8> {
    format!("#!lua name={name}\nredis.register_function('{function}', function(k, a) return {result} end)").into_bytes()
}

async fn load(redis: &Redis, code: &[u8]) {
    redis.client().await.ask(&functions::load(code), soon()).await.unwrap();
}

#[tokio::test]
async fn missing_libraries_are_loaded_and_none_is_replaced() {
    let (source, target) = tokio::join!(Redis::start(&[]), Redis::start(&[]));
    assert_eq!(libraries(&source).await.lacking(&libraries(&target).await), Ok(vec![]));
    load(&source, &library("one", "f1", 11)).await;
    load(&source, &library("two", "f2", 22)).await;
    load(&target, &library("two", "f2", 22)).await;
    load(&target, &library("theirs", "g", 33)).await;
    let lacking = libraries(&source).await.lacking(&libraries(&target).await).unwrap();
    assert_eq!(lacking, [library("one", "f1", 11)]);
    load(&target, &lacking[0]).await;
    assert_eq!(target.run("FCALL f1 0").await, Reply::Integer(11));
    assert_eq!(target.run("FCALL g 0").await, Reply::Integer(33));
    assert_eq!(libraries(&source).await.lacking(&libraries(&target).await), Ok(vec![]));
    // Another library with the same name, or with the same function: it belongs to another application.
    target.run("FUNCTION DELETE one").await;
    load(&target, &library("one", "f1", 12)).await;
    let error = libraries(&source).await.lacking(&libraries(&target).await).unwrap_err();
    assert!(error.contains("differ between source and target: one;"), "{error}");
    target.run("FUNCTION DELETE one").await;
    load(&target, &library("other", "f1", 11)).await;
    let error = libraries(&source).await.lacking(&libraries(&target).await).unwrap_err();
    assert!(error.contains("one (its f1 is in other there)"), "{error}");
}

#[tokio::test]
async fn a_server_without_functions() {
    let source = Redis::start(&[]).await;
    let renamed = Redis::start(&["--rename-command", "FUNCTION", ""]).await;
    let reply = renamed.client().await.pipeline(&[functions::LIST], soon()).await.unwrap().remove(0);
    let none = functions::Libraries::of("old:1", &reply).unwrap();
    assert_eq!(libraries(&source).await.lacking(&none), Ok(vec![]));
    load(&source, &library("one", "f1", 11)).await;
    let error = libraries(&source).await.lacking(&none).unwrap_err();
    assert!(error.contains("libraries of functions (one)") && error.contains("upgrade the target"), "{error}");
    assert_eq!(none.lacking(&libraries(&source).await), Ok(vec![]));
    let refused = Reply::Error("NOPERM this user has no permissions to run the 'function|list' command".into());
    assert!(functions::Libraries::of("a:1", &refused).unwrap_err().contains("+function"));
}
