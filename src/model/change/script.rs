//! Changes of the script catalogue of a product. Its clients ask for them.

use std::{collections::BTreeSet, fmt};

use bytes::Bytes;

use crate::model::ids::ProductId;

/// A script was loaded. If the catalogue has it, nothing changes.
#[derive(Clone, PartialEq, Eq)]
pub struct LoadScript {
    /// The product.
    pub product: ProductId,
    /// The body.
    pub body: Bytes,
}

/// All scripts are forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlushScripts {
    /// The product.
    pub product: ProductId,
}

/// A library was loaded, or replaces the one of its name.
#[derive(Clone, PartialEq, Eq)]
pub struct LoadLibrary {
    /// The product.
    pub product: ProductId,
    /// The name that its code declares.
    pub name: String,
    /// Its code.
    pub code: Bytes,
}

/// Libraries are deleted at all servers, also those that the catalogue does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteLibraries {
    /// The product.
    pub product: ProductId,
    /// Their names.
    pub names: BTreeSet<String>,
}

// The text of a client may be long, and is nobody's business.
impl fmt::Debug for LoadScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadScript").field("product", &self.product).field("len", &self.body.len()).finish()
    }
}

impl fmt::Debug for LoadLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { product, name, code } = self;
        let mut shown = f.debug_struct("LoadLibrary");
        shown.field("product", product).field("name", name).field("len", &code.len()).finish()
    }
}
