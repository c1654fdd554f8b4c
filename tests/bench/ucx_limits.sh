#!/usr/bin/env bash
# What UCX alone does over loopback TCP, tuned as the transport tunes it: the limit beside transport_bench's rows.
# Needs ucx_perftest (Debian: ucx-utils). Usage: tests/bench/ucx_limits.sh [BYTES [ITERATIONS]]; one row a test, GB/s (10^9).
# Its source is never written, so all of it is the kernel's one page of zeros, and 2 MiB stay in the cache: an upper bound.
set -euo pipefail

bytes=${1:-2097152}
iterations=${2:-400}
command -v ucx_perftest >/dev/null || { echo "ucx_limits: no ucx_perftest; install ucx-utils" >&2; exit 1; }
export UCX_TLS=tcp UCX_NET_DEVICES=lo UCX_LOG_LEVEL=error
export UCX_TCP_TX_SEG_SIZE=512k UCX_TCP_RX_SEG_SIZE=512k UCX_TCP_SNDBUF=4m UCX_TCP_RCVBUF=4m

for test in ucp_get ucp_put_bw ucp_am_bw; do
  for outstanding in 1 4; do
    port=$((20000 + RANDOM % 20000))
    ucx_perftest -p "$port" >/dev/null 2>&1 &
    server=$!
    for _ in $(seq 50); do grep -q ":$(printf '%04X' "$port") .* 0A " /proc/net/tcp && break; sleep 0.1; done
    row=$(ucx_perftest -p "$port" 127.0.0.1 -t "$test" -s "$bytes" -n "$iterations" -w 20 -O "$outstanding" -f -v | tail -1)
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    awk -F, -v t="$test" -v o="$outstanding" '{printf "%-11s %d outstanding  %.2f GB/s\n", t, o, $6 * 1048576 / 1e9}' <<<"$row"
  done
done
