import type { RefObject } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { ask, hex, mayOrder, num, order, type Holders, type SeenStem } from "../api";
import { ago, count, percent } from "../format";
import { useAsk } from "../hooks";
import { Copy, Loading, Trouble } from "../parts";
import { Why } from "../why";

interface Stems {
  stems: SeenStem[];
  silent: { node: string; error: string }[];
}

interface Row {
  seen: SeenStem;
  depth: number;
  children: number; // known so far
}

const EVERY_MS = 4000;
const OPEN_MAX = 16; // rows whose children are kept fresh
const HELD_MAX = 100; // stems in one question

const name = (seen: SeenStem) => seen.stem.key;

// The forest in the order in which it is shown: parents before children, busiest first, closed ones without what is below.
function rowsOf(all: SeenStem[], open: Set<string>): Row[] {
  const known = new Set(all.map(name));
  const below = new Map<string, SeenStem[]>();
  for (const seen of all) {
    const parent = known.has(seen.stem.parent) && seen.stem.parent !== name(seen) ? seen.stem.parent : "";
    below.set(parent, [...(below.get(parent) ?? []), seen]);
  }
  const rows: Row[] = [];
  const visit = (parent: string, depth: number) => {
    for (const seen of below.get(parent) ?? []) {
      rows.push({ seen, depth, children: (below.get(name(seen)) ?? []).length });
      if (open.has(name(seen))) visit(name(seen), depth + 1);
    }
  };
  visit("", 0);
  return rows;
}

// Those of the rows that are looked at.
function useOnScreen(body: RefObject<HTMLElement>, rows: Row[]): SeenStem[] {
  const [names, setNames] = useState(new Set<string>());
  useEffect(() => {
    const observer = new IntersectionObserver((changes) => {
      setNames((before) => {
        const now = new Set(before);
        for (const change of changes) {
          const is = (change.target as HTMLElement).dataset.stem ?? "";
          if (change.isIntersecting) now.add(is);
          else now.delete(is);
        }
        return now;
      });
    });
    body.current?.querySelectorAll("tr[data-stem]").forEach((row) => observer.observe(row));
    return () => observer.disconnect();
  }, [rows.map(({ seen }) => name(seen)).join(" ")]);
  return rows.map(({ seen }) => seen).filter((seen) => names.has(name(seen))).slice(0, HELD_MAX);
}

