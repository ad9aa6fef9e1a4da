//! Changes of migrations and runs to messages and back.

use super::Encode;
use crate::model::{
    change::{
        CancelMigration, Cleaned, EndSweep, MigrationProgress, PauseMigration, PlanMigration, RestartMigration,
        ResumeMigration, SetMigration, StartMigration, StartRun, Switch,
    },
    ids::{GroupId, HoldId, MigrationId, NodeId, ProductId, Term},
};
use crate::wire::{
    convert::{DecodeError, addr_from, need, slots_from, slots_to},
    migration::{
        counters_from, counters_to, epochs_from, epochs_to, job_from, job_to, options_from, options_to, progress_from,
        progress_to, verified_from, verified_to,
    },
    pb::state as pb,
    promotion::{offset_from, offset_to},
};

impl Encode for PlanMigration {
    type Message = pb::PlanMigration;

    fn to_message(&self) -> pb::PlanMigration {
        pb::PlanMigration {
            product: self.product.0,
            slots: slots_to(&self.slots),
            from: self.from.0,
            to: self.to.0,
            options: Some(options_to(&self.options)),
        }
    }

    fn from_message(message: pb::PlanMigration) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            slots: slots_from(&message.slots)?,
            from: GroupId(message.from),
            to: GroupId(message.to),
            options: options_from(message.options)?,
        })
    }
}

impl Encode for StartMigration {
    type Message = pb::StartMigration;

    fn to_message(&self) -> pb::StartMigration {
        pb::StartMigration {
            migration: self.migration.0,
            attempt: self.attempt,
            node: self.node.0,
            feed: self.feed.to_string(),
            target: self.target.to_string(),
            group_epochs: epochs_to(&self.group_epochs),
            term: self.term.0,
        }
    }

    fn from_message(message: pb::StartMigration) -> Result<Self, DecodeError> {
        Ok(Self {
            migration: MigrationId(message.migration),
            attempt: message.attempt,
            node: NodeId(message.node),
            feed: addr_from(&message.feed)?,
            target: addr_from(&message.target)?,
            group_epochs: epochs_from(&message.group_epochs),
            term: Term(message.term),
        })
    }
}

impl Encode for MigrationProgress {
    type Message = pb::MigrationProgress;

    fn to_message(&self) -> pb::MigrationProgress {
        pb::MigrationProgress {
            migration: self.migration.0,
            attempt: self.attempt,
            phase: progress_to(self.phase),
            counters: Some(counters_to(&self.counters)),
            verified: verified_to(self.verified),
        }
    }

    fn from_message(message: pb::MigrationProgress) -> Result<Self, DecodeError> {
        Ok(Self {
            migration: MigrationId(message.migration),
            attempt: message.attempt,
            phase: progress_from(message.phase)?,
            counters: counters_from(message.counters)?,
            verified: verified_from(message.verified),
        })
    }
}

impl Encode for Switch {
    type Message = pb::Switch;

    fn to_message(&self) -> pb::Switch {
        pb::Switch {
            migration: self.migration.0,
            attempt: self.attempt,
            hold: self.hold.0,
            term: self.term.0,
            group_epochs: epochs_to(&self.group_epochs),
            target_offset: Some(offset_to(&self.target_offset)),
        }
    }

    fn from_message(message: pb::Switch) -> Result<Self, DecodeError> {
        Ok(Self {
            migration: MigrationId(message.migration),
            attempt: message.attempt,
            hold: HoldId(message.hold),
            term: Term(message.term),
            group_epochs: epochs_from(&message.group_epochs),
            target_offset: offset_from(need(message.target_offset, "the offset of the target")?),
        })
    }
}

impl Encode for RestartMigration {
    type Message = pb::RestartMigration;

    fn to_message(&self) -> pb::RestartMigration {
        pb::RestartMigration { migration: self.migration.0, why: self.why.clone() }
    }

    fn from_message(message: pb::RestartMigration) -> Result<Self, DecodeError> {
        Ok(Self { migration: MigrationId(message.migration), why: message.why })
    }
}

impl Encode for CancelMigration {
    type Message = pb::CancelMigration;

    fn to_message(&self) -> pb::CancelMigration {
        pb::CancelMigration { migration: self.migration.0, why: self.why.clone() }
    }

    fn from_message(message: pb::CancelMigration) -> Result<Self, DecodeError> {
        Ok(Self { migration: MigrationId(message.migration), why: message.why })
    }
}

impl Encode for PauseMigration {
    type Message = pb::PauseMigration;

    fn to_message(&self) -> pb::PauseMigration {
        pb::PauseMigration { migration: self.migration.0, why: self.why.clone() }
    }

    fn from_message(message: pb::PauseMigration) -> Result<Self, DecodeError> {
        Ok(Self { migration: MigrationId(message.migration), why: message.why })
    }
}

impl Encode for ResumeMigration {
    type Message = pb::ResumeMigration;

    fn to_message(&self) -> pb::ResumeMigration {
        pb::ResumeMigration { migration: self.migration.0 }
    }

    fn from_message(message: pb::ResumeMigration) -> Result<Self, DecodeError> {
        Ok(Self { migration: MigrationId(message.migration) })
    }
}

impl Encode for SetMigration {
    type Message = pb::SetMigration;

    fn to_message(&self) -> pb::SetMigration {
        pb::SetMigration {
            migration: self.migration.0,
            keys_per_second: self.keys_per_second,
            bytes_per_second: self.bytes_per_second,
            hold_ms_max: self.hold_ms_max,
        }
    }

    fn from_message(message: pb::SetMigration) -> Result<Self, DecodeError> {
        Ok(Self {
            migration: MigrationId(message.migration),
            keys_per_second: message.keys_per_second,
            bytes_per_second: message.bytes_per_second,
            hold_ms_max: message.hold_ms_max,
        })
    }
}

impl Encode for StartRun {
    type Message = pb::StartRun;

    fn to_message(&self) -> pb::StartRun {
        pb::StartRun {
            job: job_to(self.job),
            run: self.run,
            node: self.node.0,
            server: self.server.to_string(),
            term: self.term.0,
        }
    }

    fn from_message(message: pb::StartRun) -> Result<Self, DecodeError> {
        Ok(Self {
            job: job_from(message.job)?,
            run: message.run,
            node: NodeId(message.node),
            server: addr_from(&message.server)?,
            term: Term(message.term),
        })
    }
}

impl Encode for Cleaned {
    type Message = pb::Cleaned;

    fn to_message(&self) -> pb::Cleaned {
        pb::Cleaned { job: job_to(self.job), run: self.run, term: self.term.0, deleted: self.deleted }
    }

    fn from_message(message: pb::Cleaned) -> Result<Self, DecodeError> {
        Ok(Self { job: job_from(message.job)?, run: message.run, term: Term(message.term), deleted: message.deleted })
    }
}

impl Encode for EndSweep {
    type Message = pb::EndSweep;

    fn to_message(&self) -> pb::EndSweep {
        pb::EndSweep {
            product: self.product.0,
            group: self.group.0,
            run: self.run,
            term: self.term.0,
            why: self.why.clone(),
        }
    }

    fn from_message(message: pb::EndSweep) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            group: GroupId(message.group),
            run: message.run,
            term: Term(message.term),
            why: message.why,
        })
    }
}
