import { along, Chart, timeline } from "../chart";
import { num, sum, type Fleet, type Point, type Tick } from "../api";
import { bytes, count, duration, percent, rate, some } from "../format";
import { linkTo, useAsk, useHistory, type Place } from "../hooks";
import { Bar, Loading, rangeOf, Ranges, Tile, Trouble } from "../parts";
import { PATHS, SOURCES } from "../words";

const seconds = (point: Point) => point.stepMs / 1000;

// Over the last points that make up so many seconds.
function over(points: Point[], last: number): { asked: number; hit: number; requests: number; savedUs: number; late: number; broken: number; seconds: number } {
  const total = { asked: 0, hit: 0, requests: 0, savedUs: 0, late: 0, broken: 0, seconds: 0 };
  for (let i = points.length; i-- > 0 && total.seconds < last; ) {
    const change = points[i].change;
    total.seconds += seconds(points[i]);
    if (!change) continue;
    total.asked += num(change.tokensAsked);
    total.hit += sum(change.tokensHit);
    total.requests += num(change.requests);
    total.savedUs += num(change.prefillSavedUs);
    total.late += num(change.deadlineMisses);
    total.broken += num(change.integrityFailures);
  }
  return total;
}

function attention(fleet: Fleet, tick: Tick | undefined, range: number, points: Point[]): { text: string; link: string; bad: boolean }[] {
  const list: { text: string; link: string; bad: boolean }[] = [];
  const counts = tick?.counts;
  if (counts && counts.lost > 0) list.push({ text: `${counts.lost} of ${some(fleet.nodes.length, "node")} lost: ${fleet.nodes.filter((node) => node.state === "lost").slice(0, 5).map((node) => node.address.node).join(", ")}`, link: linkTo("nodes", { show: "lost" }), bad: true });
  if (counts && counts.stale > 0) list.push({ text: `${some(counts.stale, "node")} silent or catching up`, link: linkTo("nodes", { show: "stale" }), bad: false });
  if (counts && counts.draining > 0) list.push({ text: `${some(counts.draining, "node")} draining`, link: linkTo("nodes", { show: "draining" }), bad: false });
  const all = over(points, range);
  if (all.broken > 0) list.push({ text: `${some(all.broken, "copy", "copies")} failed the proof`, link: linkTo("misses", { cause: "MISS_CAUSE_INTEGRITY", range }), bad: true });
  if (all.late > 0) list.push({ text: `${some(all.late, "request")} ran out of time`, link: linkTo("traces", { slow: 1 }), bad: false });
  const now = over(points, 60);
  if (now.asked > 0 && all.asked > 0 && all.seconds > 240 && now.hit / now.asked < 0.7 * (all.hit / all.asked)) {
    list.push({ text: `hit rate of the last minute is ${percent(now.hit / now.asked)}, of the last ${duration(1000 * all.seconds)} ${percent(all.hit / all.asked)}`, link: linkTo("misses", { range }), bad: true });
  }
  const weak = fleet.nodes.filter((node) => node.state === "live" && node.healthPercent < 50 && !node.draining);
  if (weak.length > 0) list.push({ text: `reads from ${some(weak.length, "node")} come late or wrong: ${weak.slice(0, 5).map((node) => node.address.node).join(", ")}`, link: linkTo("nodes", { show: "weak" }), bad: false });
  if (num(fleet.blocksShed) > 0) list.push({ text: `the directory forgot ${count(num(fleet.blocksShed))} blocks: its index is full`, link: linkTo("nodes"), bad: false });
  return list;
}

