//! Which Redis a product is, as its clients see it: they choose their features by that. Knows nothing of how it is found out.

use std::collections::BTreeMap;

use crate::{
    model::route::ProductRoutes,
    proxy::{learnt::server_commands, product::ProductView, worker::Worker},
};

/// The version whose commands the table has completely; shown until the servers are known.
pub(super) const UNKNOWN_VERSION: &str = "7.0.15";

/// The version and the modules of a product's servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Software {
    pub(super) version: String,
    /// Versions by name.
    pub(super) modules: BTreeMap<String, i64>,
}

/// What the product's clients are told: the oldest version of its servers, unless the operator has set one, and the modules
/// that all of them have.
pub(super) fn software(worker: &Worker, product: &ProductView, routes: &ProductRoutes) -> Software {
    let commands = server_commands(worker, product);
    let version = commands.as_ref().and_then(|commands| commands.version());
    Software {
        version: match (routes.rules.redis_version, version) {
            (told, _) if !told.is_of_servers() => told.to_string(),
            (_, Some(version)) => version.to_string(),
            (_, None) => UNKNOWN_VERSION.to_owned(),
        },
        modules: commands.map(|commands| commands.modules()).unwrap_or_default(),
    }
}
