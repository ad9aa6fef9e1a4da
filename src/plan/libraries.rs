//! What makes the libraries of functions at a primary those of its product's catalogue.
//! Knows nothing of how a server is asked.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::observation::{Observation, fresh_probe};
use crate::model::{
    ids::{GroupId, HostPort},
    script::{Loaded, ScriptCatalogue},
    secret::Credentials,
    state::ClusterState,
};

/// The libraries of a server: name and code.
pub type Libraries = BTreeMap<String, Bytes>;

/// Something to do at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LibraryFix {
    /// Delete a library that the catalogue has deleted.
    Delete(String),
    /// Load a library, in place of the one of its name.
    Load(Bytes),
}

/// What has to be done at a server that has `present`. Libraries that the catalogue never had stay: somebody has loaded them
/// at the server itself.
#[must_use]
pub fn fixes(catalogue: &ScriptCatalogue, present: &Libraries) -> Vec<LibraryFix> {
    // First, since a function may have moved to another library.
    let deleted = present.keys().filter(|name| catalogue.is_deleted(name)).cloned().map(LibraryFix::Delete);
    let differs = |(name, library): &(&String, &Loaded)| present.get(*name) != Some(&library.text);
    deleted.chain(in_order(catalogue, differs).map(LibraryFix::Load)).collect()
}

/// The libraries that a server with `present` lacks. What it has in another form stays: this node may not know the newest one.
#[must_use]
pub fn missing(catalogue: &ScriptCatalogue, present: &Libraries) -> Vec<Bytes> {
    in_order(catalogue, |(name, _)| !present.contains_key(*name)).collect()
}

/// The code of some libraries, in the order in which they were loaded.
fn in_order(catalogue: &ScriptCatalogue, wanted: impl Fn(&(&String, &Loaded)) -> bool) -> impl Iterator<Item = Bytes> {
    let mut libraries: Vec<&Loaded> = catalogue.libraries().iter().filter(wanted).map(|(_, library)| library).collect();
    libraries.sort_unstable_by_key(|library| library.at);
    libraries.into_iter().map(|library| library.text.clone()).collect::<Vec<_>>().into_iter()
}

/// A primary whose libraries are the cluster's business.
#[derive(Clone, Debug)]
pub struct LibraryTarget {
    /// Its group.
    pub group: GroupId,
    /// Its address.
    pub addr: HostPort,
    /// The group's credentials.
    pub credentials: Option<Credentials>,
    /// What it has to have.
    pub catalogue: Arc<ScriptCatalogue>,
    /// Its process, as last probed; empty: not known.
    pub run_id: String,
}

/// The primaries of all products whose clients have ever changed libraries. None in maintenance.
#[must_use]
pub fn targets(state: &ClusterState, seen: &Observation) -> Vec<LibraryTarget> {
    if state.settings.maintenance {
        return Vec::new();
    }
    let products = state.products.values().filter(|product| product.scripts.libraries_at.0 != 0);
    let groups = products.flat_map(|product| product.groups.values().map(move |group| (product, group)));
    let target = |(product, group): (&crate::model::state::Product, &crate::model::state::Group)| {
        let addr = group.servers.first()?.addr.clone();
        let run_id = fresh_probe(seen, &addr).map_or_else(String::new, |probe| probe.run_id.clone());
        let (credentials, catalogue) = (group.credentials.clone(), product.scripts.clone());
        Some(LibraryTarget { group: group.id, addr, credentials, catalogue, run_id })
    };
    groups.filter(|(_, group)| !group.options.maintenance).filter_map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::Epoch;

    fn catalogue() -> ScriptCatalogue {
        let mut all = ScriptCatalogue::default();
        // `late` comes after `early` in the log, and before it in the alphabet.
        for (name, code, at) in [("early", "e2", 5), ("alate", "l", 6)] {
            all.load_library(name.into(), Bytes::from(code), Epoch(at), 0);
        }
        all.delete_libraries(&["gone".to_owned()].into(), Epoch(7));
        all
    }

    fn present(all: &[(&str, &str)]) -> Libraries {
        all.iter().map(|(name, code)| ((*name).to_owned(), Bytes::copy_from_slice(code.as_bytes()))).collect()
    }

    fn load(code: &'static str) -> LibraryFix {
        LibraryFix::Load(Bytes::from_static(code.as_bytes()))
    }

    #[test]
    fn a_server_gets_what_it_lacks_and_what_differs_and_keeps_what_is_not_the_clusters() {
        let all = catalogue();
        assert_eq!(fixes(&all, &present(&[])), [load("e2"), load("l")]);
        let old = present(&[("early", "e1"), ("alate", "l"), ("gone", "g"), ("own", "o")]);
        assert_eq!(fixes(&all, &old), [LibraryFix::Delete("gone".into()), load("e2")]);
        assert_eq!(fixes(&all, &present(&[("early", "e2"), ("alate", "l"), ("own", "o")])), []);
    }

    #[test]
    fn who_may_be_behind_adds_only() {
        let all = catalogue();
        assert_eq!(missing(&all, &present(&[("early", "e1"), ("gone", "g")])), [Bytes::from_static(b"l")]);
    }
}
