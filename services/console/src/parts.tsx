// Pieces that several pages are made of.
import type { ComponentChildren } from "preact";
import { linkTo, type Place } from "./hooks";

export function Tile(props: { label: string; value: string; exact?: number; note?: ComponentChildren; state?: "good" | "warn" | "bad" }) {
  return (
    <div class={`tile ${props.state ?? ""}`} title={props.exact === undefined ? undefined : `${props.label}: ${props.exact}`}>
      <span class="label">{props.label}</span>
      <span class="value">{props.value}</span>
      <span class="note">{props.note ?? " "}</span>
    </div>
  );
}

export function Bar(props: { used: number; all: number; label: string }) {
  const share = props.all > 0 ? Math.min(1, props.used / props.all) : 0;
  return (
    <span class="bar" role="img" aria-label={`${props.label}: ${Math.round(100 * share)} %`} title={props.label}>
      <i style={{ width: `${100 * share}%` }} />
      <em>{props.all > 0 ? `${Math.round(100 * share)} %` : "none"}</em>
    </span>
  );
}

const RANGES: [number, string][] = [[300, "5 min"], [900, "15 min"], [3600, "1 h"], [21600, "6 h"], [86400, "24 h"]];

export function rangeOf(place: Place): number {
  const range = Number(place.parameters.get("range") ?? 900);
  return RANGES.some(([seconds]) => seconds === range) ? range : 900;
}

export function Ranges(props: { place: Place }) {
  const rest = Object.fromEntries(props.place.parameters);
  return (
    <nav class="ranges" aria-label="time">
      {RANGES.map(([seconds, label]) => (
        <a key={seconds} href={linkTo(props.place.page, { ...rest, range: seconds })} aria-current={seconds === rangeOf(props.place) ? "true" : undefined}>
          {label}
        </a>
      ))}
    </nav>
  );
}

export function Trouble(props: { error?: string; silent?: { node: string; error: string }[] }) {
  return (
    <>
      {props.error && <p class="banner bad" role="alert">{props.error}</p>}
      {props.silent && props.silent.length > 0 && (
        <p class="banner warn" role="status">
          {props.silent.length === 1 ? `${props.silent[0].node} did not answer` : `${props.silent.length} nodes did not answer`}: {props.silent[0].error}
        </p>
      )}
    </>
  );
}

export function Loading(props: { error?: string }) {
  return props.error ? <p class="nothing">No answer yet.</p> : <p class="nothing" aria-busy="true">Asking…</p>;
}

// A text to be taken elsewhere, e.g. a command.
export function Copy(props: { text: string; label?: string }) {
  return (
    <button
      type="button"
      class="copy"
      title={`Copy: ${props.text}`}
      onClick={(event) => {
        event.stopPropagation();
        navigator.clipboard?.writeText(props.text);
      }}
    >
      <code>{props.label ?? props.text}</code>
    </button>
  );
}
