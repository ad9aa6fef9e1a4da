//! The script catalogue of a product.
//! Knows nothing of the servers, which the proposer has asked, or will bring to what the catalogue says.

use std::sync::Arc;

use super::{
    Apply,
    common::{product, product_mut},
    events::{self, When},
};
use crate::model::{
    change::{Change, DeleteLibraries, FlushScripts, LoadLibrary, LoadScript},
    event::EventKind,
    ids::{Epoch, ProductId},
    outcome::Outcome,
    reject::Reject,
    script::{CatalogueLimits, ScriptCatalogue, ScriptDigest},
    state::ClusterState,
};

/// A change of the catalogue of one product.
trait CatalogueChange {
    fn product(&self) -> ProductId;

    /// Whether it changes something, or why it is refused.
    fn check(&self, catalogue: &ScriptCatalogue, limits: &CatalogueLimits, ms: u64) -> Result<bool, Reject>;

    /// Makes it, and returns its event. Called after [`check`](Self::check).
    fn make(
        &self,
        catalogue: &mut ScriptCatalogue,
        limits: &CatalogueLimits,
        at: Epoch,
        ms: u64,
    ) -> (EventKind, String);
}

/// Whether a change of a script catalogue would change something at this time. (A dry run copies the state, and clients ask
/// often.) `false` for all other changes.
///
/// # Errors
/// Returns why it would be refused.
pub fn changes_catalogue(state: &ClusterState, change: &Change, now_ms: u64) -> Result<bool, Reject> {
    let of_catalogue: &dyn CatalogueChange = if let Change::LoadScript(change) = change {
        change
    } else if let Change::FlushScripts(change) = change {
        change
    } else if let Change::LoadLibrary(change) = change {
        change
    } else if let Change::DeleteLibraries(change) = change {
        change
    } else {
        return Ok(false);
    };
    let (catalogue, limits) = catalogue(state, of_catalogue.product())?;
    of_catalogue.check(catalogue, &limits, now_ms)
}

impl CatalogueChange for LoadScript {
    fn product(&self) -> ProductId {
        self.product
    }

    fn check(&self, catalogue: &ScriptCatalogue, limits: &CatalogueLimits, ms: u64) -> Result<bool, Reject> {
        if catalogue.body(&ScriptDigest::of(&self.body)).is_some() {
            return Ok(false);
        }
        catalogue.admits(self.body.len(), ms, limits)?;
        Ok(true)
    }

    fn make(
        &self,
        catalogue: &mut ScriptCatalogue,
        limits: &CatalogueLimits,
        at: Epoch,
        ms: u64,
    ) -> (EventKind, String) {
        catalogue.load_script(self.body.clone(), at, ms, limits);
        let (digest, len) = (ScriptDigest::of(&self.body), self.body.len());
        (EventKind::ScriptLoaded, format!("script {digest} of {len} bytes"))
    }
}

impl CatalogueChange for FlushScripts {
    fn product(&self) -> ProductId {
        self.product
    }

    fn check(&self, catalogue: &ScriptCatalogue, _: &CatalogueLimits, _: u64) -> Result<bool, Reject> {
        Ok(!catalogue.scripts().is_empty())
    }

    fn make(&self, catalogue: &mut ScriptCatalogue, _: &CatalogueLimits, at: Epoch, _: u64) -> (EventKind, String) {
        let count = catalogue.scripts().len();
        catalogue.flush_scripts(at);
        (EventKind::ScriptsFlushed, format!("{count} scripts are forgotten"))
    }
}

impl CatalogueChange for LoadLibrary {
    fn product(&self) -> ProductId {
        self.product
    }

    fn check(&self, catalogue: &ScriptCatalogue, limits: &CatalogueLimits, ms: u64) -> Result<bool, Reject> {
        if catalogue.libraries().get(&self.name).is_some_and(|library| library.text == self.code) {
            return Ok(false);
        }
        catalogue.admits_library(&self.name, self.code.len(), ms, limits)?;
        Ok(true)
    }

    fn make(&self, catalogue: &mut ScriptCatalogue, _: &CatalogueLimits, at: Epoch, ms: u64) -> (EventKind, String) {
        catalogue.load_library(self.name.clone(), self.code.clone(), at, ms);
        (EventKind::LibraryLoaded, format!("library {} of {} bytes", self.name, self.code.len()))
    }
}

impl CatalogueChange for DeleteLibraries {
    fn product(&self) -> ProductId {
        self.product
    }

    fn check(&self, catalogue: &ScriptCatalogue, _: &CatalogueLimits, _: u64) -> Result<bool, Reject> {
        self.names.iter().try_for_each(|name| ScriptCatalogue::check_name(name))?;
        Ok(self.names.iter().any(|name| !catalogue.is_deleted(name)))
    }

    fn make(&self, catalogue: &mut ScriptCatalogue, _: &CatalogueLimits, at: Epoch, _: u64) -> (EventKind, String) {
        catalogue.delete_libraries(&self.names, at);
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        (EventKind::LibrariesDeleted, format!("{} deleted: {}", names.len(), names.join(" ")))
    }
}

impl<C: CatalogueChange> Apply for C {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let id = self.product();
        let (catalogue, limits) = catalogue(state, id)?;
        if !self.check(catalogue, &limits, when.ms)? {
            return Ok(Outcome::Unchanged);
        }

        let product = product_mut(state, id)?;
        let subject = format!("product {}", product.name);
        let (kind, text) = self.make(Arc::make_mut(&mut product.scripts), &limits, when.at.index, when.ms);
        events::push(state, when, kind, Some(id), subject, &text);
        Ok(Outcome::Done)
    }
}

fn catalogue(state: &ClusterState, id: ProductId) -> Result<(&ScriptCatalogue, CatalogueLimits), Reject> {
    let product = product(state, id)?;
    Ok((&product.scripts, CatalogueLimits::new(product.rules.script_loads_max, state.products.len())))
}
