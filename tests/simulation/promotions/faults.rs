//! Faults: planned ones between two effects, and random ones. Knows nothing of what follows.

use fastrand::Rng;

use super::{
    super::network::{MS, Ns, SECOND},
    ELECTION, SERVERS, World, addr,
    leader::Leader,
    servers::Kept,
};
use pontoon::model::ids::Term;

/// A fault between two effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A server is killed, and started again after this time.
    Kill(usize, Ns),
    /// The leader dies.
    Leader,
    /// Both.
    KillAndLeader(usize, Ns),
}

impl World {
    /// An effect has happened, or is about to. A fault may happen now.
    pub fn fault_is_due(&mut self) {
        self.seen.effects += 1;
        let planned = self.setting.faults.remove(&self.seen.effects);
        let random = self.setting.random.filter(|(_, until)| (self.faults_from()..*until).contains(&self.now));
        let rng = self.rng.as_mut().filter(|_| random.is_some());
        let min_acks = self.setting.min_acks;
        let fault = planned.or_else(|| rng.and_then(|rng| random_fault(rng, min_acks)));
        match fault {
            Some(Fault::Kill(server, pause)) => self.kill(server, pause),
            Some(Fault::Leader) => self.elect(),
            Some(Fault::KillAndLeader(server, pause)) => {
                self.kill(server, pause);
                self.elect();
            }
            None => {}
        }
    }

    /// With `min-acks`, random faults do not happen while the log learns of the group: what holds afterwards is to be shown.
    fn faults_from(&self) -> Ns {
        if self.setting.min_acks > 0 { 3 * SECOND } else { 0 }
    }

    /// At random times, not only at effects: a fault, or an operator who wants another primary.
    pub fn random_event(&mut self) {
        let Some((_, until)) = self.setting.random else { return };
        let due = (self.faults_from()..until).contains(&self.now);
        let Some(rng) = self.rng.as_mut().filter(|_| due) else { return };
        if self.setting.min_acks > 0 {
            let event = rng.u8(0..60);
            return self.random_event_with_acks(event);
        }
        match rng.u8(0..40) {
            0 => {
                let (server, pause) = (rng.usize(0..SERVERS), rng.u64(10..6_000) * MS);
                self.kill(server, pause);
            }
            1 => self.elect(),
            2..=5 => {
                let to = rng.usize(0..SERVERS);
                self.switch_over(to);
            }
            _ => {}
        }
    }

    /// As `random_event`. A primary is often killed with a replica, and a replica often lags.
    fn random_event_with_acks(&mut self, event: u8) {
        let Some(rng) = self.rng.as_mut() else { return };
        let (server, other) = (rng.usize(0..SERVERS), rng.usize(0..SERVERS));
        let pause = if rng.bool() { rng.u64(10..400) * MS } else { rng.u64(10..6_000) * MS };
        let primary = self.primary();
        match event {
            0 => self.kill(server, pause),
            1 | 2 => self.kill(primary, pause),
            3 => {
                self.kill(primary, pause);
                self.kill(other, pause + 100 * MS);
            }
            4 => self.elect(),
            5 => {
                self.kill(primary, pause);
                self.elect();
            }
            6 => self.stop(server, pause),
            7 => self.switch_over(server),
            8..=13 => _ = self.acks.lagging.insert(server),
            14..=24 => self.acks.lagging.clear(),
            _ => {}
        }
    }

    /// The server is stopped, and goes on after a pause.
    fn stop(&mut self, server: usize, pause: Ns) {
        if !self.servers.all[server].answers() {
            return;
        }
        if self.group().servers.iter().any(|s| s.diverged && s.addr == addr(server)) {
            // No probe may have seen yet what it has copied, so that it counts as failed.
            self.excuse_writes(server);
            self.give_up_data(server);
        }
        self.seen.faults += 1;
        self.note(format_args!("server {server} is stopped for {} ms", pause / MS));
        self.servers.all[server].stopped = true;
        self.restarts.push((self.now + pause, server));
    }

    /// The server is killed, and starts again after a pause.
    pub fn kill(&mut self, server: usize, pause: Ns) {
        if !self.servers.all[server].up {
            return;
        }
        if self.setting.min_acks > 0 {
            let kept = [Kept::All, Kept::Saved, Kept::Nothing];
            self.servers.all[server].kept = self.rng.as_mut().map_or(kept[0], |rng| kept[rng.usize(0..3)]);
            self.excuse_writes(server);
        }
        self.seen.faults += 1;
        self.note(format_args!("server {server} is killed for {} ms", pause / MS));
        self.servers.kill(server);
        self.restarts.retain(|(_, other)| *other != server);
        self.restarts.push((self.now + pause, server));
    }

    /// A server that was killed or stopped goes on.
    pub fn start(&mut self, server: usize) {
        if self.servers.all[server].stopped {
            self.servers.all[server].stopped = false;
            self.note(format_args!("server {server} goes on"));
            return;
        }
        self.servers.restart(server);
        let follows = self.servers.all[server].follows;
        let kept = self.servers.all[server].kept;
        self.note(format_args!("server {server} starts with {kept:?} and follows {follows:?}"));
    }

    /// The leader dies, and another node leads after an election.
    fn elect(&mut self) {
        self.seen.faults += 1;
        self.note(format_args!("the leader dies"));
        self.term = Term(self.term.0 + 1);
        self.leader = Leader::default();
        self.leads_from = self.now + ELECTION;
    }
}

/// A fault at one of many effects.
fn random_fault(rng: &mut Rng, min_acks: u8) -> Option<Fault> {
    let (server, pause) = (rng.usize(0..SERVERS), rng.u64(10..6_000) * MS);
    // With `min-acks` a restart must often be faster than its detection.
    let pause = if min_acks > 0 && rng.bool() { pause / 20 } else { pause };
    match rng.u8(0..100) {
        0 => Some(Fault::Leader),
        1 => Some(Fault::KillAndLeader(server, pause)),
        2 | 3 => Some(Fault::Kill(server, pause)),
        _ => None,
    }
}
