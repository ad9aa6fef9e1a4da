//! prometheus-redis-exporter against a product: it sees a Redis.

#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cluster_tests::cluster::Cluster;

const PROGRAM: &str = "prometheus-redis-exporter";

/// Generous, because machines that run tests are busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// The exporter; killed when dropped.
struct Exporter {
    child: Child,
    port: u16,
}

impl Exporter {
    fn start(redis: u16, port: u16) -> Self {
        let child = Command::new(PROGRAM)
            .args(["-redis.addr", &format!("redis://127.0.0.1:{redis}")])
            .args(["-web.listen-address", &format!("127.0.0.1:{port}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{PROGRAM}: {error}. See 'make tools'"));
        Self { child, port }
    }

    fn metrics(&self) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.starts_with("HTTP/1.0 200").then_some(text)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of a series, whose name may have labels.
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {series} in {metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn the_exporter_sees_a_redis() {
    let cluster = Cluster::serving(2);
    let port = cluster.nodes[0].client_port;
    let cli = |args: &[&str]| {
        let ran = Command::new("redis-cli").args(["-p", &port.to_string()]).args(args).output().unwrap();
        String::from_utf8(ran.stdout).unwrap().trim().to_owned()
    };
    for i in 0..20 {
        assert_eq!(cli(&["SET", &format!("k{i}"), "v"]), "OK");
    }
    assert_eq!(cli(&["GET", "k1"]), "v");
    let exporter = Exporter::start(port, cluster.ports.server(39));
    let end = Instant::now() + PATIENCE;
    let metrics = loop {
        match exporter.metrics() {
            Some(metrics) if value(&metrics, "redis_up") == 1.0 => break metrics,
            _ => assert!(Instant::now() < end, "{PROGRAM} does not see the node"),
        }
    };
    assert_eq!(value(&metrics, "redis_db_keys{db=\"db0\"}"), 20.0);
    assert_eq!(value(&metrics, "redis_commands_total{cmd=\"set\"}"), 20.0);
    assert_eq!(value(&metrics, "redis_keyspace_hits_total"), 1.0);
    assert_eq!(value(&metrics, "redis_exporter_last_scrape_error{err=\"\"}"), 0.0);
    for series in [
        "redis_connected_clients",
        "redis_memory_used_bytes",
        "redis_commands_processed_total",
        "redis_net_input_bytes_total",
        "redis_net_output_bytes_total",
        "redis_connections_received_total",
        "redis_process_id",
    ] {
        assert!(value(&metrics, series) > 0.0, "{series}");
    }
    for series in
        ["redis_uptime_in_seconds", "redis_expired_keys_total", "redis_evicted_keys_total", "redis_blocked_clients"]
    {
        assert!(value(&metrics, series) >= 0.0, "{series}");
    }
    assert!(metrics.contains("redis_instance_info{") && metrics.contains("role=\"master\""), "{metrics}");
}
