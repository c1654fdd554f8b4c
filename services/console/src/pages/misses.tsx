import { useState } from "preact/hooks";
import { hex, num, sum, type RequestRecord, type Tick } from "../api";
import { along, Chart, timeline } from "../chart";
import { clock, count, percent } from "../format";
import { linkTo, useAsk, useHistory, type Place } from "../hooks";
import { Copy, Loading, rangeOf, Ranges, Trouble } from "../parts";
import { Differs, Why } from "../why";
import { CAUSES, causeOf } from "../words";

interface Requests {
  requests: RequestRecord[];
  silent: { node: string; error: string }[];
}

function Examples({ cause }: { cause: string }) {
  const { value, error } = useAsk<Requests>("requests", { recent: 300 }, 5000);
  // Of rare causes nodes remember for longer what was slow or failed.
  const kept = useAsk<Requests>("requests", { recent: 300, slow: 1 }, 5000);
  const all = new Map([...(kept.value?.requests ?? []), ...(value?.requests ?? [])].map((record) => [`${record.node} ${record.number}`, record]));
  const [held, hold] = useState<RequestRecord[]>(); // while one of them is explained: newer ones would push it out of sight
  const newest = [...all.values()].filter((record) => record.misses.some((miss) => miss.cause === cause))
    .sort((a, b) => num(b.beganUnixMs) - num(a.beganUnixMs)).slice(0, 8);
  const found = held ?? newest;
  return (
    <section aria-label="examples">
      <h2>Latest requests that missed so: {causeOf(cause).label}</h2>
      <p>
        {causeOf(cause).means}. <b>To do:</b> {causeOf(cause).act}.
        {held && <> <button onClick={() => hold(undefined)}>Show newer ones</button></>}
      </p>
      <Trouble error={error ?? kept.error} silent={value?.silent} />
      {!value || (!kept.value && !kept.error) ? <Loading error={error} /> : found.length === 0 ? <p class="nothing">None among the latest {value.requests.length} requests, nor among those that nodes kept as slow or failed.</p> : (
        <ul class="examples">
          {found.map((record) => {
            const blocks = record.misses.filter((miss) => miss.cause === cause).reduce((total, miss) => total + miss.count, 0);
            return (
              <li key={record.node + record.number}>
                <div>
                  <span class="faint">{clock(num(record.beganUnixMs))}</span> <a href={linkTo("nodes", { node: record.node })}>{record.node}</a> {record.tenant} <span class="faint">{record.model}</span>
                </div>
                <div>
                  {count(blocks * record.blockTokens)} of {count(record.blocksAsked * record.blockTokens)} tokens, from block {record.misses.find((miss) => miss.cause === cause)?.first} on
                  {record.request && <> · request <Copy text={record.request} /></>}
                  {record.firstMissingKey && <> · first missing <Copy text={hex(record.firstMissingKey)} label={hex(record.firstMissingKey).slice(0, 8)} /></>}
                </div>
                {cause === "MISS_CAUSE_INCOMPATIBLE" && record.difference?.field && <div><Differs difference={record.difference} /></div>}
                {record.firstMissingKey && <Why namespace={record.namespaceFingerprint} blockKey={record.firstMissingKey} node={record.node} probe={record.misses[0].first === 0 ? record.probe : ""} onAsk={() => hold(found)} />}
              </li>
            );
          })}
        </ul>
      )}
    </section>
  );
}

export function Misses({ place, tick }: { place: Place; tick?: Tick }) {
  const range = rangeOf(place);
  const chosen = place.parameters.get("cause") ?? "";
  const history = useHistory(range, tick);
  if (!history.value) return <><Trouble error={history.error} /><Loading error={history.error} /></>;
  const raw = history.value.points ?? [];
  const { xs, points } = timeline(raw);
  const asked = raw.reduce((total, point) => total + num(point.change?.tokensAsked), 0);
  const missed = raw.reduce((total, point) => total + sum(point.change?.tokensMissed), 0);
  const totals = CAUSES.map((cause) => ({ cause, tokens: raw.reduce((total, point) => total + num(point.change?.tokensMissed[cause.index]), 0) }))
    .filter(({ tokens }) => tokens > 0)
    .sort((a, b) => b.tokens - a.tokens);
  // The largest that somebody can do something about.
  const helped = totals.find(({ cause }) => !cause.act.startsWith("nothing"));
  return (
    <>
      <Trouble error={history.error} />
      <div class="head"><h1>Misses</h1><Ranges place={place} /></div>
      <p class="lead">
        {asked === 0 ? "No tokens were asked for in this time." : missed === 0 ? "Nothing was missed in this time." : (
          <><b>{percent(missed / asked)}</b> of {count(asked)} tokens missed{totals.length > 0 && <>; most of them: <b>{totals[0].cause.label}</b> ({percent(totals[0].tokens / missed, 0)} of the misses), {totals[0].cause.means}</>}.{helped && helped !== totals[0] && <> Can be helped: <a href={linkTo("misses", { range, cause: helped.cause.name })}>{helped.cause.label}</a> ({percent(helped.tokens / missed, 0)}): {helped.cause.act}.</>}</>
        )}
      </p>
      <Chart
        title="Missed tokens a second, by cause"
        xs={xs}
        stacked
        format={count}
        height={240}
        series={(totals.length > 0 ? totals.map(({ cause }) => cause) : CAUSES.slice(0, 1)).map((cause) => ({ label: cause.label, color: cause.color, values: along(points, (point) => (num(point.change?.tokensMissed[cause.index]) * 1000) / point.stepMs) }))}
        summary={totals.map(({ cause, tokens }) => `${cause.label} ${count(tokens)}`).join(", ") || "nothing missed"}
      />
      {totals.length > 0 && (
        <div class="scroll">
          <table class="causes">
            <thead><tr><th>cause</th><th>tokens</th><th class="wide">of the misses</th><th>what it means</th><th>what to do</th></tr></thead>
            <tbody>
              {totals.map(({ cause, tokens }) => (
                <tr key={cause.name} class={chosen === cause.name ? "chosen" : ""}>
                  <td><a href={linkTo("misses", { range, cause: chosen === cause.name ? "" : cause.name })}><i class="dot" style={{ background: cause.color }} />{cause.label}</a></td>
                  <td>{count(tokens)}</td>
                  <td class="wide"><span class="bar"><i style={{ width: `${(100 * tokens) / missed}%`, background: cause.color }} /><em>{percent(tokens / missed)}</em></span></td>
                  <td>{cause.means}</td>
                  <td>{cause.act}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {chosen ? <Examples key={chosen} cause={chosen} /> : totals.length > 0 && <p class="faint">Choose a cause to see requests that missed so.</p>}
    </>
  );
}
