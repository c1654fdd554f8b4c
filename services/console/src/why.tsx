// Why blocks are missing, as the directory and the nodes remember it.
import { useState } from "preact/hooks";
import { ask, hex, num, type Difference, type Explanation } from "./api";
import { duration } from "./format";
import { causeOf, reasonOf, tierOf } from "./words";

export function Differs({ difference }: { difference?: Difference }) {
  if (!difference?.field) return null;
  return <span>differs in <code>{difference.field}</code>: asked <b>{difference.asked || "nothing"}</b>, known <b>{difference.known || "nothing"}</b></span>;
}

// Of one block, by its key (base64, as all here). `probe`: of the prompt's first tokens, where the block is its first; `node`: one that was asked
// for the block.
export function Why(props: { namespace: string; blockKey: string; probe?: string; node: string; onAsk?: () => void }) {
  const [answer, setAnswer] = useState<Explanation>();
  const [error, setError] = useState("");
  const explain = async () => {
    setError("");
    props.onAsk?.();
    try {
      setAnswer(await ask<Explanation>("explain", { namespace: hex(props.namespace), keys: hex(props.blockKey), probe: hex(props.probe ?? ""), node: props.node }));
    } catch (failed) {
      setError((failed as Error).message);
    }
  };
  const missing = answer?.misses?.[0];
  return (
    <div class="why">
      <button onClick={explain}>Explain</button>
      {error && <span class="bad">{error}</span>}
      {answer && !missing && <span>It is held now, by {answer.holders.map((holder) => holder.node).join(", ")}.</span>}
      {missing && (
        <div>
          Now: <b>{causeOf(missing.miss.cause).label}</b>, {causeOf(missing.miss.cause).means}
          {missing.difference?.field && <>; <Differs difference={missing.difference} /></>}
          <ul>
            {missing.departures.map((departure) => (
              <li key={departure.node}>
                {reasonOf(departure.reason)} from {tierOf(departure.tier)} on <b>{departure.node}</b> {duration(num(departure.agoMs))} ago, age {duration(num(departure.ageMs))}
                {departure.policy && <>, policy {departure.policy}</>}
              </li>
            ))}
          </ul>
        </div>
      )}
      {answer && answer.silentNodes.length > 0 && <small class="faint">{answer.silentNodes.slice(0, 5).join(", ")}{answer.silentNodes.length > 5 && ` and ${answer.silentNodes.length - 5} more`} did not say what they remember.</small>}
      {answer?.truth && !answer.truth.exact && <small class="faint">The directory has not heard all nodes whole of late: this may be stale.</small>}
    </div>
  );
}