// Who holds them, by key in hex; asked for when they come into view, and again every few seconds.
function useHolders(shown: SeenStem[]): { held: Map<string, Holders>; error: string } {
  const [held, setHeld] = useState(new Map<string, Holders>());
  const [error, setError] = useState("");
  useEffect(() => {
    const abort = new AbortController();
    let timer = 0;
    const spaces = new Map<string, SeenStem[]>();
    for (const seen of shown) spaces.set(seen.stem.namespaceFingerprint, [...(spaces.get(seen.stem.namespaceFingerprint) ?? []), seen]);
    const run = async () => {
      const found: [string, Holders][] = [];
      let failed = "";
      for (const [space, stems] of spaces) {
        try {
          const keys = stems.map((seen) => hex(seen.stem.key)).join("");
          found.push(...Object.entries((await ask<{ holders: Record<string, Holders> }>("holders", { namespace: hex(space), node: stems[0].askedAt[0], keys }, abort.signal)).holders));
        } catch (what) {
          failed = (what as Error).message;
        }
        if (abort.signal.aborted) return;
      }
      setHeld(new Map(found));
      setError(failed);
      timer = window.setTimeout(run, EVERY_MS);
    };
    if (spaces.size > 0) timer = window.setTimeout(run, 150); // not at every row that scrolls by
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [shown.map(name).join(" ")]);
  return { held, error };
}

const placeOf = (node: Holders["nodes"][0]) =>
  [node.dramBlocks > 0 ? "memory" : node.ssdBlocks > 0 ? "SSD" : "", node.engineBlocks > 0 ? "engine" : ""].filter(Boolean).join(" + ");

function HeldBy({ holders }: { holders?: Holders }) {
  if (!holders) return <span class="faint">…</span>;
  const nodes = holders.nodes;
  if (nodes.length === 0) return <span class="faint">nobody now</span>;
  return (
    <span class="chips">
      {nodes.slice(0, 4).map((node) => (
        <a key={node.node} class={`chip ${node.dramBlocks > 0 ? "dram" : node.ssdBlocks > 0 ? "ssd" : "engine"}`} href={`#/nodes?node=${encodeURIComponent(node.node)}`}>
          {node.node} <small>{placeOf(node)}</small>
        </a>
      ))}
      {nodes.length > 4 && <span class="faint">and {nodes.length - 4} more</span>}
    </span>
  );
}

function Levers({ seen, holders }: { seen: SeenStem; holders?: Holders }) {
  const [told, setTold] = useState("");
  const pull = async (lever: string, message: object, sure: string) => {
    if ((sure && !confirm(sure)) || !mayOrder()) return;
    const nodes = (holders?.nodes ?? []).filter((node) => node.dramBlocks + node.ssdBlocks > 0).map((node) => node.node);
    setTold(nodes.length === 0 ? "nobody holds it now" : "…");
    const answers = await Promise.allSettled(nodes.map((node) => order<any>(node, lever, message)));
    if (nodes.length > 0) setTold(answers.map((answer, i) => `${nodes[i]}: ${answer.status === "fulfilled" ? `${answer.value.blocks} blocks` : (answer.reason as Error).message}`).join("; "));
  };
  const stem = { namespaceFingerprint: seen.stem.namespaceFingerprint, keys: seen.stem.key };
  return (
    <p class="levers">
      <button onClick={() => pull("keep", { ...stem, seconds: 3600 }, "")}>Pin for 1 h</button>
      <button onClick={() => pull("keep", { ...stem, seconds: 0 }, "")}>Unpin</button>
      <button class="danger" onClick={() => pull("evict", stem, `Evict this stem of ${seen.stem.blocks} blocks and all that follows it, on every node that holds it?`)}>Evict</button>
      <span role="status">{told}</span>
    </p>
  );
}

function Detail({ seen, holders, admin }: { seen: SeenStem; holders?: Holders; admin: boolean }) {
  const { stem } = seen;
  return (
    <>
      <dl>
        <dt>key</dt><dd><Copy text={hex(stem.key)} /></dd>
        <dt>namespace</dt><dd><Copy text={hex(stem.namespaceFingerprint)} /></dd>
        <dt>length</dt><dd>{stem.blocks} blocks of {stem.blockTokens} tokens</dd>
        <dt>requests</dt><dd>at least {count(num(stem.requests))}, seen by {seen.askedAt.join(", ")}</dd>
        <dt>held by</dt><dd>{!holders ? "not known yet" : holders.nodes.map((node) => `${node.node} (${placeOf(node)})`).join(", ") || "nobody now"}</dd>
        <dt>keep it</dt><dd><Copy text={`stemctl pin ${hex(stem.key)} --ttl 1h`} /></dd>
      </dl>
      <Why namespace={stem.namespaceFingerprint} blockKey={stem.key} node={seen.askedAt[0]} />
      {admin && <Levers seen={seen} holders={holders} />}
    </>
  );
}

export function StemsPage({ admin }: { admin: boolean }) {
  const { value, error } = useAsk<Stems>("stems", { most: 200 }, EVERY_MS);
  const [below, setBelow] = useState(new Map<string, SeenStem[]>()); // of those that are open
  const [open, setOpen] = useState(new Set<string>());
  const [chosen, setChosen] = useState("");
  const [filter, setFilter] = useState("");
  const body = useRef<HTMLTableSectionElement>(null);
  const all = useMemo(() => {
    const merged = new Map<string, SeenStem>();
    for (const seen of [...[...below.values()].flat(), ...(value?.stems ?? [])]) merged.set(name(seen), seen);
    const words = filter.toLowerCase();
    return [...merged.values()]
      .filter((seen) => !words || `${seen.stem.model} ${seen.stem.tenant} ${hex(seen.stem.key)}`.toLowerCase().includes(words))
      .sort((a, b) => b.stem.requestsPerMinute - a.stem.requestsPerMinute);
  }, [value, below, filter]);
  const rows = rowsOf(all, open);
  const { held, error: unheld } = useHolders(useOnScreen(body, rows));
  const busiest = Math.max(1e-9, ...all.map((seen) => seen.stem.requestsPerMinute));

  const load = async (key: string) => {
    try {
      const found = await ask<Stems>("stems", { most: 50, below: hex(key) });
      setBelow((before) => new Map(before).set(key, found.stems));
    } catch {
      // the next time, with the next answer of all stems
    }
  };
  // What is below the open ones is asked for again with the rest.
  useEffect(() => {
    let gone = false;
    const run = async () => {
      for (const key of [...open].slice(-OPEN_MAX)) {
        if (gone) return;
        await load(key);
      }
    };
    run();
    return () => {
      gone = true;
    };
  }, [value]);

  const toggle = (seen: SeenStem) => {
    const next = new Set(open);
    if (next.delete(name(seen))) {
      setBelow((before) => new Map([...before].filter(([key]) => key !== name(seen))));
    } else {
      next.add(name(seen));
      load(name(seen));
    }
    setOpen(next);
  };

  // Up, down, open, close: as in any tree.
  const keys = (event: KeyboardEvent, i: number) => {
    const row = rows[i];
    const focus = (to: number) => (body.current?.querySelectorAll<HTMLElement>("tr[tabindex]")[to])?.focus();
    if (event.key === "ArrowDown") focus(i + 1);
    else if (event.key === "ArrowUp") focus(i - 1);
    else if (event.key === "ArrowRight" && !open.has(name(row.seen))) toggle(row.seen);
    else if (event.key === "ArrowLeft" && open.has(name(row.seen))) toggle(row.seen);
    else if (event.key === "Enter" || event.key === " ") setChosen(chosen === name(row.seen) ? "" : name(row.seen));
    else return;
    event.preventDefault();
  };

  useEffect(() => {
    if (chosen && !all.some((seen) => name(seen) === chosen)) setChosen("");
  }, [all]);

  if (!value) return <><Trouble error={error} /><Loading error={error} /></>;
  return (
    <>
      <Trouble error={error ?? (unheld && `who holds them is not known: ${unheld}`)} silent={value.silent} />
      <div class="head">
        <h1>Stems</h1>
        <input type="search" placeholder="model, tenant or key" aria-label="filter stems" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
      </div>
      <p class="faint">Prefixes that most requests of late went through, busiest first. Arrow keys move, open and close; Enter shows more.</p>
      {rows.length === 0 ? (
        <p class="nothing">{filter ? "No stem is called so." : value.silent.length > 0 ? "None of the nodes that answered was asked of late." : "No request came of late."}</p>
      ) : (
        <div class="scroll">
          <table role="treegrid" aria-label="stems" class="stems">
            <thead><tr><th>stem</th><th class="wide">requests a minute</th><th title="of these requests, found at least these blocks">hit</th><th>held by</th><th>tokens</th><th>asked</th><th>tenant, model</th></tr></thead>
            <tbody ref={body}>
              {rows.map((row, i) => {
                const { stem } = row.seen;
                const is = name(row.seen);
                const holders = held.get(hex(is));
                return (
                  <>
                    <tr key={is} role="row" data-stem={is} tabIndex={0} aria-level={row.depth + 1} aria-expanded={open.has(is)} aria-selected={chosen === is} onKeyDown={(event) => keys(event, i)} onClick={() => setChosen(chosen === is ? "" : is)}>
                      <td style={{ paddingLeft: `${0.5 + 1.1 * row.depth}rem` }}>
                        <button class="twist" tabIndex={-1} aria-label={open.has(is) ? "close" : "open"} onClick={(event) => { event.stopPropagation(); toggle(row.seen); }}>{open.has(is) ? "▾" : "▸"}</button>
                        <code>{hex(stem.key).slice(0, 8)}</code>
                        {row.children > 0 && <small class="faint"> {row.children} below</small>}
                      </td>
                      <td class="wide"><span class="bar"><i style={{ width: `${(100 * stem.requestsPerMinute) / busiest}%` }} /><em>{count(stem.requestsPerMinute)}</em></span></td>
                      <td class={stem.hitFraction < 0.5 ? "bad" : ""}>{percent(stem.hitFraction, 0)}</td>
                      <td><HeldBy holders={holders} /></td>
                      <td>{count(stem.blocks * stem.blockTokens)}</td>
                      <td>{ago(num(stem.lastAskedAgoMs))}</td>
                      <td>{stem.tenant} <small class="faint">{stem.model}</small></td>
                    </tr>
                    {chosen === is && (
                      <tr class="detail" key={`${is}+`}>
                        <td colSpan={7}><Detail seen={row.seen} holders={holders} admin={admin} /></td>
                      </tr>
                    )}
                  </>
                );
              })}
            </tbody>
          </table>
        </div>
      )}
    </>
  );
}
