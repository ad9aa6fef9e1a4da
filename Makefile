# What people type. Every recipe works on a fresh machine that has a Rust toolchain.
SHELL := /bin/bash
.PHONY: demo test quick build bench bench-copy bench-prober bench-products bench-migration bench-failover bench-acks chaos simulate fmt fix tools

ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

build: ## the release binary
	cargo build --release

demo: redis ## three nodes and two groups, until Ctrl-C
	cargo build --release
	@target/release/pontoon playground $(ARGS)

.PHONY: redis
redis:
	@command -v redis-server >/dev/null || command -v valkey-server >/dev/null || \
	  { $(ROOT) apt-get update -q && $(ROOT) apt-get install -yq --no-install-recommends redis-server redis-tools; }

.PHONY: systemd
systemd: # for systemd-analyze, which checks deploy/pontoon.service
	@command -v systemd-analyze >/dev/null || \
	  { $(ROOT) apt-get update -q && $(ROOT) apt-get install -yq --no-install-recommends systemd; }

# Clients that tests run against a cluster; kept under target/.
tools: redis systemd
	@test -x target/venv/bin/python || { python3 -m venv target/venv 2>/dev/null || \
	  { $(ROOT) apt-get update -q && $(ROOT) apt-get install -yq --no-install-recommends python3-venv && python3 -m venv target/venv; }; }
	@target/venv/bin/python -c 'import redis, grpc_reflection' 2>/dev/null || target/venv/bin/pip install -q redis grpcio grpcio-reflection
	@command -v npm >/dev/null || { $(ROOT) apt-get update -q && $(ROOT) apt-get install -yq --no-install-recommends nodejs npm; }
	@test -d target/clients/node_modules/ioredis || npm install --silent --no-fund --no-audit --prefix target/clients ioredis

test: tools ## every test there is; the last line sums them up
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo build
	@scripts/run-tests --workspace

quick: redis systemd ## while working: no processes besides redis-server, under five minutes
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@scripts/run-tests --package pontoon

bench: ## the README's table
	@for p in nutcracker haproxy redis-benchmark; do command -v $$p >/dev/null || \
	  { $(ROOT) apt-get update -q && $(ROOT) apt-get install -yq --no-install-recommends nutcracker haproxy redis-tools; break; }; done
	cargo build --release
	python3 benches/proxies.py

bench-copy: redis ## what moving slots costs, beside MIGRATE; ARGS='keys port'
	cargo build --release --example copy
	target/release/examples/copy $(ARGS)

bench-prober: redis ## what watching 200 servers costs a node; ARGS='servers=200 seconds=20'
	cargo build --release --example prober
	target/release/examples/prober $(ARGS)

bench-products: ## what a hold of one product costs a node with 100 products; ARGS='products=100 holds=1000'
	cargo build --release --example products
	target/release/examples/products $(ARGS)

bench-migration: redis ## issue 4's numbers with three nodes, about fifteen minutes; ARGS='--only switches --switches 100'
	cargo build --release --bin pontoon --example load
	python3 benches/migration.py $(ARGS)

bench-failover: redis ## how long a failover and a switchover take; ARGS='--only kill --rounds 3'
	cargo build --release --bin pontoon --example load
	python3 benches/failover.py $(ARGS)

bench-acks: redis ## what min-acks and reads at replicas cost, about eight minutes; ARGS='--only reads --rounds 3'
	cargo build --release --bin pontoon --example load
	python3 benches/acks.py $(ARGS)

chaos: redis ## migrations and promotions under faults chosen by chance; ARGS='--seconds 3600', '--kind promotions' or '--seed N'
	cargo build
	PONTOON_BIN=$(CURDIR)/target/debug/pontoon cargo run --package cluster-tests --bin chaos -- $(ARGS)

SEEDS ?= 10000
simulate: ## the control plane in virtual time, 10,000 seeds of each kind; SEEDS=100000, FIRST=1000000
	PONTOON_SIM_SEEDS=$(SEEDS) PONTOON_SIM_FIRST=$(or $(FIRST),0) PONTOON_SIM_THREADS=$$(nproc) \
	  cargo test --release --test simulation -- --test-threads 1 --nocapture clients_see migrations_lose

fmt:
	cargo fmt --all

fix: fmt
	cargo clippy --workspace --all-targets --fix --allow-dirty
