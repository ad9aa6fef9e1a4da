//! Libraries of functions with real nodes and servers: when a change is answered with OK, all groups have it, also while a
//! task of the leader changes the same servers.
#![allow(clippy::unwrap_used)]

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
};

/// Changes of each kind. The leader's own comparison of a server with the catalogue begins with each change, so that without
/// turns some of a hundred collide.
const CHANGES: usize = 100;

#[test]
fn changes_of_libraries_do_not_fail_because_the_leader_makes_them_too() {
    let cluster = Cluster::serving(3);
    let mut clients: Vec<Client> =
        cluster.nodes.iter().map(|node| Client::connect(node.client_port).unwrap()).collect();
    let library =
        |name: &str| format!("#!lua name={name}\nredis.register_function('{name}', function() return '{name}' end)");
    let servers = &cluster.servers;
    for n in 0..CHANGES {
        let nodes = clients.len();
        let client = &mut clients[n % nodes];
        for name in ["one", "other"] {
            let loaded = client.call(&["FUNCTION", "LOAD", "REPLACE", &library(name)]).unwrap();
            assert_eq!(loaded, Reply::bulk(name), "change {n}");
        }
        let removed = match n % 2 {
            0 => client.call(&["FUNCTION", "FLUSH"]).unwrap(),
            _ => {
                assert_eq!(client.call(&["FUNCTION", "DELETE", "one"]).unwrap(), Reply::ok(), "change {n}");
                client.call(&["FUNCTION", "DELETE", "other"]).unwrap()
            }
        };
        assert_eq!(removed, Reply::ok(), "change {n}");
        for server in servers {
            let mut server = Client::connect(server.port).unwrap();
            let left = server.call(&["FUNCTION", "LIST"]).unwrap();
            assert_eq!(left, Reply::Array(Vec::new()), "change {n}, a library is left");
        }
    }
}
