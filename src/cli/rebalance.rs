//! `pontoon rebalance`: rebalances the groups of a product. Unlike all other changes it only shows the plan, unless --apply is
//! given.

use clap::{Args, ValueEnum};

use super::{Remote, change, client::Client, error::CliError, output};
use crate::wire::pb::admin::{GroupWeight, RebalanceBy, RebalanceRequest};

/// `pontoon rebalance ...`
#[derive(Debug, Args)]
pub struct RebalanceArgs {
    /// What to balance
    #[arg(long, value_enum, default_value = "slots")]
    by: ByArg,
    /// Relative shares of the groups, for example g1=1,g2=2; 1 for a group that is not listed, 0 for none
    #[arg(long, value_name = "WEIGHTS", default_value = "", hide_default_value = true)]
    weights: String,
    /// Start the migrations, instead of only showing them
    #[arg(long)]
    apply: bool,
}

impl RebalanceArgs {
    pub(super) const fn applies(&self) -> bool {
        self.apply
    }
}

/// What to balance.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ByArg {
    /// Number of slots.
    Slots,
    /// Number of keys.
    Keys,
    /// Bytes of data.
    Memory,
    /// Commands a second.
    Ops,
}

pub(super) async fn run(args: RebalanceArgs, mut remote: Remote) -> Result<(), CliError> {
    // Programs and people are told that nothing was done, as with any other dry run.
    remote.common.dry_run |= !args.apply;
    let remote = &remote;
    let by = match args.by {
        ByArg::Slots => RebalanceBy::Slots,
        ByArg::Keys => RebalanceBy::Keys,
        ByArg::Memory => RebalanceBy::Memory,
        ByArg::Ops => RebalanceBy::Ops,
    };
    let wanted = RebalanceRequest {
        product: remote.product().to_owned(),
        by: by.into(),
        weights: weights(&args.weights).map_err(CliError::Usage)?,
        apply: args.apply,
        options: None,
    };
    let call = |mut c: Client, options| {
        let request = RebalanceRequest { options: Some(options), ..wanted.clone() };
        async move { c.rebalance(request).await }
    };
    let reply = change::run(remote, "pontoon migrate ls", call).await?;
    if !args.apply && !reply.unchanged && !remote.json() {
        output::print_text("nothing was started; --apply starts the migrations\n");
    }
    Ok(())
}

/// `g1=1,g2=2`, or without the g.
fn weights(text: &str) -> Result<Vec<GroupWeight>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let read = || {
                let (group, weight) = part.split_once('=')?;
                let group = group.strip_prefix('g').unwrap_or(group).parse().ok().filter(|id| *id > 0)?;
                Some(GroupWeight { group, weight: weight.parse().ok()? })
            };
            read().ok_or_else(|| format!("'{part}' is not a weight of a group; write g1=1,g2=2"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read() {
        let weight = |group, weight| GroupWeight { group, weight };
        assert_eq!(weights("g1=1, 2=30"), Ok(vec![weight(1, 1), weight(2, 30)]));
        assert_eq!(weights(""), Ok(Vec::new()));
        for bad in ["g1", "g1=", "=1", "g0=1", "x1=1", "g1=-1"] {
            assert!(weights(bad).is_err_and(|why| why.contains("g1=1,g2=2")), "{bad}");
        }
    }
}
