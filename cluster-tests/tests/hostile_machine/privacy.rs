//! What other users of the machine can learn from a node.

use cluster_tests::cluster::Cluster;

use crate::damage::open_to_others;

#[test]
fn no_core_is_dumped_and_nobody_else_may_read_the_log() {
    let cluster = Cluster::start(1);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", cluster.node(1).pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    assert!(open_to_others(&cluster.node(1).data_dir).is_empty(), "{:?}", open_to_others(&cluster.node(1).data_dir));

    // A password that others may read is refused.
    let file = cluster.secret_file("password", "hunter2");
    let set = ["product", "set", "default", "--password-file", file.to_str().unwrap()];
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    cluster.cli().refused(&set, &["can be read by others", "chmod 600"]);
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    cluster.cli().ok(&set);
}
