//! The rules that a simulation keeps or leaves out, and counters of what happened in it.

/// The rules in force. A violation must be found when one of them is left out.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// By how much the rates of two clocks may differ.
    pub rates_differ: f64,
    pub check_at_reply: bool,
    pub epoch_at_reply: bool,
    pub barrier: bool,
    pub drain: bool,
    pub leader_waits: bool,
    pub min_applied: bool,
    pub from_send: bool,
    pub round: bool,
    /// Migrations instead of assignments; the rules below belong to migrations.
    pub migrations: bool,
    pub fence: bool,
    pub refetch: bool,
    pub offset_after_barrier: bool,
    pub mark_before_fetch: bool,
    pub staged_first: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            rates_differ: 0.009,
            check_at_reply: true,
            epoch_at_reply: true,
            barrier: true,
            drain: true,
            leader_waits: true,
            min_applied: true,
            from_send: true,
            round: true,
            migrations: false,
            fence: true,
            refetch: true,
            offset_after_barrier: true,
            mark_before_fetch: true,
            staged_first: true,
        }
    }
}

/// What happened, so that a test can see that something did.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub acked: u64,
    pub refused: u64,
    pub unknown: u64,
    pub moved: u64,
    pub released: u64,
    pub elections: u64,
    /// Removals begun.
    pub removed: u64,
    /// Barriers that passed while a node was silent.
    pub silent: u64,
    /// Switches, ends, and failovers of groups.
    pub switched: u64,
    pub done: u64,
    pub cancelled: u64,
    pub failovers: u64,
    pub swept: u64,
    pub restarted: u64,
}

impl Seen {
    pub fn add(&mut self, other: &Self) {
        self.acked += other.acked;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.moved += other.moved;
        self.released += other.released;
        self.elections += other.elections;
        self.removed += other.removed;
        self.silent += other.silent;
        self.switched += other.switched;
        self.done += other.done;
        self.cancelled += other.cancelled;
        self.failovers += other.failovers;
        self.swept += other.swept;
        self.restarted += other.restarted;
    }
}
