import { useEffect, useRef, useState } from "preact/hooks";
import { mayOrder, num, order, sum, type Count, type Fleet, type FleetNode, type History, type NodeAnswer, type NodeStatus } from "../api";
import { along, Chart, timeline } from "../chart";
import { ago, bytes, count, duration, percent, rate } from "../format";
import { linkTo, useAsk, type Place } from "../hooks";
import { Bar, Loading, rangeOf, Ranges, Tile, Trouble } from "../parts";
import { PATHS, SOURCES } from "../words";

type Answers = { nodes: (NodeAnswer & { status?: NodeStatus })[] };

interface Flow {
  from: string;
  to: string;
  bytesPerSecond: number; // NaN until two answers tell
  bytes: number;
}

// What each node read from each other: the difference of two answers.
function useFlows(answers: Answers | undefined): Flow[] {
  const before = useRef<{ at: number; bytes: Map<string, number> }>();
  const [flows, setFlows] = useState<Flow[]>([]);
  useEffect(() => {
    if (!answers) return;
    const now = { at: performance.now(), bytes: new Map<string, number>() };
    const found: Flow[] = [];
    for (const { node, status } of answers.nodes) {
      for (const link of status?.links ?? []) {
        const key = `${link.peer}\n${node}`;
        const total = num(link.bytes);
        now.bytes.set(key, total);
        const last = before.current?.bytes.get(key);
        const seconds = before.current ? (now.at - before.current.at) / 1000 : 0;
        found.push({ from: link.peer, to: node, bytes: total, bytesPerSecond: last !== undefined && seconds > 0 ? Math.max(0, total - last) / seconds : NaN });
      }
    }
    before.current = now;
    setFlows(found.sort((a, b) => (b.bytesPerSecond || 0) - (a.bytesPerSecond || 0) || b.bytes - a.bytes));
  }, [answers]);
  return flows;
}

const CIRCLE_MAX = 24; // nodes that a drawing can still tell apart

function Topology({ nodes, flows }: { nodes: FleetNode[]; flows: Flow[] }) {
  const names = nodes.map((node) => node.address.node);
  const hosts = [...new Set(nodes.map((node) => node.address.hostId))];
  const radius = 110;
  const place = (name: string) => {
    const angle = (2 * Math.PI * names.indexOf(name)) / names.length - Math.PI / 2;
    return { x: 190 + radius * Math.cos(angle), y: 150 + radius * Math.sin(angle) };
  };
  const most = Math.max(1, ...flows.map((flow) => flow.bytesPerSecond || 0));
  const total = flows.reduce((all, flow) => all + (flow.bytesPerSecond || 0), 0);
  return (
    <div class="topology">
      {names.length > 1 && names.length <= CIRCLE_MAX && (
        <svg viewBox="0 0 380 300" role="img" aria-label={`${names.length} nodes on ${hosts.length} hosts, ${rate(total)} between them`}>
          {flows.filter((flow) => names.includes(flow.from) && names.includes(flow.to)).map((flow) => {
            const a = place(flow.from);
            const b = place(flow.to);
            // Each direction bends its own way.
            const bend = { x: (a.x + b.x) / 2 + (b.y - a.y) * 0.12, y: (a.y + b.y) / 2 - (b.x - a.x) * 0.12 };
            return (
              <path key={`${flow.from} ${flow.to}`} class={flow.bytesPerSecond > 0 ? "flow" : "flow idle"} d={`M${a.x} ${a.y} Q${bend.x} ${bend.y} ${b.x} ${b.y}`} style={{ strokeWidth: `${1 + (5 * (flow.bytesPerSecond || 0)) / most}px` }}>
                <title>{`${flow.from} to ${flow.to}: ${rate(flow.bytesPerSecond)}, ${bytes(flow.bytes)} so far`}</title>
              </path>
            );
          })}
          {nodes.map((node) => {
            const at = place(node.address.node);
            return (
              <g key={node.address.node} class={`peer ${node.state}${node.draining ? " draining" : ""}`}>
                <circle cx={at.x} cy={at.y} r="13"><title>{`${node.address.node}: ${node.draining ? "draining" : node.state}`}</title></circle>
                <text x={at.x} y={at.y + (at.y > 150 ? 30 : -20)} text-anchor="middle">{node.address.node}</text>
              </g>
            );
          })}
        </svg>
      )}
      <div>
        <h2>Read from each other</h2>
        {flows.length === 0 ? <p class="nothing">No node has read from another over the network. Nodes of one host read each other's memory in place.</p> : (
          <table>
            <thead><tr><th>from</th><th>to</th><th>now</th><th>so far</th></tr></thead>
            <tbody>
              {flows.slice(0, 12).map((flow) => (
                <tr key={`${flow.from} ${flow.to}`}><td>{flow.from}</td><td>{flow.to}</td><td>{isNaN(flow.bytesPerSecond) ? "–" : `${(flow.bytesPerSecond / 1e9).toFixed(3)} GB/s`}</td><td>{bytes(flow.bytes)}</td></tr>
              ))}
            </tbody>
          </table>
        )}
        {flows.length > 12 && <p class="faint">and {flows.length - 12} links more</p>}
      </div>
    </div>
  );
}

