//! Changes of the settings of the whole cluster.

/// Changes cluster settings. Only what is `Some` changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetCluster {
    /// Nodes that are made voters automatically, 1 to 7.
    pub voters: Option<u8>,
    /// Budget of a hold of kind Wait in milliseconds, 10 to 10000.
    pub hold_ms_max: Option<u32>,
    /// Whether nothing is changed automatically in any group.
    pub maintenance: Option<bool>,
    /// Percent of the primaries that may be down at once for automatic failovers, 1 to 100.
    pub failover_share_max: Option<u8>,
}
