import { useEffect, useRef, useState } from "preact/hooks";
import { ask, num, type History, type Point, type Tick } from "./api";

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
    const run = async () => {
      if (document.visibilityState === "visible") {
        try {
          const value = await ask<T>(path, parameters);
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
      clearTimeout(timer);
    };
  }, [question, again, everyMs]);
  const current = state.question === question;
  return { value: current ? state.value : undefined, error: current ? state.error : undefined, askAgain: () => setAgain((n) => n + 1) };
}

// What the directory tells each second. `silent`: nothing came for some seconds.
export function useTicks(): { tick?: Tick; silent: boolean } {
  const [tick, setTick] = useState<Tick>();
  const [silent, setSilent] = useState(false);
  const heard = useRef(Date.now());
  useEffect(() => {
    const events = new EventSource("/api/events");
    events.onmessage = (event) => {
      heard.current = Date.now();
      setSilent(false);
      setTick(JSON.parse(event.data));
    };
    const watch = setInterval(() => setSilent(Date.now() - heard.current > 5000), 1000);
    return () => {
      events.close();
      clearInterval(watch);
    };
  }, []);
  return { tick, silent };
}

const LIVE_MAX = 120; // points that came after the last answer

// What the fleet counted over the last seconds: asked for now and then, and gone on with by what each tick brings.
export function useHistory(seconds: number, tick: Tick | undefined): Asked<History> {
  const asked = useAsk<History>("history", { seconds, points: 240 }, 20000);
  const live = useRef<Point[]>([]);
  for (const point of tick?.history?.points ?? []) {
    const last = live.current[live.current.length - 1];
    if (!last || num(point.unixMs) > num(last.unixMs)) live.current = [...live.current.slice(1 - LIVE_MAX), point];
  }
  if (!asked.value) return asked;
  const points = asked.value.points ?? [];
  const known = points.length > 0 ? num(points[points.length - 1].unixMs) : 0;
  const later = live.current.filter((point) => num(point.unixMs) - point.stepMs >= known);
  const all = [...points, ...later];
  const since = all.length > 0 ? num(all[all.length - 1].unixMs) - 1000 * seconds - 10000 : 0; // by the directory's clock
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
