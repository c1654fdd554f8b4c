#!/usr/bin/env python3
"""A real Prometheus scrapes a real cluster under a replay: every query of every dashboard and rule is run against it, no panel is without data,
every metric that is named is exported, what was counted is what the replay saw, and a healthy cluster raises no alert.
Usage: prometheus_test.py BINARIES. Ends with 77 where Prometheus is not installed."""

import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/prometheus"
BOARDS = ROOT / "deploy/grafana"
PATIENCE_S = 60

# Panels of which a cluster that is well and small may show nothing, and why.
MAY_BE_EMPTY = {}

failures = []


def check(good, what):
    if not good:
        failures.append(what)
        print(f"FAILED: {what}", flush=True)


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, **more)


def fetch(url):
    with urllib.request.urlopen(url, timeout=30) as reply:
        return reply.read().decode()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prometheus:
    def __init__(self, folder, nodes, directory):
        for rules in RULES.glob("*.rules.yml"):
            shutil.copy(rules, folder)
        # The example's own jobs and rules, with this cluster's addresses and a pace for a test.
        text = (RULES / "prometheus.yml.example").read_text()
        text = text.replace("interval: 10s", "interval: 1s")
        for job, members in (("127.0.0.1:7411", nodes), ("127.0.0.1:7401", directory)):
            begin = text.index(f'      - targets: ["{job}"]')
            end = text.index("\n", text.index("labels:", begin)) + 1
            text = text[:begin] + "".join(f'      - targets: ["{http}"]\n        labels: {{instance: {name}}}\n' for name, http in members) + text[end:]
        (folder / "prometheus.yml").write_text(text)
        checked = run("promtool", "check", "config", str(folder / "prometheus.yml"))
        check(checked.returncode == 0, f"promtool check config: {checked.stdout}{checked.stderr}")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = open(folder / "prometheus.log", "w")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"],
            stdout=self.log, stderr=self.log)

    def ask(self, path, **arguments):
        reply = json.loads(fetch(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"))
        assert reply["status"] == "success", reply
        return reply["data"]

    def query(self, expression):
        """Samples that are numbers, with their labels."""
        try:
            result = self.ask("query", query=expression)["result"]
        except urllib.error.HTTPError as error:
            check(False, f"{expression}: {error.read().decode()}")
            return []
        return [(each["metric"], float(each["value"][1])) for each in result if each["value"][1] != "NaN"]

    def value(self, expression):
        samples = self.query(expression)
        return samples[0][1] if samples else None

    def await_true(self, expression):
        """False when it is not within PATIENCE_S."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            try:
                if self.query(expression):
                    return True
            except (urllib.error.URLError, ConnectionError, AssertionError):
                pass
            time.sleep(0.2)
        return False

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def rule_expressions():
    """(name, PromQL) of every rule, as promtool reads them."""
    rules = []
    for path in sorted(RULES.glob("*.rules.yml")):
        lines = path.read_text().splitlines()
        for i, line in enumerate(lines):
            begins = re.match(r" *- (alert|record): (\S+)", line)
            if begins:
                rules.append((begins[1], begins[2]))
    return rules


def panels():
    for path in sorted(BOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            yield path.stem, panel


def check_files():
    checked = run(str(BOARDS / "dashboards.py"), "--check")
    check(checked.returncode == 0, checked.stderr)
    checked = run("promtool", "check", "rules", *map(str, RULES.glob("*.rules.yml")))
    check(checked.returncode == 0, f"promtool check rules: {checked.stdout}{checked.stderr}")
    with tempfile.TemporaryDirectory() as folder:
        for path in [*RULES.glob("*.rules.yml"), ROOT / "tests/integration/alerts.test.yml"]:
            shutil.copy(path, folder)
        checked = run("promtool", "test", "rules", "alerts.test.yml", cwd=folder)
        check(checked.returncode == 0, f"promtool test rules: {checked.stdout}{checked.stderr}")
    tests = (ROOT / "tests/integration/alerts.test.yml").read_text()
    for kind, name in rule_expressions():
        check(kind != "alert" or name in tests, f"{name} has no case in alerts.test.yml")


def replay(stemctl, folder):
    """Twice, so that what was spilled and what peers hold is asked for again; returns what both saw."""
    trace = folder / "workload.jsonl"
    subprocess.run([stemctl, "workload", "--requests", "600", "--seed", "3", "--out", trace], check=True, stdout=subprocess.DEVNULL)
    asked = {"asked": 0, "hit": 0, "loaded_bytes": 0}
    for _ in range(2):
        done = run(stemctl, "replay", str(trace), "--format", "stem", "--bytes-per-token", "1024", "--dir", str(folder), "--clients", "2", "--json", "-")
        check(done.returncode == 0, f"stemctl replay: {done.stderr}")
        report = json.loads(done.stdout)
        blocks = report["blocks"]
        hit = blocks["local_dram"] + blocks["remote_dram"] + blocks["ssd"]
        asked["hit"] += hit
        asked["asked"] += hit + sum(blocks["miss"].values())
    return asked


def check_counts(prometheus, saw):
    for name, expression in (("asked", "sum(stemcache_node_asked_blocks_total)"), ("hit", "sum(stemcache_node_hit_blocks_total)")):
        check(prometheus.value(expression) == saw[name], f"{expression} is {prometheus.value(expression)}; the replay saw {saw[name]}")
    lost = prometheus.query("sum by (instance, namespace, tenant) (stemcache_node_asked_tokens_total) != "
                            "sum by (instance, namespace, tenant) (stemcache_node_hit_tokens_total) + "
                            "sum by (instance, namespace, tenant) (stemcache_node_missed_tokens_total)")
    check(not lost, f"tokens asked are not tokens hit and missed: {lost}")
    funnel = {labels["stage"]: value for labels, value in prometheus.query("sum by (stage) (stemcache_node_funnel_tokens_total)")}
    stages = ["asked", "reusable", "held", "acquired", "loaded"]
    check(all(funnel[wide] >= funnel[narrow] > 0 for wide, narrow in zip(stages, stages[1:])), f"the funnel widens: {funnel}")
    # What the replay acquires, it loads; the last releases of clients that end may not be heard.
    check(funnel["loaded"] > 0.95 * funnel["acquired"], f"the replay loads all that it acquires: {funnel}")


def check_panels(prometheus):
    count = 0
    for board, panel in panels():
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "2m").replace("$__range", "2m")
            expression = re.sub(r"\$(instance|tenant|namespace)\b", ".*", expression)
            count += 1
            if not prometheus.query(expression) and panel["title"] not in MAY_BE_EMPTY:
                check(False, f"{board}: panel '{panel['title']}' shows nothing: {expression}")
    print(f"{count} queries of dashboards")


def check_rules(prometheus):
    groups = prometheus.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    check(len(rules) == len(rule_expressions()), f"Prometheus has {len(rules)} rules of {len(rule_expressions())}")
    for rule in rules:
        check(rule["health"] == "ok", f"rule {rule['name']}: {rule['health']} {rule.get('lastError', '')}")
        prometheus.query(rule["query"])
        if rule["type"] == "recording":
            check(prometheus.query(rule["name"]), f"{rule['name']} records nothing")
        else:
            check(rule["state"] != "firing", f"{rule['name']} fires in a healthy cluster: {rule['alerts']}")
    print(f"{len(rules)} rules")


def check_names(pages):
    exported = set()
    for page in pages:
        checked = run("promtool", "check", "metrics", input=page)
        check(checked.returncode == 0 and not checked.stderr, f"promtool check metrics: {checked.stderr}")
        exported |= set(re.findall(r"^# TYPE (\S+)", page, re.M))
    text = "".join(path.read_text() for path in [*BOARDS.glob("*.json"), *RULES.glob("*.rules.yml")])
    named = set(re.findall(r"(?<![:\w])stemcache_[a-z0-9_]+", text))
    for name in sorted(named):
        check(name in exported or re.sub(r"_(bucket|sum|count)$", "", name) in exported, f"{name} is named, and nothing exports it")
    print(f"{len(named)} names, {len(exported)} metrics exported")


def main():
    if not shutil.which("prometheus") or not shutil.which("promtool"):
        print("skipped: integration.prometheus_test: prometheus is not installed; deploy/install_packages.sh does that")
        sys.exit(77)
    check_files()
    stemctl = str(pathlib.Path(sys.argv[1]) / "stemctl")
    with tempfile.TemporaryDirectory(prefix="stemprom.") as name:
        folder = pathlib.Path(name)
        up = run(stemctl, "cluster", "up", "--nodes", "3", "--dram", "24MiB", "--ssd", "64MiB", "--map-host-peers", "false", "--dir", name, "--json", "-")
        assert up.returncode == 0, up.stderr
        prometheus = None
        try:
            cluster = json.loads(up.stdout)
            nodes = [(node["node"], node["http"]) for node in cluster["nodes"]]
            directory = [("directory", cluster["directory"]["http"])]
            prometheus = Prometheus(folder, nodes, directory)
            assert prometheus.await_true("sum(up) == 4"), (folder / "prometheus.log").read_text()
            saw = replay(stemctl, folder)
            check(prometheus.await_true(f"sum(stemcache_node_asked_blocks_total) >= {saw['asked']} and sum(stemcache:hit_ratio:rate1h) > 0"),
                  "Prometheus has not seen all of the replay")
            check_counts(prometheus, saw)
            check_panels(prometheus)
            check_rules(prometheus)
            check_names([fetch(f"http://{http}/metrics") for _, http in nodes[:1] + directory])
            if failures:  # what the daemons had to say
                for log in sorted((folder / "logs").glob("*.log")):
                    said = [line for line in log.read_text().splitlines() if " warn " in line or " error " in line]
                    print("\n".join([f"{log.name}: {len(said)} warnings and errors", *said[:8]]))
        finally:
            if prometheus is not None:
                prometheus.stop()
            run(stemctl, "cluster", "down", "--dir", name)
    print(f"{len(failures)} failures")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
