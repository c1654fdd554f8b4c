// A cluster of real processes and a replay against it, by stemctl.
import { execFile, spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

export class Cluster {
  replays = [];

  static async up(binaries, nodes, more = []) {
    const cluster = new Cluster();
    cluster.stemctl = join(binaries, "stemctl");
    cluster.dir = await mkdtemp(join(tmpdir(), "stem-console-"));
    // Over UCX, as between hosts: so that there are links to show.
    const size = ["--nodes", String(nodes), "--dram", "32MiB", "--ssd", "128MiB", "--map-host-peers", "false"];
    await run(cluster.stemctl, ["cluster", "up", ...size, ...more, "--dir", cluster.dir]);
    cluster.state = JSON.parse(await readFile(join(cluster.dir, "cluster.json"), "utf8"));
    cluster.url = `http://${cluster.state.directory.http}`;
    return cluster;
  }

  async token() {
    return (await readFile(join(this.dir, "directory", "ready.json.token"), "utf8")).trim();
  }

  async replay(requests, seed) {
    const trace = join(this.dir, `trace-${seed}.jsonl`);
    await run(this.stemctl, ["workload", "--requests", String(requests), "--seed", String(seed), "--out", trace]);
    const replaying = spawn(this.stemctl, ["replay", trace, "--format", "stem", "--bytes-per-token", "1024", "--dir", this.dir, "--clients", "2", "--json", join(this.dir, "replay.json")], { stdio: "ignore" });
    this.replays.push(replaying);
    return new Promise((done) => replaying.on("exit", (code) => done(code)));
  }

  endReplays() {
    for (const replaying of this.replays) if (replaying.exitCode === null) replaying.kill();
  }

  kill(name) {
    process.kill(this.state.nodes.find((node) => node.name === name).pid, "SIGKILL");
  }

  async ask(path) {
    const response = await fetch(`${this.url}/api/${path}`);
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
    return response.json();
  }

  async down() {
    this.endReplays();
    await run(this.stemctl, ["cluster", "down", "--dir", this.dir]).catch(() => {});
    await rm(this.dir, { recursive: true, force: true });
  }
}
