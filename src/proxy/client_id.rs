//! Ids of clients: unique in the cluster, increasing on each node, and below 2^53, so that every language has them as
//! numbers. Knows nothing of clients.

use crate::model::ids::NodeId;

/// Bits for the number of a client on its node: a million clients a second use them up in twelve days, a thousand in
/// 34 years.
const NUMBER_BITS: u32 = 40;

/// Bits for the node. Nodes whose ids differ by a multiple of 8192 share them.
const NODE_BITS: u32 = 13;

/// The id of a client; `number` is its number on the node, from 1.
pub(super) const fn client_id(node: NodeId, number: u64) -> u64 {
    ((node.0 & ((1 << NODE_BITS) - 1)) << NUMBER_BITS) | (number & ((1 << NUMBER_BITS) - 1))
}

/// The number of the `n`th client of a worker, both from 0, of `workers`.
pub(super) const fn number(worker: usize, n: u64, workers: usize) -> u64 {
    n * workers as u64 + worker as u64 + 1
}

/// The worker that a client of the node belongs to. `None`: it is the id of another node's client, or of none.
pub(super) fn worker_of(id: u64, node: NodeId, workers: usize) -> Option<usize> {
    let number = id & ((1 << NUMBER_BITS) - 1);
    let is_of_node = number > 0 && client_id(node, number) == id;
    is_of_node.then(|| usize::try_from((number - 1) % workers.max(1) as u64).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_the_node_and_the_worker() {
        for node in [NodeId(1), NodeId(2), NodeId(8191)] {
            let mut before = 0;
            for n in 0..5 {
                for worker in 0..3 {
                    let id = client_id(node, number(worker, n, 3));
                    assert!(id > before && id < 1 << 53, "{id}");
                    before = id;
                    assert_eq!(worker_of(id, node, 3), Some(worker));
                    assert_eq!(worker_of(id, NodeId(node.0 + 1), 3), None);
                }
            }
        }
        assert_eq!((worker_of(0, NodeId(1), 1), worker_of(1 << NUMBER_BITS, NodeId(1), 1)), (None, None));
        assert_ne!(client_id(NodeId(1), 7), client_id(NodeId(2), 7));
    }
}
