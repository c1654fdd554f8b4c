#!/usr/bin/env python3
"""Writes the dashboards beside it: fleet.json, node.json, tenant.json. What a panel shows stands here, a line each; the rest of Grafana's
JSON is the same everywhere. Usage: deploy/grafana/dashboards.py [--check]; with --check it writes nothing and fails when a file differs."""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
NODE = 'instance=~"$instance"'
TENANT = 'tenant=~"$tenant",namespace=~"$namespace"'
RANGE = "[$__rate_interval]"


def ratio(part, whole, by=""):
    """A share of tokens: `part` summed by label, over all of `whole`."""
    top = f"sum by ({by}) (rate({part}{RANGE}))" if by else f"sum(rate({part}{RANGE}))"
    over = f"(sum(rate({whole}{RANGE})) > 0)"
    return f"{top} / ignoring({by}) group_left() {over}" if by else f"{top} / {over}"


def rate(name, by="", where=""):
    return f"sum by ({by}) (rate({name}{{{where}}}{RANGE}))" if by else f"sum(rate({name}{{{where}}}{RANGE}))"


def quantile(q, name, by, where=""):
    return f"histogram_quantile({q}, sum by (le, {by}) (rate({name}_bucket{{{where}}}{RANGE})))"


def panel(kind, title, unit, *queries, width=8, height=8, stack=False, help=""):
    """`queries`: (PromQL, legend)."""
    custom = {"fillOpacity": 30 if stack else 5, "lineWidth": 1, "showPoints": "never"}
    if stack:
        custom["stacking"] = {"mode": "normal"}
    defaults = {"unit": unit, "min": 0}
    if kind == "timeseries":
        defaults["custom"] = custom
    out = {
        "type": kind,
        "title": title,
        "description": help,
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "expr": expr, "legendFormat": legend, "instant": kind != "timeseries", "range": kind == "timeseries"}
            for i, (expr, legend) in enumerate(queries)
        ],
        "gridPos": {"w": width, "h": height},
    }
    if kind == "timeseries":
        out["options"] = {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": {"displayMode": "list", "placement": "bottom"}}
    else:
        out["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "orientation": "horizontal" if kind == "bargauge" else "auto"}
    return out


def stat(title, unit, expr, help=""):
    return panel("stat", title, unit, (expr, ""), width=4, height=4, help=help)


def lines(title, unit, *queries, **more):
    return panel("timeseries", title, unit, *queries, **more)


def bars(title, unit, *queries, **more):
    return panel("bargauge", title, unit, *queries, **more)


def variable(name, query):
    return {"type": "query", "name": name, "label": name, "datasource": {"type": "prometheus", "uid": "$datasource"}, "query": query,
            "definition": query, "refresh": 2, "multi": True, "includeAll": True, "allValue": ".*", "sort": 1,
            "current": {"text": "All", "value": "$__all"}}


def dashboard(uid, title, variables, panels):
    x = y = row_height = 0
    for number, each in enumerate(panels):
        grid = each["gridPos"]
        if x + grid["w"] > 24:
            x, y, row_height = 0, y + row_height, 0
        grid.update(x=x, y=y)
        x, row_height = x + grid["w"], max(row_height, grid["h"])
        each["id"] = number + 1
    source = {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "current": {}}
    links = [{"type": "dashboards", "tags": ["stemcache"], "title": "Stemcache", "asDropdown": True, "keepTime": True}]
    return {"uid": uid, "title": title, "tags": ["stemcache"], "schemaVersion": 38, "version": 1, "editable": True, "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"}, "timezone": "browser", "graphTooltip": 1, "links": links,
            "templating": {"list": [source, *variables]}, "annotations": {"list": []}, "panels": panels}


ASKED = "stemcache_node_asked_tokens_total"
HIT = "stemcache_node_hit_tokens_total"
MISSED = "stemcache_node_missed_tokens_total"
FUNNEL = ("The funnel, tokens per second", "short")
FUNNEL_HELP = ("asked; reusable: had nothing left the fleet; held: by the fleet, when it was asked; acquired: served; loaded: copied by the engine, "
               "with proof")

FLEET = dashboard("stemcache-fleet", "Stemcache fleet", [], [
    stat("Hit rate, 5 min", "percentunit", "stemcache:hit_ratio:rate5m"),
    stat("Tokens asked per second", "short", "stemcache:asked_tokens:rate5m"),
    stat("Prefill saved per second", "s", rate("stemcache_node_prefill_saved_seconds_total"),
         help="Engine seconds; only hits of engines that tell how long a block takes (block_compute_us)"),
    stat("Nodes live", "short", 'max(stemcache_directory_nodes{state="live"})'),
    stat("Nodes stale or lost", "short", 'max(sum by (instance) (stemcache_directory_nodes{state!="live"}))'),
    stat("Integrity failures, 24 h", "short", "sum(increase(stemcache_node_integrity_failures_total[24h]))"),
    lines("Hit rate by source", "percentunit", (ratio(HIT, ASKED, "source"), "{{source}}"), stack=True, width=12),
    lines("Missed tokens by cause", "percentunit", (ratio(MISSED, ASKED, "cause"), "{{cause}}"), stack=True, width=12,
          help="Share of the tokens asked for; with the hit rate it adds up to 1"),
    lines("Hit rate", "percentunit", ("stemcache:hit_ratio:rate5m", "5 min"), ("stemcache:hit_ratio:rate1h", "1 h")),
    bars(*FUNNEL, (rate("stemcache_node_funnel_tokens_total", "stage"), "{{stage}}"), help=FUNNEL_HELP),
    lines("Bytes by path", "Bps", (rate("stemcache_node_bytes_total", "path"), "{{path}}"), stack=True),
    lines("DRAM fill by node", "percentunit",
          ("sum by (instance) (stemcache_node_pool_used_bytes) / (sum by (instance) (stemcache_node_pool_bytes) > 0)", "{{instance}}"),
          help="A cache that has warmed up is full; what matters is what that costs: missed tokens, evicted"),
    lines("SSD fill by node", "percentunit", ("instance:stemcache_ssd_used:ratio", "{{instance}}")),
    lines("Acquire, p50 and p99", "s", (quantile(0.5, "stemcache_node_stage_seconds", "stage", 'stage="acquire"'), "p50"),
          (quantile(0.99, "stemcache_node_stage_seconds", "stage", 'stage="acquire"'), "p99")),
    lines("Deadline misses by step", "short", (rate("stemcache_node_deadline_misses_total", "stage"), "{{stage}}")),
    lines("Refused blocks by reason", "short", (rate("stemcache_node_refused_blocks_total", "call, reason"), "{{call}} {{reason}}")),
    lines("Integrity failures by holder and tier", "short",
          ("sum by (holder, tier) (increase(stemcache_node_integrity_failures_total[1h]))", "{{holder}} {{tier}}")),
    lines("Directory: match p50, p99", "s", (quantile(0.5, "stemcache_directory_match_seconds", "instance"), "p50 {{instance}}"),
          (quantile(0.99, "stemcache_directory_match_seconds", "instance"), "p99 {{instance}}")),
    lines("Directory: stream lag", "s", ("max by (node) (stemcache_directory_stream_lag_seconds)", "{{node}}")),
    lines("Directory: matches, by how sure", "short", (rate("stemcache_directory_matches_total", "truth"), "{{truth}}"), stack=True),
    lines("Directory: index blocks and ghosts", "short", ("stemcache_directory_index_blocks", "blocks {{instance}}"),
          ("stemcache_directory_ghosts", "ghosts {{instance}}")),
    lines("Directory: index memory", "bytes", ("stemcache_directory_index_bytes", "{{instance}}")),
    lines("Directory: changes and resyncs", "short", (rate("stemcache_directory_changes_applied_total", "instance"), "changes {{instance}}"),
          (rate("stemcache_directory_resyncs_total", "instance"), "resyncs {{instance}}")),
    lines("Single flight", "short", (rate("stemcache_node_single_flight_total", "outcome"), "{{outcome}}"),
          help="Engines that would compute what is missing: ours compute, the others waited for those"),
    bars("Versions", "short", ('count by (process, version) (stemcache_build_info)', "{{process}} {{version}}")),
])

NODE_DASHBOARD = dashboard("stemcache-node", "Stemcache node", [variable("instance", "label_values(stemcache_node_sessions, instance)")], [
    stat("Hit rate", "percentunit", ratio(f"{HIT}{{{NODE}}}", f"{ASKED}{{{NODE}}}")),
    stat("Lookups per second", "short", rate("stemcache_node_acquires_total", where=NODE)),
    stat("Clients", "short", f"sum(stemcache_node_sessions{{{NODE}}})"),
    stat("Integrity failures, 24 h", "short", f"sum(increase(stemcache_node_integrity_failures_total{{{NODE}}}[24h]))"),
    stat("Orphan blocks", "short", f"sum(stemcache_node_orphan_blocks{{{NODE}}})", help="0, or there is a bug"),
    stat("Fragmented bytes", "bytes", f"sum(stemcache_node_pool_fragmentation_bytes{{{NODE}}})",
         help="Slots that are neither free nor in use; 0 by design, as any free slot takes any block"),
    lines("Blocks hit by source", "short", (rate("stemcache_node_hit_blocks_total", "source", NODE), "{{source}}"), stack=True),
    lines("Blocks missed by cause", "short", (rate("stemcache_node_missed_blocks_total", "cause", NODE), "{{cause}}"), stack=True),
    lines("Blocks published", "short", (rate("stemcache_node_published_blocks_total", where=NODE), "published"),
          (rate("stemcache_node_copied_blocks_total", "outcome", NODE), "copies {{outcome}}")),
    lines("Steps, p50", "s", (quantile(0.5, "stemcache_node_stage_seconds", "stage", NODE), "{{stage}}")),
    lines("Steps, p99", "s", (quantile(0.99, "stemcache_node_stage_seconds", "stage", NODE), "{{stage}}")),
    lines("Deadline misses by step", "short", (rate("stemcache_node_deadline_misses_total", "stage", NODE), "{{stage}}")),
    lines("Bytes by path", "Bps", (rate("stemcache_node_bytes_total", "path", NODE), "{{path}}"), stack=True),
    lines("Speed by path, while busy", "Bps",
          (f"sum by (path) (rate(stemcache_node_bytes_total{{{NODE}}}{RANGE})) / "
           f"(sum by (path) (rate(stemcache_node_busy_seconds_total{{{NODE}}}{RANGE})) > 0)", "{{path}}")),
    lines("Speed of reads by peer", "Bps",
          (f"sum by (peer) (rate(stemcache_node_peer_read_bytes_total{{{NODE}}}{RANGE})) / "
           f"(sum by (peer) (rate(stemcache_node_peer_read_seconds_total{{{NODE}}}{RANGE})) > 0)", "{{peer}}")),
    lines("Slots", "short", (f"sum(stemcache_node_pool_slots{{{NODE}}})", "all"), (f"sum(stemcache_node_pool_free_slots{{{NODE}}})", "free"),
          (f"sum(stemcache_node_pool_pinned_slots{{{NODE}}})", "pinned")),
    lines("Blocks held", "short", (f"sum by (tier) (stemcache_node_blocks{{{NODE}}})", "{{tier}}")),
    lines("Evictions by tier and policy", "short", (rate("stemcache_node_evicted_blocks_total", "tier, policy, to", NODE), "{{tier}} to {{to}}, {{policy}}")),
    lines("Age at eviction, p50 and p95", "s", (quantile(0.5, "stemcache_node_eviction_age_seconds", "tier", NODE), "p50 {{tier}}"),
          (quantile(0.95, "stemcache_node_eviction_age_seconds", "tier", NODE), "p95 {{tier}}")),
    lines("Spill", "short", (rate("stemcache_node_spilled_blocks_total", where=NODE), "written"),
          (rate("stemcache_node_spill_rejected_blocks_total", where=NODE), "rejected")),
    lines("Write amplification", "short",
          (f"sum(rate(stemcache_node_spill_written_bytes_total{{{NODE}}}{RANGE})) / "
           f"(sum(rate(stemcache_node_spill_put_bytes_total{{{NODE}}}{RANGE})) > 0)", "disk over payload")),
    lines("SSD", "bytes", (f"sum(stemcache_node_ssd_quota_bytes{{{NODE}}})", "quota"), (f"sum(stemcache_node_ssd_used_bytes{{{NODE}}})", "used"),
          (f"sum(stemcache_node_spill_file_bytes{{{NODE}}})", "file"), (f"sum(stemcache_node_ssd_available_bytes{{{NODE}}})", "free on disk")),
    lines("Leases and pins", "short", (f"sum(stemcache_node_leases{{{NODE}}})", "leases"), (f"sum(stemcache_node_pins{{{NODE}}})", "pins"),
          (f"sum(stemcache_node_reservations{{{NODE}}})", "reservations"), (rate("stemcache_node_expired_total", "what", NODE), "expired {{what}}")),
    lines("Longest held", "s", (f"max(stemcache_node_lease_longest_seconds{{{NODE}}})", "lease"),
          (f"max(stemcache_node_pin_longest_seconds{{{NODE}}})", "pin")),
    lines("Calls that wait", "short", (f"sum by (queue) (stemcache_node_queue_depth{{{NODE}}})", "{{queue}}")),
    lines("Refused blocks by reason", "short", (rate("stemcache_node_refused_blocks_total", "call, reason", NODE), "{{call}} {{reason}}")),
    lines("Changes that a directory lacks", "short",
          (f"max by (directory) (stemcache_node_directory_lag_changes{{{NODE}}})", "{{directory}}")),
    lines("Proved again in memory", "short", (rate("stemcache_node_scrubbed_blocks_total", where=NODE), "blocks")),
])

TENANT_DASHBOARD = dashboard("stemcache-tenant", "Stemcache tenant", [
    variable("tenant", "label_values(stemcache_node_asked_tokens_total, tenant)"),
    variable("namespace", 'label_values(stemcache_node_asked_tokens_total{tenant=~"$tenant"}, namespace)'),
], [
    stat("Hit rate", "percentunit", ratio(f"{HIT}{{{TENANT}}}", f"{ASKED}{{{TENANT}}}")),
    stat("Tokens asked per second", "short", rate(ASKED, where=TENANT)),
    stat("Tokens served per second", "short", rate(HIT, where=TENANT)),
    stat("Prefill saved per second", "s", rate("stemcache_node_prefill_saved_seconds_total", where=TENANT)),
    stat("DRAM used", "bytes", 'sum(stemcache_node_pool_used_bytes{tenant=~"$tenant"})'),
    stat("SSD used", "bytes", 'sum(stemcache_node_pool_ssd_bytes{tenant=~"$tenant"})'),
    lines("Hit rate by namespace", "percentunit",
          (f"sum by (namespace) (rate({HIT}{{{TENANT}}}{RANGE})) / (sum by (namespace) (rate({ASKED}{{{TENANT}}}{RANGE})) > 0)", "{{namespace}}"),
          width=12),
    lines("Missed tokens by cause", "percentunit", (ratio(f"{MISSED}{{{TENANT}}}", f"{ASKED}{{{TENANT}}}", "cause"), "{{cause}}"), stack=True,
          width=12),
    lines("Tokens asked by tenant", "short", (rate(ASKED, "tenant"), "{{tenant}}"), stack=True, help="All tenants: who is busy"),
    lines("Tokens refused or too late by tenant", "percentunit",
          ('sum by (tenant) (rate(stemcache_node_missed_tokens_total{cause=~"refused|deadline"}[$__rate_interval])) / '
           "(sum by (tenant) (rate(stemcache_node_asked_tokens_total[$__rate_interval])) > 0)", "{{tenant}}"),
          help="All tenants: who suffers"),
    bars(*FUNNEL, (rate("stemcache_node_funnel_tokens_total", "stage", TENANT), "{{stage}}"), help=FUNNEL_HELP),
    lines("Hit tokens by source", "short", (rate(HIT, "source", TENANT), "{{source}}"), stack=True),
    lines("DRAM fill by tenant", "percentunit", ("tenant:stemcache_pool_used:ratio", "{{tenant}}")),
    lines("Evicted blocks by tenant", "short", ("tenant:stemcache_evicted_blocks:rate5m", "{{tenant}}")),
    lines("Published blocks by namespace", "short", (rate("stemcache_node_published_blocks_total", "namespace", TENANT), "{{namespace}}")),
    lines("Lookups by namespace", "short", (rate("stemcache_node_acquires_total", "namespace", TENANT), "{{namespace}}")),
])


def main():
    stale = []
    for name, board in (("fleet", FLEET), ("node", NODE_DASHBOARD), ("tenant", TENANT_DASHBOARD)):
        path = HERE / f"{name}.json"
        text = json.dumps(board, indent=1) + "\n"
        if "--check" in sys.argv[1:]:
            if not path.exists() or path.read_text() != text:
                stale.append(path.name)
        else:
            path.write_text(text)
    if stale:
        sys.exit(f"dashboards.py: {', '.join(stale)} is not what this script writes; run it")


if __name__ == "__main__":
    main()
