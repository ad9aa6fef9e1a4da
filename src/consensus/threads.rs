//! The threads of the storage engine, whose panics nobody else would notice: the log would stand still.
//! Knows nothing of what follows from a panic.

use std::{panic, thread, time::Duration};

use crate::{faults, panics};

/// How sled names its threads.
const NAMES: [&str; 2] = ["sled-io-", "log flusher"];
/// Time between two checks of whether a test asks such a thread to panic.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Reports the panics of these threads from now on, after the panic's usual message: the thread's name and the text.
pub fn on_panic(report: impl Fn(&str, &str) + Send + Sync + 'static) {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        before(info);
        let thread = thread::current();
        if let Some(name) = thread.name().filter(|name| NAMES.iter().any(|own| name.starts_with(own))) {
            report(name, panics::text(info.payload()));
        }
    }));
    if faults::enabled() {
        let fault = || loop {
            faults::panic_if_asked("storage");
            thread::sleep(POLL_INTERVAL);
        };
        // Its name is that of sled's. An error: the test that asks for the panic fails.
        let _ = thread::Builder::new().name(format!("{}test", NAMES[0])).spawn(fault);
    }
}
