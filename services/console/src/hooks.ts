import { useEffect, useRef, useState } from "preact/hooks";
import { ask, justHeard, lastHeard, num, type History, type Point, type Tick } from "./api";

export interface Asked<T> {
  value?: T;
  error?: string;
  askAgain: () => void;
}

// Asks now, when the question changes, and each `everyMs` while the page is looked at. The last answer stays while the next is on its way.
export function useAsk<T>(path: string | null, parameters: Record<string, string | number> = {}, everyMs = 0): Asked<T> {
  const question = path === null ? "" : `${path}?${JSON.stringify(parameters)}`;
  const [state, setState] = useState<{ question: string; value?: T; error?: string }>({ question });
  const [again, setAgain] = useState(0);
  useEffect(() => {
    if (path === null) return;
    let gone = false;
    let timer = 0;
    const abort = new AbortController();
    const run = async () => {
      if (document.visibilityState === "visible") {
        try {
          const value = await ask<T>(path, parameters, abort.signal);
          if (!gone) setState({ question, value });
        } catch (error) {
          if (!gone) setState((before) => ({ question, value: before.question === question ? before.value : undefined, error: String((error as Error).message) }));
        }
      }
      if (!gone && everyMs > 0) timer = window.setTimeout(run, everyMs);
    };
    run();
    return () => {
      gone = true;
      abort.abort();
      clearTimeout(timer);
    };
  }, [question, again, everyMs]);
  const current = state.question === question;
  return { value: current ? state.value : undefined, error: current ? state.error : undefined, askAgain: () => setAgain((n) => n + 1) };
}

const SILENT_MS = 7000;
const REOPEN_MS = 5000;

// What the directory tells each second. Too many browsers may follow it already: then it is asked every few seconds, and followed when one of
// them is gone. `silent`: for some seconds nothing that was asked of it was answered.
export function useTicks(): { tick?: Tick; silent: boolean } {
  const [tick, setTick] = useState<Tick>();
  const [silent, setSilent] = useState(false);
  useEffect(() => {
    let events: EventSource;
    let timer = 0;
    const take = (told: Tick) => {
      justHeard();
      setSilent(false);
      setTick(told);
    };
    const open = () => {
      events = new EventSource("/api/events");
      events.onmessage = (event) => take(JSON.parse(event.data));
      events.onerror = () => {
        if (events.readyState !== EventSource.CLOSED) return; // else the browser tries again by itself
        ask<Tick>("tick").then(take).catch(() => {});
        clearTimeout(timer);
        timer = window.setTimeout(open, REOPEN_MS);
      };
    };
    open();
    const watch = setInterval(() => setSilent(Date.now() - lastHeard() > SILENT_MS), 1000);
    return () => {
      events.close();
      clearTimeout(timer);
      clearInterval(watch);
    };
  }, []);
  return { tick, silent };
}

const LIVE_MAX = 120; // seconds of ticks that are kept
const JITTER_MS = 100; // two answers may place the same second a little apart
const beginOf = (point: Point): number => num(point.unixMs) - point.stepMs;

// `points`, and after them `later`, which say anew what the last of `points` said while it was still growing.
export function joined(points: Point[], later: Point[]): Point[] {
  if (later.length === 0) return points;
  const from = beginOf(later[0]) - JITTER_MS;
  return [...points.filter((point) => beginOf(point) < from), ...later];
}

// What the fleet counted over the last seconds: asked for now and then, and gone on with by what each tick brings, single seconds of which the
// last is still growing.
export function useHistory(seconds: number, tick: Tick | undefined): Asked<History> {
  const asked = useAsk<History>("history", { seconds, points: 240 }, 20000);
  const live = useRef<Point[]>([]);
  const taken = useRef<Tick>();
  if (tick && tick !== taken.current) {
    taken.current = tick;
    live.current = joined(live.current, tick.history?.points ?? []).slice(-LIVE_MAX);
  }
  if (!asked.value) return asked;
  const points = asked.value.points ?? [];
  const last = points[points.length - 1];
  // The last that was asked for is of several seconds, and was still growing: seconds that reach back to its beginning replace it.
  const from = last ? beginOf(last) - JITTER_MS : 0;
  const whole = live.current.length > 0 && beginOf(live.current[0]) <= from + 2 * JITTER_MS;
  const later = live.current.filter((point) => beginOf(point) >= (whole || !last ? from : num(last.unixMs) - JITTER_MS));
  const all = joined(points, later);
  const since = all.length > 0 ? num(all[all.length - 1].unixMs) - 1000 * seconds : 0; // by the directory's clock
  return { ...asked, value: { ...asked.value, points: all.filter((point) => num(point.unixMs) > since) } };
}

// Where the page is: "#/misses?cause=evicted&range=900".
export interface Place {
  page: string;
  parameters: URLSearchParams;
}

export function placeNow(): Place {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { page: path || "overview", parameters: new URLSearchParams(query ?? "") };
}

export function linkTo(page: string, parameters: Record<string, string | number | undefined> = {}): string {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== "");
  const query = new URLSearchParams(given.map(([k, v]) => [k, String(v)])).toString();
  return `#/${page}${query ? `?${query}` : ""}`;
}

export function usePlace(): Place {
  const [place, setPlace] = useState(placeNow);
  useEffect(() => {
    const moved = () => setPlace(placeNow());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return place;
}
