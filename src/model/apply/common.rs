//! What the families of changes share: look-ups in the state, and marks on it.

use crate::model::{
    ids::{GroupId, HostPort, ProductId},
    limits::TEXT_LEN_MAX,
    ports::addr_key,
    reject::Reject,
    state::{ClusterState, Group, Position, Product, Server},
};

pub(super) fn product(state: &ClusterState, id: ProductId) -> Result<&Product, Reject> {
    state.products.get(&id).ok_or(Reject::UnknownProduct)
}

/// For the part of a function where nothing can refuse any more: the caller has looked with `product` before.
pub(super) fn product_mut(state: &mut ClusterState, id: ProductId) -> Result<&mut Product, Reject> {
    state.products.get_mut(&id).ok_or(Reject::UnknownProduct)
}

pub(super) fn group(product: &Product, id: GroupId) -> Result<&Group, Reject> {
    product.groups.get(&id).ok_or_else(|| Reject::UnknownGroup { product: product.name.clone(), group: id })
}

/// Where a server stands in its group; by its key, so that it can be named as the operator knows it.
pub(super) fn server_at(product: &Product, group: &Group, addr: &HostPort) -> Result<usize, Reject> {
    let key = addr_key(addr);
    group.servers.iter().position(|s| addr_key(&s.addr) == key).ok_or_else(|| Reject::UnknownServer {
        addr: addr.clone(),
        product: product.name.clone(),
        group: group.id,
    })
}

pub(super) fn server_mut<'a>(
    state: &'a mut ClusterState,
    product: ProductId,
    group: GroupId,
    addr: &HostPort,
) -> Option<&'a mut Server> {
    let group = state.products.get_mut(&product)?.groups.get_mut(&group)?;
    group.servers.iter_mut().find(|s| s.addr == *addr)
}

/// What events about a group are about.
pub(super) fn subject(group: GroupId) -> String {
    format!("group {group}")
}

/// The state's routes changed at this entry.
pub(super) fn routed(state: &mut ClusterState, at: Position) {
    state.route_epoch = at.index;
}

/// The sentence, cut at `TEXT_LEN_MAX` bytes: what people read must not fill the state.
pub(super) fn clipped(text: &str) -> String {
    let mut end = text.len().min(TEXT_LEN_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
