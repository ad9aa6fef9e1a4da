//! `pontoon recover`: makes a stopped node a cluster of one node, after the quorum was lost permanently.
//! Knows nothing of how the log is rewritten.

use std::path::PathBuf;

use clap::Args;

use super::{
    Common, declared,
    error::{CliError, failed},
    output, protect,
};
use crate::consensus::{self, Consensus};

/// `pontoon recover ...`. Both flags are required: each is a statement that only the operator can make.
#[derive(Args, Debug)]
pub struct RecoverArgs {
    /// Data directory of the node, which must be stopped
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// You have chosen this node as the survivor; choose the one with the newest log (--dry-run prints its last index)
    #[arg(long, required = true)]
    from_survivor: bool,
    /// You guarantee that the other members are gone permanently, or will be wiped before they start again
    #[arg(long, required = true)]
    the_others_are_gone: bool,
}

pub(super) fn run(args: &RecoverArgs, common: &Common) -> Result<(), CliError> {
    if !(args.from_survivor && args.the_others_are_gone) {
        return Err(CliError::Usage("recover requires --from-survivor and --the-others-are-gone".into()));
    }
    let dir = args.data_dir.display();
    if !args.data_dir.is_dir() {
        return Err(CliError::Failed(format!("{dir} is not a directory; give the --data-dir of the node")));
    }
    consensus::must_be_of_a_node(&args.data_dir).map_err(failed)?;
    protect::process();
    let lock = if common.dry_run { consensus::lock_unchanged } else { consensus::lock };
    let lock = lock(&args.data_dir).map_err(failed)?;
    let report =
        Consensus::recover(&args.data_dir, &lock, &declared::text(&common.typed), common.dry_run).map_err(failed)?;
    if common.dry_run {
        output::print_text(&format!("{report}\nonly a dry run: nothing was changed\n"));
        return Ok(());
    }
    output::print_text(&format!(
        "{report}\n\
         Compare with what you know: pontoon product ls, group ls, slot ls. Keys are on the redis-servers and were not touched;\n\
         where the slot table is older than the data, assign the slots again.\n\
         next: start this node with the same --data-dir; empty the data directories of the others and start them with --join\n"
    ));
    Ok(())
}
