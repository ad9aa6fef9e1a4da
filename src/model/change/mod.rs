//! The changes that the log can carry: one struct for each, in the file of its family, and the enum of them all.
//! A change is one decision. The proposer has checked the servers.
//! Knows nothing of how a change is applied (`apply`).

mod assignment;
mod cluster;
mod ejection;
mod group;
mod hold;
mod member;
mod migration;
mod note;
mod product;
mod promotion;
mod run;
mod script;

pub use self::{
    assignment::*, cluster::*, ejection::*, group::*, hold::*, member::*, migration::*, note::*, product::*,
    promotion::*, run::*, script::*,
};

/// Calls the macro `$callback` with all changes, as `Variant(Struct)`. This is the only list of them: the enum, its
/// dispatch (`apply`) and its encoding (`wire`) are made from it. The message in proto/state.proto has the variant's
/// name.
macro_rules! for_every_change {
    ($callback:ident) => {
        $callback! {
            Bootstrap(Bootstrap),
            AddMember(NewMember),
            Admit(Admit),
            BeginRemove(BeginRemove),
            FinishRemove(FinishRemove),
            SetRole(SetRole),
            Recover(Recover),
            CreateProduct(NewProduct),
            SetProduct(SetProduct),
            RemoveProduct(RemoveProduct),
            CreateGroup(CreateGroup),
            AddServer(AddServer),
            RemoveServer(RemoveServer),
            RemoveGroup(RemoveGroup),
            SetGroup(SetGroup),
            SetServer(SetServer),
            AssignFree(AssignFree),
            StartAssign(StartAssign),
            FinishAssign(FinishAssign),
            GiveUpAssign(GiveUpAssign),
            OpenHold(OpenHold),
            Release(Release),
            SetCluster(SetCluster),
            PlanMigration(PlanMigration),
            StartMigration(StartMigration),
            MigrationProgress(MigrationProgress),
            Switch(Switch),
            RestartMigration(RestartMigration),
            CancelMigration(CancelMigration),
            PauseMigration(PauseMigration),
            ResumeMigration(ResumeMigration),
            SetMigration(SetMigration),
            StartRun(StartRun),
            Cleaned(Cleaned),
            EndSweep(EndSweep),
            StartPromotion(StartPromotion),
            FinishPromotion(FinishPromotion),
            GiveUpPromotion(GiveUpPromotion),
            NotePrimary(NotePrimary),
            NoteReconciled(NoteReconciled),
            MarkResynced(MarkResynced),
            Eject(Eject),
            Reinstate(Reinstate),
            NoteGroup(NoteGroup),
            NoteNode(NoteNode),
            SetDataUser(SetDataUser),
            SetControlUser(SetControlUser),
            ForgetFormer(ForgetFormer),
            NoteMembership(NoteMembership),
            LoadScript(LoadScript),
            FlushScripts(FlushScripts),
            LoadLibrary(LoadLibrary),
            DeleteLibraries(DeleteLibraries),
        }
    };
}
pub(crate) use for_every_change;

macro_rules! define {
    ($($variant:ident($change:ident),)*) => {
        /// One replicated modification.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Change {
            $(
                #[doc = concat!("See [`", stringify!($change), "`].")]
                $variant($change),
            )*
        }

        $(
            impl From<$change> for Change {
                fn from(change: $change) -> Self {
                    Self::$variant(change)
                }
            }
        )*

        impl Change {
            /// The names of all variants, in the order of their declaration.
            pub const NAMES: &[&str] = &[$(stringify!($variant)),*];

            /// The name of the variant.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => stringify!($variant),)*
                }
            }
        }
    };
}
for_every_change!(define);
