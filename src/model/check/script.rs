//! What always holds of a script catalogue.

use super::Found;
use crate::model::{
    limits::{DELETED_LIBRARIES_MAX, LIBRARIES_MAX, SCRIPT_LEN_MAX, SCRIPT_LOADS_MAX, SCRIPTS_MAX},
    script::{ScriptCatalogue, ScriptDigest},
    state::{ClusterState, Product},
};

pub(super) fn catalogue(state: &ClusterState, product: &Product, found: &mut Found) {
    let (name, all) = (&product.name, &*product.scripts);
    found.unless(product.rules.script_loads_max <= SCRIPT_LOADS_MAX, || {
        format!("clients of '{name}' may load {} scripts", product.rules.script_loads_max)
    });
    found.unless(all.scripts().len() <= SCRIPTS_MAX, || format!("'{name}' has {} scripts", all.scripts().len()));
    found
        .unless(all.libraries().len() <= LIBRARIES_MAX, || format!("'{name}' has {} libraries", all.libraries().len()));
    found.unless(all.deleted().len() <= DELETED_LIBRARIES_MAX, || {
        format!("{} deleted libraries of '{name}' are remembered", all.deleted().len())
    });
    let rebuilt = ScriptCatalogue::of(all.scripts().clone(), all.libraries().clone(), all.deleted().clone());
    let sums = |catalogue: &ScriptCatalogue| (catalogue.script_bytes(), catalogue.library_bytes());
    found.unless(sums(&rebuilt) == sums(all), || format!("the sums of the catalogue of '{name}' are wrong"));
    let texts = all.scripts().values().chain(all.libraries().values());
    let newest = texts.clone().map(|loaded| loaded.at).chain([all.flushed, all.libraries_at]).max();
    found.unless(newest <= Some(state.applied), || format!("'{name}' has a script of an entry that is not applied"));
    found.unless(texts.clone().all(|loaded| loaded.text.len() <= SCRIPT_LEN_MAX), || {
        format!("'{name}' has a script that is too long")
    });
    for (digest, script) in all.scripts() {
        found.unless(*digest == ScriptDigest::of(&script.text), || format!("script {digest} has another digest"));
    }
    for library in all.libraries().keys() {
        found.unless(ScriptCatalogue::check_name(library).is_ok() && !all.is_deleted(library), || {
            format!("library '{library}' of '{name}' is deleted, or cannot have this name")
        });
    }
}
