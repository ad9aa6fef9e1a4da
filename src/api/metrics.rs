//! `/metrics` for Prometheus: what this node counts. With a cluster secret it needs the secret, since it names products.
//! A new counter is one line in `src/proxy/counters.rs` or `src/counters.rs`.
//! Knows nothing of what the counters mean.

use std::{fmt, sync::Arc};

use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    routing::get,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use tokio::sync::watch;

use crate::{
    counters,
    proxy::{ClientRefusal, ProxyReport},
    wire::{auth::ClusterSecret, refused::RefusedCalls},
};

/// OpenMetrics text, which Prometheus asks for first.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is shown.
#[derive(Clone, Debug)]
pub struct Counted {
    /// The report of the proxy.
    pub report: watch::Receiver<Arc<ProxyReport>>,
    /// Calls to the admin port that were refused.
    pub refused: Arc<RefusedCalls>,
    /// Clients that the node accepts.
    pub clients_max: usize,
    /// The cluster secret, which requests must have. It counts those with the other one.
    pub secret: ClusterSecret,
}

/// The route.
pub fn routes(counted: Counted) -> Router {
    let metrics = move |headers: HeaderMap| {
        let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let reply = if counted.secret.admits(given) {
            (StatusCode::OK, [(header::CONTENT_TYPE, CONTENT_TYPE)], page(&counted))
        } else {
            let text = "this cluster has a secret: send the header `authorization: Bearer SECRET`\n";
            (StatusCode::UNAUTHORIZED, [(header::CONTENT_TYPE, "text/plain")], text.to_owned())
        };
        async move { reply }
    };
    Router::new().route("/metrics", get(metrics))
}

fn page(counted: &Counted) -> String {
    let mut registry = Registry::with_prefix("pontoon");
    let report = counted.report.borrow().clone();
    let refused = counted.refused.by_reason();
    let (clients_max, other_secret) = (counted.clients_max, counted.secret.other_used());
    registry.register_collector(Box::new(Snapshot { report, refused, clients_max, other_secret }));
    let mut page = String::new();
    // Writing into a string cannot fail.
    let _ = text::encode(&mut page, &registry);
    page
}

/// The values of one moment.
#[derive(Debug)]
struct Snapshot {
    report: Arc<ProxyReport>,
    refused: [(&'static str, u64); 11],
    clients_max: usize,
    other_secret: u64,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut result = Ok(());
        let mut count = |name, help, value| {
            let written = encoder
                .encode_descriptor(name, help, None, MetricType::Counter)
                .and_then(|out| ConstCounter::new(value).encode(out));
            result = result.and(written);
        };
        self.report.stats.for_each(&mut count);
        let help =
            "Calls and requests to the admin port with the other cluster secret, the second line of the secret file";
        count("calls_other_secret", help, self.other_secret);
        for counter in counters::ALL {
            count(counter.name, counter.help, counter.get());
        }
        result?;
        for (name, help, value) in [
            ("clients_max", "Clients that the node accepts", self.clients_max),
            ("blocked_clients", "Clients whose call blocks", self.report.blocked),
            ("memory_used_bytes", "Bytes that the buffers of the proxy hold", self.report.memory_used),
            ("memory_max_bytes", "Bytes that the buffers of the proxy may hold", self.report.memory_max),
        ] {
            let out = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(out)?;
        }
        let help = "Calls to the admin port that were refused";
        let mut out = encoder.encode_descriptor("calls_refused", help, None, MetricType::Counter)?;
        for (reason, count) in self.refused {
            ConstCounter::new(count).encode(out.encode_family(&[("reason", reason)])?)?;
        }
        self.clients(&mut encoder)
    }
}

impl Snapshot {
    /// What is counted for each product. Its labels are bounded: there are at most 128 products.
    fn clients(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let products = self.report.product_clients.values();
        let mut out = encoder.encode_descriptor("clients", "Connected clients", None, MetricType::Gauge)?;
        for of in products.clone() {
            let connected = i64::try_from(of.connected).unwrap_or(i64::MAX);
            ConstGauge::new(connected).encode(out.encode_family(&[("product", of.name.as_str())])?)?;
        }
        let help = "Connected clients that logged in with the former password";
        let mut out = encoder.encode_descriptor("clients_former_password", help, None, MetricType::Gauge)?;
        for of in products.clone() {
            let former = i64::try_from(of.former_logins).unwrap_or(i64::MAX);
            ConstGauge::new(former).encode(out.encode_family(&[("product", of.name.as_str())])?)?;
        }
        let help = "Logins of clients that failed";
        let mut out = encoder.encode_descriptor("logins_failed", help, None, MetricType::Counter)?;
        for of in products.clone() {
            ConstCounter::new(of.failed_logins).encode(out.encode_family(&[("product", of.name.as_str())])?)?;
        }
        let help = "Clients refused because a limit was reached";
        let mut out = encoder.encode_descriptor("clients_refused", help, None, MetricType::Counter)?;
        for of in products {
            for (reason, refused) in ClientRefusal::ALL.iter().zip(of.refused) {
                let labels = [("product", of.name.as_str()), ("reason", reason.name())];
                ConstCounter::new(refused).encode(out.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        model::ids::ProductId,
        proxy::{ProductClients, StatsSnapshot},
        wire::refused::Because,
    };

    #[test]
    fn the_page_has_every_counter_and_its_labels() {
        let clients = ProductClients {
            accepted: 9,
            name: "shop".into(),
            connected: 7,
            failed_logins: 4,
            former_logins: 5,
            refused: [1, 2, 3],
        };
        let report = ProxyReport {
            stats: StatsSnapshot { transactions: 42, ..StatsSnapshot::default() },
            product_clients: [(ProductId(1), clients)].into(),
            memory_used: 1000,
            blocked: 9,
            ..ProxyReport::default()
        };
        let refused = Arc::new(RefusedCalls::default());
        refused.count(Because::Term);
        let (_, report) = watch::channel(Arc::new(report));
        let secret = ClusterSecret::new("0123456789abcdef\nfedcba9876543210").unwrap();
        assert!(secret.admits(Some(b"Bearer fedcba9876543210")) && secret.admits(Some(b"Bearer 0123456789abcdef")));
        let page = page(&Counted { report, refused, clients_max: 50_000, secret });
        for line in [
            "# TYPE pontoon_transactions counter",
            "pontoon_transactions_total 42",
            "pontoon_clients_max 50000",
            "pontoon_blocked_clients 9",
            "pontoon_memory_used_bytes 1000",
            "pontoon_calls_refused_total{reason=\"term\"} 1",
            "pontoon_calls_refused_total{reason=\"size\"} 0",
            "pontoon_calls_other_secret_total 1",
            "pontoon_clients{product=\"shop\"} 7",
            "pontoon_clients_former_password{product=\"shop\"} 5",
            "pontoon_logins_failed_total{product=\"shop\"} 4",
            "pontoon_clients_refused_total{product=\"shop\",reason=\"node_limit\"} 1",
            "pontoon_clients_refused_total{product=\"shop\",reason=\"product_limit\"} 2",
            "pontoon_clients_refused_total{product=\"shop\",reason=\"worker_busy\"} 3",
            "# EOF",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is missing in\n{page}");
        }
        for counter in counters::ALL {
            assert!(page.contains(&format!("pontoon_{}_total ", counter.name)), "{}", counter.name);
        }
    }
}
