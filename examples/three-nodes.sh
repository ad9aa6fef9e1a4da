#!/bin/bash
# Starts a three-node cluster step by step: two redis-servers, three nodes, two groups, all slots assigned. Ctrl-C stops and removes it.
# usage: examples/three-nodes.sh [BASE_PORT]     the program: $PONTOON_BIN, else target/release or target/debug
set -euo pipefail
cd "$(dirname "$0")/.."
base=${1:-19000}
bin=${PONTOON_BIN:-}
for candidate in target/release/pontoon target/debug/pontoon; do
    if [ -z "$bin" ] && [ -x "$candidate" ]; then bin=$candidate; fi
done
if [ -z "$bin" ]; then echo "build it first: cargo build --release" >&2; exit 1; fi
dir=$(mktemp -d)
pids=()
cleanup() {
    trap - EXIT INT TERM
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# wait_for WHAT COMMAND...: until the command succeeds, 30 s at most.
wait_for() {
    local what=$1 end=$((SECONDS + 30))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $end ]; then echo "waited 30 s for $what, without success; logs:" >&2; tail -n 3 "$dir"/*.log >&2; exit 1; fi
        sleep 0.1
    done
}
pontoon() { "$bin" --node "127.0.0.1:$((base + 101))" "$@"; }

for i in 1 2; do
    redis-server --port $((base + 200 + i)) --bind 127.0.0.1 --save '' --dir "$dir" >"$dir/redis-$i.log" 2>&1 &
    pids+=($!)
    wait_for "redis-server $i" redis-cli -p $((base + 200 + i)) ping
done

peers=1=127.0.0.1:$((base + 101)),2=127.0.0.1:$((base + 102)),3=127.0.0.1:$((base + 103))
for i in 1 2 3; do
    "$bin" serve --id $i --admin 127.0.0.1:$((base + 100 + i)) --peers "$peers" --bind 127.0.0.1 --port-offset $i \
        --data-dir "$dir/node-$i" --set default_port="$base" >"$dir/node-$i.log" 2>&1 &
    pids+=($!)
done
# The first change of a cluster makes its nodes and the product `default`; before it there is nothing to add groups to.
wait_for "the product 'default'" pontoon slot ls --timeout 1s

pontoon group create 1 --primary 127.0.0.1:$((base + 201))
pontoon group create 2 --primary 127.0.0.1:$((base + 202))
pontoon slot assign 0-511 1
pontoon slot assign 512-1023 2 --wait
pontoon status
redis-cli -p $((base + 1)) SET hello world
redis-cli -p $((base + 3)) GET hello
if [ -n "${ONCE:-}" ]; then exit 0; fi
echo "Use it: redis-cli -p $((base + 1)), $((base + 2)) or $((base + 3)). Ctrl-C stops it."
wait
