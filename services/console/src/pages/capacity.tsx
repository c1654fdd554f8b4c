import { useState } from "preact/hooks";
import { num, type Curve, type NodeAnswer } from "../api";
import { Chart } from "../chart";
import { bytes, count, duration, percent } from "../format";
import { linkTo, useAsk } from "../hooks";
import { Loading, Tile, Trouble } from "../parts";

type Answers = { nodes: (NodeAnswer & { curve?: Curve })[] };

// What the curve says for a size: between its points a straight line, beyond them their last.
export function hitRateAt(curve: Curve, size: number): number {
  const points = curve.points;
  if (points.length === 0) return NaN;
  let before = { bytes: 0, hitRate: 0 };
  for (const point of points) {
    const at = num(point.bytes);
    if (at >= size) return before.hitRate + ((point.hitRate - before.hitRate) * (size - before.bytes)) / Math.max(1, at - before.bytes);
    before = { bytes: at, hitRate: point.hitRate };
  }
  return before.hitRate;
}

// Of all nodes at so many times their size, weighed by what each was asked.
function fleetRate(curves: Curve[], times: number): number {
  const references = curves.reduce((total, curve) => total + num(curve.references), 0);
  return references === 0 ? NaN : curves.reduce((total, curve) => total + hitRateAt(curve, times * num(curve.dramBytes)) * num(curve.references), 0) / references;
}

export function Capacity() {
  const { value, error } = useAsk<Answers>("curve", {}, 10000);
  const [exponent, setExponent] = useState(1); // of 2, in quarters
  if (!value) return <><Trouble error={error} /><Loading error={error} /></>;
  const known = value.nodes.filter((node) => node.curve && node.curve.points.length > 0);
  const silent = value.nodes.filter((node) => node.error).map((node) => ({ node: node.node, error: node.error! }));
  const curves = known.map((node) => node.curve!);
  const references = curves.reduce((total, curve) => total + num(curve.references), 0);
  const dram = curves.reduce((total, curve) => total + num(curve.dramBytes), 0);
  const working = curves.reduce((total, curve) => total + num(curve.workingSetBytes), 0);
  const since = Math.max(0, ...curves.map((curve) => num(curve.sinceMs)));
  const now = fleetRate(curves, 1);
  const measured = references === 0 ? NaN : curves.reduce((total, curve) => total + curve.hitRateNow * num(curve.references), 0) / references;
  const times = 2 ** exponent;
  const then = fleetRate(curves, times);
  const largest = Math.max(2, ...curves.map((curve) => num(curve.points[curve.points.length - 1].bytes) / Math.max(1, num(curve.dramBytes))));
  const steps = Array.from({ length: 49 }, (_, i) => 2 ** (-4 + (i * (Math.log2(Math.min(largest, 16)) + 4)) / 48));
  return (
    <>
      <Trouble error={error} silent={silent} />
      <div class="head"><h1>Capacity</h1></div>
      {curves.length === 0 || references === 0 ? (
        <p class="nothing">{known.length === 0 && silent.length > 0 ? "No node answered." : "Nodes have not been asked enough yet to tell what other sizes would have hit."}</p>
      ) : (
        <>
          <p class="lead">
            With <b>{times === 1 ? "today's memory" : `${times < 1 ? `1/${Math.round(1 / times * 100) / 100}` : `${Math.round(100 * times) / 100} times`} the memory`}</b> ({bytes(times * dram)}) the share of blocks found in a node's own memory would {Math.abs(then - now) < 0.005 ? <b>hardly change</b> : <>{then > now ? "rise" : "fall"} from {percent(now)} to <b class={then >= now ? "good" : "bad"}>{percent(then)}</b></>}.
          </p>
          <label class="slider">
            <span>What if</span>
            <input type="range" min={-3} max={4} step={0.25} value={exponent} onInput={(event) => setExponent(Number(event.currentTarget.value))} aria-valuetext={`${times.toFixed(2)} times`} />
            <output>{times < 1 ? `÷ ${(1 / times).toFixed(2)}` : `× ${times.toFixed(2)}`}</output>
          </label>
          <div class="tiles">
            <Tile label="memory today" value={bytes(dram)} note={`${curves.length} nodes`} />
            <Tile label="working set" value={bytes(working)} note={`distinct blocks in ${duration(since)}`} state={working > dram ? "warn" : "good"} />
            <Tile label="found in own memory" value={percent(measured)} note={`measured; LRU would have ${percent(now)}`} />
            <Tile label="sampled" value={count(references)} note="block references" />
          </div>
          <Chart
            title="Missed in own memory, by its size"
            xs={steps.map((step) => step * dram)}
            formatX={(x) => bytes(x)}
            max={1}
            height={260}
            format={(share) => percent(share, 0)}
            series={[{ label: "missed, LRU, estimated", color: "#2f7fd1", values: steps.map((step) => 1 - fleetRate(curves, step)) }]}
            markers={[{ x: dram, label: "today" }, ...(times === 1 ? [] : [{ x: times * dram, label: "what if" }])]}
            summary={`${percent(1 - now)} at today's ${bytes(dram)}, ${percent(1 - fleetRate(curves, 2))} at twice that`}
          />
          <div class="scroll">
            <table>
              <thead><tr><th>node</th><th>memory</th><th>working set</th><th>found today</th><th>at half</th><th>at × 2</th><th>at × 4</th></tr></thead>
              <tbody>
                {known.slice(0, 100).map(({ node, curve }) => {
                  const at = (factor: number) => percent(hitRateAt(curve!, factor * num(curve!.dramBytes)));
                  return (
                    <tr key={node}>
                      <td><a href={linkTo("nodes", { node })}>{node}</a></td>
                      <td>{bytes(num(curve!.dramBytes))}</td>
                      <td>{bytes(num(curve!.workingSetBytes))}</td>
                      <td>{percent(curve!.hitRateNow)}</td>
                      <td>{at(0.5)}</td>
                      <td>{at(2)}</td>
                      <td>{at(4)}</td>
                    </tr>
                  );
                })}
              </tbody>
            </table>
          </div>
          <p class="faint">Estimated by each node from a sample of {percent(curves[0].sampledFraction, 2)} of the keys asked of it. Blocks that other nodes or SSDs serve are not counted as found here.</p>
        </>
      )}
    </>
  );
}
