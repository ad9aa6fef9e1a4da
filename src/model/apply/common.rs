//! Look-ups and small modifications that the families of changes share.

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

/// Like [`product`], to modify it. Call it only after all checks of a change.
pub(super) fn product_mut(state: &mut ClusterState, id: ProductId) -> Result<&mut Product, Reject> {
    state.products.get_mut(&id).ok_or(Reject::UnknownProduct)
}

pub(super) fn group(product: &Product, id: GroupId) -> Result<&Group, Reject> {
    product.groups.get(&id).ok_or_else(|| Reject::UnknownGroup { product: product.name.clone(), group: id })
}

/// The position of a server in its group. Compares normalised addresses, so that the operator may use another spelling.
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

/// The subject of events about a group.
pub(super) fn subject(group: GroupId) -> String {
    format!("group {group}")
}

/// Marks the entry as a routing entry.
pub(super) fn routed(state: &mut ClusterState, at: Position) {
    state.route_epoch = at.index;
}

/// `text`, cut at `TEXT_LEN_MAX` bytes: texts for people must not fill the state.
pub(super) fn clipped(text: &str) -> String {
    let mut end = text.len().min(TEXT_LEN_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
