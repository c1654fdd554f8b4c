import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import "uplot/dist/uPlot.min.css";
import "./style.css";
import { ask } from "./api";
import { usePlace, useTicks } from "./hooks";
import { Capacity } from "./pages/capacity";
import { Misses } from "./pages/misses";
import { Nodes } from "./pages/nodes";
import { Overview } from "./pages/overview";
import { StemsPage } from "./pages/stems";
import { Traces } from "./pages/traces";

const PAGES: [string, string][] = [["overview", "Overview"], ["stems", "Stems"], ["misses", "Misses"], ["nodes", "Nodes"], ["capacity", "Capacity"], ["traces", "Traces"]];
const THEMES = ["auto", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

function useTheme(): [Theme, () => void] {
  const [theme, setTheme] = useState<Theme>(() => {
    const kept = localStorage.getItem("theme") as Theme | null;
    return kept && THEMES.includes(kept) ? kept : "auto";
  });
  useEffect(() => {
    if (theme === "auto") document.documentElement.removeAttribute("data-theme");
    else document.documentElement.setAttribute("data-theme", theme);
    localStorage.setItem("theme", theme);
  }, [theme]);
  return [theme, () => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length])];
}

function App() {
  const place = usePlace();
  const { tick, silent } = useTicks();
  const [theme, nextTheme] = useTheme();
  const [admin, setAdmin] = useState(false);
  const main = useRef<HTMLElement>(null);
  useEffect(() => {
    ask<{ admin: boolean }>("about").then((about) => setAdmin(about.admin)).catch(() => {});
    const keys = (event: KeyboardEvent) => {
      const typing = (event.target as HTMLElement).closest("input, textarea, select");
      const page = PAGES[Number(event.key) - 1];
      if (!typing && page && !event.ctrlKey && !event.metaKey && !event.altKey) location.hash = `#/${page[0]}`;
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  }, []);
  useEffect(() => {
    document.title = `${PAGES.find(([page]) => page === place.page)?.[1] ?? "Stemcache"} · Stemcache`;
    scrollTo(0, 0);
  }, [place.page]);
  const counts = tick?.counts;
  const state = silent ? "bad" : counts && counts.lost > 0 ? "bad" : counts && counts.stale + counts.draining > 0 ? "warn" : "good";
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); main.current?.focus(); }}>To the page</a>
      <header>
        <a class="brand" href="#/overview"><img src="/icon.svg" alt="" width="22" height="22" />Stemcache</a>
        <nav aria-label="pages">
          {PAGES.map(([page, label], i) => (
            <a key={page} href={`#/${page}`} aria-current={place.page === page ? "page" : undefined} title={`key ${i + 1}`}>{label}</a>
          ))}
        </nav>
        <span class={`pulse ${state}`} role="status">
          {silent ? "no answer from the directory" : !counts ? "connecting" : counts.lost > 0 ? `${counts.lost} lost` : counts.stale > 0 ? `${counts.stale} stale` : counts.draining > 0 ? `${counts.draining} draining` : "all live"}
        </span>
        {admin && <span class="admin" title="stem-directory --admin">takes orders</span>}
        <button class="theme" onClick={nextTheme} title="light, dark, or as the system has it">{theme}</button>
      </header>
      {silent && <p class="banner bad" role="alert">The directory has not been heard for some seconds. What is shown is what it said last.</p>}
      <main id="main" ref={main} tabIndex={-1}>
        {place.page === "stems" ? <StemsPage admin={admin} />
          : place.page === "misses" ? <Misses place={place} tick={tick} />
          : place.page === "nodes" ? <Nodes place={place} admin={admin} />
          : place.page === "capacity" ? <Capacity />
          : place.page === "traces" ? <Traces place={place} />
          : <Overview place={place} tick={tick} />}
      </main>
    </>
  );
}

render(<App />, document.getElementById("app")!);