function Drain({ node, done }: { node: FleetNode; done: () => void }) {
  const [told, setTold] = useState("");
  const pull = async (resume: boolean) => {
    if (!resume && !confirm(`Drain ${node.address.node}? It takes no new sessions and publishes until it is resumed.`)) return;
    if (!mayOrder()) return;
    try {
      const reply = await order<{ draining: boolean; sessions: Count; leases: Count }>(node.address.node, "drain", { resume });
      setTold(reply.draining ? `${reply.sessions} sessions, ${reply.leases} leases left` : "resumed");
    } catch (error) {
      setTold((error as Error).message);
    }
    done();
  };
  return (
    <>
      <button class={node.draining ? "" : "danger"} onClick={() => pull(node.draining)}>{node.draining ? "Resume" : "Drain"}</button>
      {told && <small role="status"> {told}</small>}
    </>
  );
}

// One node: what it counted, and what it says of itself.
function OneNode({ node, place, admin, again }: { node: FleetNode; place: Place; admin: boolean; again: () => void }) {
  const name = node.address.node;
  const range = rangeOf(place);
  const history = useAsk<History>("history", { seconds: range, points: 200, node: name }, 3000);
  const answers = useAsk<Answers>(node.state === "lost" ? null : "nodes", { node: name }, 3000);
  const { xs, points } = timeline(history.value?.points ?? []);
  const answer = answers.value?.nodes[0];
  return (
    <section class="one" aria-label={name}>
      <div class="head">
        <h2>{name} <span class={`state ${node.state}`}>{node.draining ? "draining" : node.state}</span> {admin && node.state !== "lost" && <Drain node={node} done={again} />}</h2>
        <Ranges place={place} />
        <a class="more" href={linkTo("nodes")}>close</a>
      </div>
      <Trouble error={history.error ?? answers.error ?? answer?.error} />
      <div class="tiles">
        <Tile label="health" value={`${node.healthPercent} %`} state={node.healthPercent < 50 ? "warn" : undefined} note="of its reads in time and proved" />
        <Tile label="heard" value={ago(node.silentMs)} state={node.state === "live" ? undefined : "bad"} note={`${num(node.resyncs)} resyncs`} />
        <Tile label="sessions" value={answer?.status ? count(num(answer.status.sessions)) : "–"} note={answer?.status ? `${count(num(answer.status.pins))} pins, ${count(num(answer.status.leases))} leases` : undefined} />
        <Tile label="up" value={answer?.status ? duration(num(answer.status.uptimeMs)) : "–"} note={answer?.status?.version} />
        <Tile label="failed proofs" value={answer?.status ? count(num(answer.status.integrityFailures)) : "–"} state={num(answer?.status?.integrityFailures) > 0 ? "bad" : undefined} />
      </div>
      {answer?.status && (
        <div class="scroll">
          <table>
            <thead><tr><th>trust group</th><th>memory used</th><th>of at most</th><th>pinned by operators</th><th>in use</th></tr></thead>
            <tbody>
              {answer.status.arenas.map((arena) => {
                const used = (num(arena.slots) - num(arena.slotsFree)) * num(arena.slotBytes);
                const most = num(arena.bytesMax) || num(arena.bytes);
                return (
                  <tr key={arena.group}>
                    <td>{arena.group}</td>
                    <td><Bar used={used} all={most} label={`${bytes(used)} of ${bytes(most)}`} /></td>
                    <td>{bytes(most)}{most < num(arena.bytes) && <small class="faint"> of {bytes(num(arena.bytes))}</small>}</td>
                    <td>{bytes(num(arena.bytesKept))}</td>
                    <td>{count(num(arena.slotsPinned))} slots</td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      )}
      <div class="grid">
        <Chart title="Hit rate of its clients" xs={xs} stacked max={1} format={(value) => percent(value, 0)} series={SOURCES.map((source) => ({ label: source.label, color: source.color, values: along(points, (point) => (point.change && num(point.change.tokensAsked) > 0 ? num(point.change.tokensHit[source.index]) / num(point.change.tokensAsked) : null)) }))} summary={name} />
        <Chart title="Bytes moved, by path" xs={xs} stacked format={rate} series={PATHS.map((path) => ({ label: path.label, color: path.color, values: along(points, (point) => (num(point.change?.bytes[path.index]) * 1000) / point.stepMs) }))} summary={name} />
      </div>
    </section>
  );
}

const SHOWN: Record<string, (node: FleetNode) => boolean> = {
  all: () => true,
  lost: (node) => node.state === "lost",
  stale: (node) => node.state === "stale",
  draining: (node) => node.draining,
  weak: (node) => node.state === "live" && node.healthPercent < 50,
};
const ROWS_MAX = 100;
const order_ = { lost: 0, stale: 1, live: 2 };

export function Nodes({ place, admin }: { place: Place; admin: boolean }) {
  const fleet = useAsk<Fleet>("fleet", {}, 2000);
  const [filter, setFilter] = useState("");
  const chosen = place.parameters.get("node") ?? "";
  const show = SHOWN[place.parameters.get("show") ?? "all"] ? (place.parameters.get("show") ?? "all") : "all";
  const few = (fleet.value?.nodes.length ?? 1000) <= 64; // who may be asked all at once for a picture
  const answers = useAsk<Answers>(few && !chosen ? "nodes" : null, {}, 3000);
  const flows = useFlows(answers.value);
  if (!fleet.value) return <><Trouble error={fleet.error} /><Loading error={fleet.error} /></>;
  const all = fleet.value.nodes;
  const rows = all.filter((node) => SHOWN[show](node) && node.address.node.includes(filter))
    .sort((a, b) => order_[a.state] - order_[b.state] || a.healthPercent - b.healthPercent || a.address.node.localeCompare(b.address.node, undefined, { numeric: true }));
  const of = (name: string) => answers.value?.nodes.find((answer) => answer.node === name)?.status;
  const one = all.find((node) => node.address.node === chosen);
  return (
    <>
      <Trouble error={fleet.error ?? answers.error} silent={answers.value?.nodes.filter((node) => node.error).map((node) => ({ node: node.node, error: node.error! }))} />
      <div class="head">
        <h1>Nodes</h1>
        <input type="search" placeholder="name" aria-label="filter nodes" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
        <nav class="ranges" aria-label="which">
          {Object.keys(SHOWN).map((which) => (
            <a key={which} href={linkTo("nodes", { show: which === "all" ? "" : which })} aria-current={which === show ? "true" : undefined}>{which} {all.filter(SHOWN[which]).length}</a>
          ))}
        </nav>
      </div>
      {chosen && (one ? <OneNode node={one} place={place} admin={admin} again={fleet.askAgain} /> : <p class="banner warn">No node is called {chosen}.</p>)}
      {rows.length === 0 ? <p class="nothing">No such node.</p> : (
        <div class="scroll">
          <table class="nodes">
            <thead><tr><th>node</th><th>state</th><th>health</th><th>memory</th><th>SSD</th><th>blocks</th><th>sessions</th><th>heard</th>{admin && <th>order</th>}</tr></thead>
            <tbody>
              {rows.slice(0, ROWS_MAX).map((node) => (
                <tr key={node.address.node} class={node.address.node === chosen ? "chosen" : ""}>
                  <td><a href={linkTo("nodes", { node: node.address.node })}>{node.address.node}</a></td>
                  <td><span class={`state ${node.state}`}>{node.state}</span>{node.draining && <span class="state draining">draining</span>}</td>
                  <td class={node.healthPercent < 50 ? "bad" : ""}>{node.healthPercent} %</td>
                  <td><Bar used={num(node.dramBytesUsed)} all={num(node.dramBytes)} label={`memory ${bytes(num(node.dramBytesUsed))} of ${bytes(num(node.dramBytes))}`} /></td>
                  <td><Bar used={num(node.ssdBytesUsed)} all={num(node.ssdBytes)} label={`SSD ${bytes(num(node.ssdBytesUsed))} of ${bytes(num(node.ssdBytes))}`} /></td>
                  <td>{count(num(node.blocksDram))} <small class="faint">+ {count(num(node.blocksSsd))} on SSD</small></td>
                  <td>{of(node.address.node) ? count(num(of(node.address.node)!.sessions)) : "–"}</td>
                  <td>{ago(node.silentMs)}</td>
                  {admin && <td>{node.state !== "lost" && <Drain node={node} done={fleet.askAgain} />}</td>}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {rows.length > ROWS_MAX && <p class="faint">and {rows.length - ROWS_MAX} more: filter by name or state</p>}
      {!chosen && few && <Topology nodes={all.filter((node) => node.state !== "lost")} flows={flows} />}
      <section>
        <h2>Directory</h2>
        <p>
          up {duration(num(fleet.value.uptimeMs))}, version {fleet.value.version}, knows {count(num(fleet.value.blocks))} blocks and {count(num(fleet.value.ghosts))} departed ones;
          its index takes {bytes(num(fleet.value.indexBytes))} of {bytes(num(fleet.value.indexBytesMax))}{num(fleet.value.blocksShed) > 0 && <b class="bad">, and forgot {count(num(fleet.value.blocksShed))} blocks for want of room</b>}.
          {" "}{count(sum(all.map((node) => num(node.resyncs))))} resyncs.
        </p>
      </section>
    </>
  );
}
