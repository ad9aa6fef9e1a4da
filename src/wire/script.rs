//! Script catalogues in a snapshot.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    convert::{DecodeError, bad},
    pb::state as pb,
};
use crate::model::{
    ids::Epoch,
    script::{Loaded, RecentLoads, ScriptCatalogue, ScriptDigest},
};

/// `None`: it is empty and never had anything.
pub(super) fn catalogue_to(catalogue: &ScriptCatalogue) -> Option<pb::ScriptCatalogue> {
    if *catalogue == ScriptCatalogue::default() {
        return None;
    }
    let script = |script: &Loaded| pb::Script { body: script.text.clone(), at: script.at.0 };
    let library = |(name, library): (&String, &Loaded)| pb::Library {
        name: name.clone(),
        code: library.text.clone(),
        at: library.at.0,
    };
    let deleted = |(name, at): (&String, &Epoch)| pb::DeletedLibrary { name: name.clone(), at: at.0 };
    let RecentLoads { since_ms, count, bytes } = catalogue.recent;
    Some(pb::ScriptCatalogue {
        scripts: catalogue.scripts().values().map(script).collect(),
        flushed: catalogue.flushed.0,
        libraries: catalogue.libraries().iter().map(library).collect(),
        deleted: catalogue.deleted().iter().map(deleted).collect(),
        libraries_at: catalogue.libraries_at.0,
        recent_since_ms: since_ms,
        recent_count: count,
        recent_bytes: bytes,
    })
}

pub(super) fn catalogue_from(message: Option<pb::ScriptCatalogue>) -> Result<Arc<ScriptCatalogue>, DecodeError> {
    let Some(message) = message else { return Ok(Arc::default()) };
    let mut scripts = BTreeMap::new();
    for pb::Script { body, at } in message.scripts {
        let digest = ScriptDigest::of(&body);
        if scripts.insert(digest, Loaded { text: body, at: Epoch(at) }).is_some() {
            return bad("two scripts", digest);
        }
    }
    let mut libraries = BTreeMap::new();
    for pb::Library { name, code, at } in message.libraries {
        if libraries.insert(name.clone(), Loaded { text: code, at: Epoch(at) }).is_some() {
            return bad("two libraries", name);
        }
    }
    let deleted = message.deleted.into_iter().map(|library| (library.name, Epoch(library.at))).collect();
    let mut catalogue = ScriptCatalogue::of(scripts, libraries, deleted);
    catalogue.flushed = Epoch(message.flushed);
    catalogue.libraries_at = Epoch(message.libraries_at);
    let (since_ms, count, bytes) = (message.recent_since_ms, message.recent_count, message.recent_bytes);
    catalogue.recent = RecentLoads { since_ms, count, bytes };
    Ok(Arc::new(catalogue))
}
