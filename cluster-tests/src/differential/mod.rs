//! The same generated calls go to a cluster of three groups and to one plain Redis ('the reference'), and every reply and
//! every key is compared. `deviations` has the differences that a sharded system cannot avoid.
//!
//! [`generator`] makes units of calls from a seed: by the syntax that the server documents (`syntax`, `speller`), from
//! words of a small keyspace (`vocabulary`), with each kind of fault (`faults`), and planned sequences (`sequences`). [`run`] sends them (`pair`) and compares
//! replies (`comparison`) and keys (`keyspace`). Calls of features that the command table does not offer yet are left out
//! (`case`), as are those after which nothing could be compared (`hazards`).

pub mod bed;
#[path = "../../../tests/support/calls.rs"]
pub mod calls;
pub mod case;
pub mod comparison;
pub mod connection;
pub mod deviations;
pub mod faults;
pub mod generator;
pub mod hazards;
pub mod keyspace;
pub mod pair;
pub mod reply;
pub mod run;
pub mod scripts;
pub mod sequences;
pub mod speller;
pub mod syntax;
pub mod transaction;
pub mod vocabulary;

use std::collections::BTreeSet;

use connection::{Connection, words};
use generator::Generator;
use run::Run;
use vocabulary::Vocabulary;

/// Units between two comparisons of all keys.
const UNITS: usize = 10;

/// A generator for the commands that the reference has.
#[must_use]
pub fn generator(seed: u64, reference: u16, connections: usize) -> Generator {
    let mut server = Connection::open(reference);
    let names = server.call("COMMAND LIST");
    let offered: BTreeSet<String> = names.items().iter().map(|name| name.text().to_lowercase()).collect();
    let syntax = syntax::of_server(&mut server);
    let subcommands = syntax.keys().filter(|name| name.contains('|')).cloned();
    let offered = offered.into_iter().chain(subcommands).collect();
    let digest = |body: &&str| {
        let mut call = words("EVAL body 0");
        call[1] = b"return redis.sha1hex(ARGV[1])".to_vec();
        call.push(body.as_bytes().to_vec());
        server.calls(&[call])[0].text()
    };
    let digests = scripts::BODIES.iter().map(digest).collect();
    // Redis 8.2 does not, where the reply to an earlier call was not written yet.
    let refuses_logins = Connection::open(reference).answers("AUTH nosuch x");
    Generator::new(Vocabulary::new(seed, digests), &offered, syntax, connections, refuses_logins)
}

/// Sends generated units until this number of replies was compared, or too much differs.
pub fn play(run: &mut Run, generator: &mut Generator, replies: usize) {
    while run.tally.compared < replies && run.differences() < run::DIFFERENCES_MAX {
        for _ in 0..UNITS {
            run.unit(&generator.unit());
        }
        run.compare_keys();
    }
}