export function Overview({ place, tick }: { place: Place; tick?: Tick }) {
  const range = rangeOf(place);
  const history = useHistory(range, tick);
  const fleet = useAsk<Fleet>("fleet", {}, 3000);
  if (!history.value || !fleet.value) return <><Trouble error={history.error ?? fleet.error} /><Loading error={history.error ?? fleet.error} /></>;
  const raw = history.value.points ?? [];
  const { xs, points } = timeline(raw);
  const all = over(raw, range);
  const now = over(raw, 60);
  const nodes = fleet.value.nodes;
  const held = nodes.filter((node) => node.state !== "lost");
  const fill = (used: (node: Fleet["nodes"][0]) => number, size: (node: Fleet["nodes"][0]) => number) =>
    [held.reduce((total, node) => total + used(node), 0), held.reduce((total, node) => total + size(node), 0)] as const;
  const [dramUsed, dram] = fill((node) => num(node.dramBytesUsed), (node) => num(node.dramBytes));
  const [ssdUsed, ssd] = fill((node) => num(node.ssdBytesUsed), (node) => num(node.ssdBytes));
  const hitRate = all.asked > 0 ? all.hit / all.asked : NaN;
  const list = attention(fleet.value, tick, range, raw);
  const counts = tick?.counts;
  const fullest = [...nodes].sort((a, b) => num(b.dramBytesUsed) / (num(b.dramBytes) || 1) - num(a.dramBytesUsed) / (num(a.dramBytes) || 1)).slice(0, 12);
  return (
    <>
      <Trouble error={history.error ?? fleet.error} />
      <div class="head">
        <h1>Overview</h1>
        <Ranges place={place} />
      </div>
      <section class={`attention ${list.some((item) => item.bad) ? "bad" : list.length > 0 ? "warn" : "good"}`} aria-label="what needs attention">
        {list.length === 0 ? <p>Nothing needs attention.</p> : <ul>{list.map((item) => <li key={item.text}><a href={item.link}>{item.text}</a></li>)}</ul>}
      </section>
      <section class="tiles" aria-label="figures">
        <Tile label="hit rate" value={percent(hitRate)} note={now.asked > 0 ? `last minute ${percent(now.hit / now.asked)}` : "no requests in the last minute"} />
        <Tile label="tokens from cache" value={count(all.hit)} exact={all.hit} note={`${count(all.seconds > 0 ? all.hit / all.seconds : 0)}/s`} />
        <Tile label="prefill time saved" value={all.savedUs > 0 ? duration(all.savedUs / 1000) : "–"} note={all.savedUs > 0 ? `${count(all.savedUs / 1e6 / all.seconds)} engine seconds a second` : "engines did not tell their speed"} />
        <Tile label="requests" value={count(all.requests)} exact={all.requests} note={`${count(all.seconds > 0 ? all.requests / all.seconds : 0)}/s`} />
        <Tile label="nodes live" value={counts ? `${counts.live} of ${nodes.length}` : `${nodes.length}`} state={!counts ? undefined : counts.lost > 0 ? "bad" : counts.stale + counts.draining > 0 ? "warn" : "good"} note={counts && counts.stale + counts.draining > 0 ? `${counts.stale} stale, ${counts.draining} draining` : `${count(num(fleet.value.blocks))} blocks known`} />
        <Tile label="memory used" value={percent(dramUsed / dram, 0)} note={`${bytes(dramUsed)} of ${bytes(dram)}`} />
        <Tile label="SSD used" value={ssd > 0 ? percent(ssdUsed / ssd, 0) : "none"} note={ssd > 0 ? `${bytes(ssdUsed)} of ${bytes(ssd)}` : undefined} />
      </section>
      <div class="grid">
        <Chart
          title="Hit rate by where blocks were found"
          xs={xs}
          stacked
          max={1}
          format={(value) => percent(value, 0)}
          series={SOURCES.map((source) => ({ label: source.label, color: source.color, values: along(points, (point) => (point.change && num(point.change.tokensAsked) > 0 ? num(point.change.tokensHit[source.index]) / num(point.change.tokensAsked) : null)) }))}
          summary={`${percent(hitRate)} of the tokens asked for in this time`}
        />
        <Chart
          title="Tokens a second"
          xs={xs}
          stacked
          format={count}
          series={[
            { label: "served from cache", color: "#0a8f63", values: along(points, (point) => sum(point.change?.tokensHit) / seconds(point)) },
            { label: "left to compute", color: "#9aa5b1", values: along(points, (point) => sum(point.change?.tokensMissed) / seconds(point)) },
          ]}
          summary={`${count(all.hit)} served, ${count(all.asked - all.hit)} left to compute`}
        />
        <Chart
          title="Engine seconds saved a second"
          xs={all.savedUs > 0 ? xs : []}
          format={count}
          series={[{ label: "prefill saved", color: "#8a63d2", values: along(points, (point) => num(point.change?.prefillSavedUs) / 1e6 / seconds(point)) }]}
          summary={`${duration(all.savedUs / 1000)} in this time`}
        />
        <Chart
          title="Bytes moved, by path"
          xs={xs}
          stacked
          format={rate}
          series={PATHS.map((path) => ({ label: path.label, color: path.color, values: along(points, (point) => num(point.change?.bytes[path.index]) / seconds(point)) }))}
          summary={PATHS.map((path) => `${path.label} ${bytes(raw.reduce((total, point) => total + num(point.change?.bytes[path.index]), 0))}`).join(", ")}
        />
      </div>
      <section>
        <h2>Fullest nodes <a class="more" href={linkTo("nodes")}>all {nodes.length}</a></h2>
        <table>
          <thead><tr><th>node</th><th>state</th><th>memory</th><th>SSD</th></tr></thead>
          <tbody>
            {fullest.map((node) => (
              <tr key={node.address.node}>
                <td><a href={linkTo("nodes", { node: node.address.node })}>{node.address.node}</a></td>
                <td><span class={`state ${node.state}`}>{node.draining ? "draining" : node.state}</span></td>
                <td><Bar used={num(node.dramBytesUsed)} all={num(node.dramBytes)} label={`memory ${bytes(num(node.dramBytesUsed))} of ${bytes(num(node.dramBytes))}`} /></td>
                <td><Bar used={num(node.ssdBytesUsed)} all={num(node.ssdBytes)} label={`SSD ${bytes(num(node.ssdBytesUsed))} of ${bytes(num(node.ssdBytes))}`} /></td>
              </tr>
            ))}
          </tbody>
        </table>
      </section>
    </>
  );
}
