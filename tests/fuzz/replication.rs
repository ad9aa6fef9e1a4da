//! The replication stream of a source, from which a mover learns which keys changed.

use fastrand::Rng;
use pontoon::{
    commands::Args,
    mover::feed::{Event, stream::Stream},
};

use super::{
    fuzzer::{Target, fuzz},
    resp::{TOKENS, cuts},
};

#[test]
fn streams() {
    let report = fuzz(&Target::new("psync", TOKENS).input_max(600), check);
    assert!(report.shapes > 60, "{report:?}: the mutations reach little");
}

/// What a stream reports when it arrives in pieces that end at `cuts`: its events, and the error or the final position.
fn events(bytes: &[u8], cuts: &[usize]) -> (Vec<String>, Result<u64, String>) {
    let mut stream = Stream::new(1000);
    let mut events = Vec::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([bytes.len()]) {
        let mut each = |event: Event<'_>| {
            events.push(match event {
                Event::Changed { db, key, command } => {
                    format!("changed {db:?} {} {}", key.escape_ascii(), command.map_or(0, Args::len))
                }
                Event::UnknownCommand { db, command } => format!("unknown {db:?} {}", command.len()),
                Event::Functions => "functions".to_owned(),
            });
        };
        if let Err(why) = stream.push(&bytes[from..to], &mut each) {
            return (events, Err(why));
        }
        from = to;
    }
    (events, Ok(stream.position()))
}

fn check(bytes: &[u8], rng: &mut Rng) -> Result<String, String> {
    let whole = events(bytes, &[]);
    let pieces = events(bytes, &cuts(bytes.len(), rng));
    if whole != pieces {
        return Err(format!("at once {whole:?}, in pieces {pieces:?}"));
    }
    let every: Vec<usize> = (1..bytes.len()).collect();
    if whole != events(bytes, &every) {
        return Err(format!("at once {whole:?}, byte by byte {:?}", events(bytes, &every)));
    }
    let (events, end) = whole;
    if end.as_ref().is_ok_and(|position| *position != 1000 + bytes.len() as u64) {
        return Err(format!("{end:?} after {} bytes", bytes.len()));
    }
    let reported: usize = events.iter().map(String::len).sum();
    if reported > 64 * (bytes.len() + 1) {
        return Err(format!("{} bytes cause {} events", bytes.len(), events.len()));
    }
    let kinds: String = events.iter().take(4).map(|event| event.chars().take(9).collect::<String>()).collect();
    let end: String = end.map_or_else(|why| why.chars().take(30).collect(), |_| String::new());
    Ok(format!("{kinds} {end}"))
}
