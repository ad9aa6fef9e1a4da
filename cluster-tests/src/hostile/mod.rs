//! Hostile clients against one product, honest clients against another, at the same node: what the hostile ones may
//! not do to the honest ones, to the node's memory and to the groups.
//!
//! | module | duty |
//! |---|---|
//! | [`arena`] | the cluster: product `default` (attacked), product `honest` |
//! | [`pace`] | limits what all hostile clients do together |
//! | [`attack`] | runs the hostile clients |
//! | [`link`] | the connection of a hostile client |
//! | [`kinds`] | what each kind of hostile client does |
//! | [`honest`] | honest clients: latencies and errors |
//! | [`watch`] | memory and CPU time of processes |
//! | [`storm`] | all kinds at the same time, with a quiet run before it |
//! | [`alone`] | the kinds that run one at a time: huge values, scripts, slow commands |
//! | [`verdict`] | criteria and their table |

pub mod alone;
pub mod arena;
pub mod attack;
pub mod honest;
pub mod kinds;
pub mod link;
pub mod pace;
pub mod storm;
pub mod verdict;
pub mod watch;
