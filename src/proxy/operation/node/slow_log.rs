//! SLOWLOG of the product at this node. Knows nothing of how times are taken.

use super::{super::Operation, finish_number, finish_ok, product, workers, wrong_arguments};
use crate::{
    commands::Args,
    resp::{number, write},
};

/// Requests that GET shows, if the call does not say how many; the same as in Redis.
const SHOWN: usize = 10;

/// Runs SLOWLOG GET.
pub(super) async fn get(operation: Operation) {
    let max = {
        let call = operation.call();
        match call.len() {
            2 => Ok(SHOWN),
            3 => match number::parse(call.get(2)) {
                Some(-1) => Ok(usize::MAX),
                Some(count) if count >= 0 => Ok(usize::try_from(count).unwrap_or(usize::MAX)),
                _ => Err("ERR count should be greater than or equal to -1".into()),
            },
            _ => Err(wrong_arguments(&operation)),
        }
    };
    let max = match max {
        Ok(max) => max,
        Err(text) => return operation.refuse(&text),
    };
    let product = product(&operation);
    let mut entries = match workers(&operation).ask_all(move |worker| worker.slow_requests(product, max)).await {
        Ok(lists) => lists.concat(),
        Err(unanswered) => return operation.refuse(&format!("ERR {unanswered}")),
    };
    entries.sort_by_key(|entry| std::cmp::Reverse((entry.at, entry.id)));
    entries.truncate(max.min(operation.session.product.own_settings.slow_log_len()));
    let mut reply = Vec::new();
    write::array(&mut reply, entries.len());
    for entry in entries {
        write::array(&mut reply, 6);
        write::int(&mut reply, i64::try_from(entry.id).unwrap_or(i64::MAX));
        write::int(&mut reply, i64::try_from(entry.unix_seconds()).unwrap_or(i64::MAX));
        write::int(&mut reply, i64::try_from(entry.took.as_micros()).unwrap_or(i64::MAX));
        write::array(&mut reply, entry.args.len());
        for arg in &entry.args {
            write::bulk(&mut reply, arg);
        }
        write::bulk(&mut reply, entry.client.to_string().as_bytes());
        write::bulk(&mut reply, entry.name.as_bytes());
    }
    operation.finish(&reply);
}

/// Runs SLOWLOG LEN.
pub(super) async fn len(operation: Operation) {
    let product = product(&operation);
    match workers(&operation).ask_all(move |worker| worker.slow_log_len(product)).await {
        Ok(lens) => {
            // Each worker keeps as many, so that the newest ones of all are among them.
            let max = operation.session.product.own_settings.slow_log_len();
            finish_number(operation, lens.iter().sum::<usize>().min(max));
        }
        Err(unanswered) => operation.refuse(&format!("ERR {unanswered}")),
    }
}

/// Runs SLOWLOG RESET.
pub(super) async fn reset(operation: Operation) {
    let product = product(&operation);
    let done = workers(&operation).ask_all(move |worker| worker.clear_slow_log(product)).await;
    finish_ok(operation, done.map(|_| ()));
}
