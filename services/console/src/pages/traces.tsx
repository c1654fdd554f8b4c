import { useState } from "preact/hooks";
import { hex, num, type RequestRecord } from "../api";
import { bytes, clock, count, micros } from "../format";
import { linkTo, useAsk, type Place } from "../hooks";
import { Copy, Loading, Trouble } from "../parts";
import { causeOf, sourceOf, tierOf } from "../words";

interface Requests {
  requests: RequestRecord[];
  silent: { node: string; error: string }[];
}

const STEP_COLORS: Record<string, string> = {
  acquire: "#5b8def", match: "#8a63d2", lease: "#38b2ac", read: "#2f7fd1", promote: "#e0a020", prove: "#0a8f63",
  reserve: "#7f9c3a", commit: "#0b6e4f", spill: "#c56a1e", await: "#9aa5b1",
};

function Waterfall({ record }: { record: RequestRecord }) {
  const all = Math.max(num(record.durationUs), ...record.steps.map((step) => num(step.startUs) + num(step.durationUs)), 1);
  const steps = [...record.steps].sort((a, b) => num(a.startUs) - num(b.startUs));
  if (steps.length === 0) return <p class="nothing">No steps were kept of this request.</p>;
  return (
    <ol class="waterfall" aria-label={`steps of the request, ${micros(all)}`}>
      {steps.map((step, i) => (
        <li key={i} class={step.error ? "failed" : ""}>
          <span class="step">{step.name}{step.peer && <small> {step.peer}</small>}</span>
          <span class="lane">
            <i style={{ left: `${(100 * num(step.startUs)) / all}%`, width: `${Math.max(0.4, (100 * num(step.durationUs)) / all)}%`, background: STEP_COLORS[step.name] ?? "#8d99ae" }} />
          </span>
          <span class="figures">
            {micros(num(step.durationUs))}
            <small> {[step.blocks > 0 && `${step.blocks} blocks`, num(step.bytes) > 0 && bytes(num(step.bytes)), tierOf(step.tier)].filter(Boolean).join(", ")}</small>
            {step.error && <small class="bad"> {step.error}</small>}
          </span>
        </li>
      ))}
    </ol>
  );
}

const outcome = (record: RequestRecord) =>
  record.error || (record.blocksMatched === record.blocksAsked ? "all" : `${record.blocksMatched} of ${record.blocksAsked} blocks`);

export function Traces({ place }: { place: Place }) {
  const slow = place.parameters.get("slow") === "1";
  const [filter, setFilter] = useState("");
  const [chosen, setChosen] = useState("");
  const [held, setHeld] = useState<Requests>(); // what is shown while one is looked at
  const { value, error } = useAsk<Requests>("requests", slow ? { recent: 200, slow: 1 } : { recent: 200 }, 3000);
  const shown = chosen && held ? held : value;
  const id = (record: RequestRecord) => `${record.node} ${record.number}`;
  const rows = (shown?.requests ?? [])
    .filter((record) => !filter || `${record.request} ${record.node} ${record.tenant} ${record.model} ${record.traceId}`.includes(filter))
    .sort((a, b) => num(b.durationUs) - num(a.durationUs))
    .slice(0, 60);
  const longest = Math.max(1, ...rows.map((record) => num(record.durationUs)));
  const choose = (record: RequestRecord) => {
    setHeld(shown);
    setChosen(chosen === id(record) ? "" : id(record));
  };
  return (
    <>
      <Trouble error={error} silent={value?.silent} />
      <div class="head">
        <h1>Traces</h1>
        <input type="search" placeholder="request, node, tenant, trace" aria-label="filter requests" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
        <nav class="ranges" aria-label="which">
          <a href={linkTo("traces")} aria-current={slow ? undefined : "true"}>latest</a>
          <a href={linkTo("traces", { slow: 1 })} aria-current={slow ? "true" : undefined}>slow or failed</a>
        </nav>
      </div>
      {!shown ? <Loading error={error} /> : rows.length === 0 ? <p class="nothing">{(value?.silent ?? []).length > 0 ? "None of the nodes that answered keeps such a request." : slow ? "No request was slow or failed." : "No request is kept."}</p> : (
        <>
          <p class="faint">{slow ? "Kept as slow or failed" : `The latest ${shown.requests.length} requests`}, the longest first. Choose one to see its steps.</p>
          <ul class="requests">
            {rows.map((record) => (
              <li key={id(record)} class={chosen === id(record) ? "chosen" : ""}>
                <button class="request" aria-expanded={chosen === id(record)} onClick={() => choose(record)}>
                  <span class="when">{clock(num(record.beganUnixMs))}</span>
                  <span class="kind">{record.kind}</span>
                  <span class="node">{record.node}</span>
                  <span class="lane"><i class={record.error ? "failed" : num(record.deadlineUs) > 0 && num(record.durationUs) > num(record.deadlineUs) ? "late" : ""} style={{ width: `${(100 * num(record.durationUs)) / longest}%` }} /></span>
                  <span class="time">{micros(num(record.durationUs))}</span>
                  <span class={`outcome ${record.error ? "bad" : ""}`}>{outcome(record)}</span>
                </button>
                {chosen === id(record) && (
                  <div class="detail">
                    <Waterfall record={record} />
                    <dl>
                      {record.request && <><dt>request</dt><dd><Copy text={record.request} /></dd></>}
                      {record.traceId && <><dt>trace</dt><dd><Copy text={record.traceId} /></dd></>}
                      <dt>tenant, model</dt><dd>{record.tenant}, {record.model}</dd>
                      <dt>asked</dt><dd>{record.blocksAsked} blocks of {record.blockTokens} tokens, {num(record.deadlineUs) > 0 ? `in ${micros(num(record.deadlineUs))}` : "no deadline"}</dd>
                      <dt>found</dt><dd>{record.hits.map((hit) => `${hit.blocks} blocks in ${sourceOf(hit.source).label} (${bytes(num(hit.bytes))})`).join("; ") || "nothing"}</dd>
                      {record.misses.length > 0 && <><dt>missed</dt><dd>{record.misses.map((miss) => `${count(miss.count)} from block ${miss.first} on: ${causeOf(miss.cause).label}`).join("; ")}</dd></>}
                      {record.lastKey && <><dt>last key</dt><dd><Copy text={hex(record.lastKey)} /></dd></>}
                    </dl>
                  </div>
                )}
              </li>
            ))}
          </ul>
        </>
      )}
    </>
  );
}
