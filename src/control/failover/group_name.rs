//! The name of a group in texts for people.

use crate::model::{
    ids::{GroupId, ProductId},
    state::ClusterState,
};

/// The name of a group, with its product, since groups of several products have the same numbers.
#[must_use]
pub fn group_name(state: &ClusterState, (product, group): (ProductId, GroupId)) -> String {
    let name = state.products.get(&product).map_or("", |product| product.name.as_str());
    format!("group {group} of product '{name}'")
}
