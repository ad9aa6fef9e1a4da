//! Which connections of blocked clients the leader closes at servers: those of nodes whose lease has provably ended. Such a
//! node may be stopped, and a server would go on giving elements to it, first of all, since its clients have waited longest.
//! Knows nothing of how connections are closed.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    ids::{HostPort, NodeId},
    route::Isolated,
    secret::Credentials,
    state::ClusterState,
};

/// Connections that are to be closed at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockedFix {
    /// The server.
    pub addr: HostPort,
    /// The credentials of its group.
    pub credentials: Option<Credentials>,
    /// The nodes, each with the end of its lease.
    pub nodes: BTreeMap<NodeId, u64>,
}

/// What has been closed: for each node and server, the end of the lease for which it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClosedConnections(BTreeMap<(NodeId, HostPort), u64>);

impl ClosedConnections {
    /// Records that a fix is done.
    pub fn done(&mut self, fix: &BlockedFix) {
        self.0.extend(fix.nodes.iter().map(|(node, ends_ns)| ((*node, fix.addr.clone()), *ends_ns)));
    }

    /// Drops what concerns servers that are primaries no more and nodes that serve again.
    fn retain(&mut self, primaries: &BTreeSet<&HostPort>, ended: &BTreeMap<NodeId, u64>) {
        self.0.retain(|(node, addr), ends_ns| primaries.contains(addr) && ended.get(node) == Some(ends_ns));
    }
}

/// What is to be closed: at each primary, once for each lease that has ended. `ended`: the nodes whose lease has provably
/// ended. A product that is served without a lease keeps its blocked clients.
#[must_use]
pub fn decide(state: &ClusterState, ended: &BTreeMap<NodeId, u64>, closed: &mut ClosedConnections) -> Vec<BlockedFix> {
    let products = state.products.values().filter(|product| product.isolated == Isolated::Refuse);
    let groups = products.flat_map(|product| product.groups.values());
    let primaries: Vec<_> = groups.filter_map(|group| Some((&group.servers.first()?.addr, group))).collect();
    closed.retain(&primaries.iter().map(|(addr, _)| *addr).collect(), ended);
    let open = |addr: &HostPort| -> BTreeMap<NodeId, u64> {
        let is_closed = |node: &NodeId| closed.0.contains_key(&(*node, addr.clone()));
        ended.iter().filter(|(node, _)| !is_closed(node)).map(|(node, ends_ns)| (*node, *ends_ns)).collect()
    };
    let fixes = primaries.into_iter().map(|(addr, group)| BlockedFix {
        addr: addr.clone(),
        credentials: group.credentials.clone(),
        nodes: open(addr),
    });
    fixes.filter(|fix| !fix.nodes.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::{
        ids::{Epoch, GroupId, ProductId},
        route::Mode,
        slot::Layout,
        state::{Group, GroupOptions, Product, Server},
    };

    fn addr(port: u16) -> HostPort {
        HostPort::parse(&format!("h:{port}")).unwrap()
    }

    /// A product whose groups have these primaries, each with a replica.
    fn product(id: u32, isolated: Isolated, primaries: &[u16]) -> Product {
        let server = |port| Server::new(addr(port), String::new(), 0);
        let group = |(n, port): (u32, &u16)| {
            let id = GroupId(n);
            let servers = vec![server(*port), server(*port + 100)];
            let group = Group {
                id,
                servers,
                credentials: None,
                former: None,
                data_user: None,
                epoch: Epoch(1),
                given_away: BTreeSet::new(),
                sweep: None,
                options: GroupOptions::default(),
                replid: String::new(),
                run_id: String::new(),
                restarted_with: None,
                required_offset: None,
                ejection: None,
            };
            (id, group)
        };
        Product {
            id: ProductId(id),
            name: id.to_string(),
            port: 1,
            layout: Layout::Codis,
            mode: Mode::Store,
            isolated,
            databases: 16,
            auth: Default::default(),
            groups: (1..).zip(primaries).map(group).collect(),
            auto_rebalance: false,
            min_acks: 0,
            min_acks_ms: 1000,
            clients_max: 0,
            rules: Default::default(),
            reads: Default::default(),
            scripts: Default::default(),
            scans: Default::default(),
            sweep_runs: 0,
            slots: Vec::new(),
        }
    }

    #[test]
    fn connections_are_closed_once_for_each_lease_at_primaries_of_products_that_refuse() {
        let mut state = ClusterState::default();
        for product in [product(1, Isolated::Refuse, &[1, 2]), product(2, Isolated::Serve, &[3])] {
            state.products.insert(product.id, product);
        }
        let mut closed = ClosedConnections::default();
        let mut due = |state: &ClusterState, ended: &[(u64, u64)], done: &[u16]| {
            let ended = ended.iter().map(|(node, ends)| (NodeId(*node), *ends)).collect();
            let fixes = decide(state, &ended, &mut closed);
            for fix in fixes.iter().filter(|fix| done.iter().any(|port| addr(*port) == fix.addr)) {
                closed.done(fix);
            }
            let nodes = |fix: &BlockedFix| fix.nodes.iter().map(|(node, ends)| (node.0, *ends)).collect::<Vec<_>>();
            fixes.iter().map(|fix| (fix.addr.to_string(), nodes(fix))).collect::<Vec<_>>()
        };
        let at = |port: u16, nodes: &[(u64, u64)]| (addr(port).to_string(), nodes.to_vec());
        assert_eq!(due(&state, &[], &[]), []);
        let one = [(7, 50)];
        assert_eq!(due(&state, &one, &[1]), [at(1, &one), at(2, &one)]);
        assert_eq!(due(&state, &one, &[]), [at(2, &one)], "that server has not answered");
        assert_eq!(due(&state, &one, &[2]), [at(2, &one)]);
        assert_eq!(due(&state, &one, &[]), []);
        let two = [(7, 50), (8, 60)];
        assert_eq!(due(&state, &two, &[1, 2]), [at(1, &[(8, 60)]), at(2, &[(8, 60)])]);
        assert_eq!(due(&state, &[(8, 60)], &[]), [], "node 7 serves again");
        assert_eq!(due(&state, &[(7, 90), (8, 60)], &[1, 2]), [at(1, &[(7, 90)]), at(2, &[(7, 90)])]);
        // A promotion: the new primary may have connections of them.
        state.products.get_mut(&ProductId(1)).unwrap().groups.get_mut(&GroupId(1)).unwrap().servers.reverse();
        assert_eq!(due(&state, &[(7, 90), (8, 60)], &[]), [at(101, &[(7, 90), (8, 60)])]);
    }
}
