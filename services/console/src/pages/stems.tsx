import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { ask, hex, num, order, type SeenStem } from "../api";
import { ago, count, percent } from "../format";
import { useAsk } from "../hooks";
import { Copy, Loading, Trouble } from "../parts";

interface Stems {
  stems: SeenStem[];
  silent: { node: string; error: string }[];
}

interface Row {
  seen: SeenStem;
  depth: number;
  children: number; // known so far
}

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

function Holders({ seen }: { seen: SeenStem }) {
  const nodes = seen.holders?.nodes ?? [];
  if (nodes.length === 0) return <span class="faint">nobody now</span>;
  return (
    <span class="chips">
      {nodes.slice(0, 4).map((node) => (
        <a key={node.node} class={`chip ${node.dramBlocks > 0 ? "dram" : "ssd"}`} href={`#/nodes?node=${encodeURIComponent(node.node)}`}>
          {node.node} <small>{node.dramBlocks > 0 ? "memory" : "SSD"}</small>
        </a>
      ))}
      {nodes.length > 4 && <span class="faint">and {nodes.length - 4} more</span>}
    </span>
  );
}

function Levers({ seen }: { seen: SeenStem }) {
  const [told, setTold] = useState("");
  const pull = async (lever: string, message: object, sure: string) => {
    if (sure && !confirm(sure)) return;
    const nodes = (seen.holders?.nodes ?? []).map((node) => node.node);
    const answers = await Promise.allSettled(nodes.map((node) => order<any>(node, lever, message)));
    setTold(answers.map((answer, i) => `${nodes[i]}: ${answer.status === "fulfilled" ? `${answer.value.blocks} blocks` : (answer.reason as Error).message}`).join("; "));
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

export function StemsPage({ admin }: { admin: boolean }) {
  const { value, error } = useAsk<Stems>("stems", { most: 200 }, 4000);
  const [more, setMore] = useState<SeenStem[]>([]); // below those that were opened
  const [open, setOpen] = useState(new Set<string>());
  const [chosen, setChosen] = useState("");
  const [filter, setFilter] = useState("");
  const body = useRef<HTMLTableSectionElement>(null);
  const all = useMemo(() => {
    const merged = new Map<string, SeenStem>();
    for (const seen of [...more, ...(value?.stems ?? [])]) merged.set(name(seen), seen);
    const words = filter.toLowerCase();
    return [...merged.values()]
      .filter((seen) => !words || `${seen.stem.model} ${seen.stem.tenant} ${hex(seen.stem.key)}`.toLowerCase().includes(words))
      .sort((a, b) => b.stem.requestsPerMinute - a.stem.requestsPerMinute);
  }, [value, more, filter]);
  const rows = rowsOf(all, open);
  const busiest = Math.max(1e-9, ...all.map((seen) => seen.stem.requestsPerMinute));

  const toggle = async (seen: SeenStem) => {
    const next = new Set(open);
    if (!next.delete(name(seen))) {
      next.add(name(seen));
      try {
        const found = await ask<Stems>("stems", { most: 50, below: hex(seen.stem.key) });
        setMore((before) => [...before.slice(-500), ...found.stems]);
      } catch {
        // the next answer of all stems will do
      }
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
      <Trouble error={error} silent={value.silent} />
      <div class="head">
        <h1>Stems</h1>
        <input type="search" placeholder="model, tenant or key" aria-label="filter stems" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
      </div>
      <p class="faint">Prefixes that most requests of late went through, busiest first. Arrow keys move, open and close; Enter shows more.</p>
      {rows.length === 0 ? (
        <p class="nothing">{filter ? "No stem is called so." : "No request came of late."}</p>
      ) : (
        <div class="scroll">
          <table role="treegrid" aria-label="stems" class="stems">
            <thead><tr><th>stem</th><th class="wide">requests a minute</th><th title="of these requests, found at least these blocks">hit</th><th>held by</th><th>tokens</th><th>asked</th><th>tenant, model</th></tr></thead>
            <tbody ref={body}>
              {rows.map((row, i) => {
                const { stem } = row.seen;
                const is = name(row.seen);
                return (
                  <>
                    <tr key={is} role="row" tabIndex={0} aria-level={row.depth + 1} aria-expanded={open.has(is)} aria-selected={chosen === is} onKeyDown={(event) => keys(event, i)} onClick={() => setChosen(chosen === is ? "" : is)}>
                      <td style={{ paddingLeft: `${0.5 + 1.1 * row.depth}rem` }}>
                        <button class="twist" tabIndex={-1} aria-label={open.has(is) ? "close" : "open"} onClick={(event) => { event.stopPropagation(); toggle(row.seen); }}>{open.has(is) ? "▾" : "▸"}</button>
                        <code>{hex(stem.key).slice(0, 8)}</code>
                        {row.children > 0 && <small class="faint"> {row.children} below</small>}
                      </td>
                      <td class="wide"><span class="bar"><i style={{ width: `${(100 * stem.requestsPerMinute) / busiest}%` }} /><em>{count(stem.requestsPerMinute)}</em></span></td>
                      <td class={stem.hitFraction < 0.5 ? "bad" : ""}>{percent(stem.hitFraction, 0)}</td>
                      <td><Holders seen={row.seen} /></td>
                      <td>{count(stem.blocks * stem.blockTokens)}</td>
                      <td>{ago(num(stem.lastAskedAgoMs))}</td>
                      <td>{stem.tenant} <small class="faint">{stem.model}</small></td>
                    </tr>
                    {chosen === is && (
                      <tr class="detail" key={`${is}+`}>
                        <td colSpan={7}>
                          <dl>
                            <dt>key</dt><dd><Copy text={hex(stem.key)} /></dd>
                            <dt>namespace</dt><dd><Copy text={hex(stem.namespaceFingerprint)} /></dd>
                            <dt>length</dt><dd>{stem.blocks} blocks of {stem.blockTokens} tokens</dd>
                            <dt>requests</dt><dd>at least {count(num(stem.requests))}, seen by {row.seen.askedAt.join(", ")}</dd>
                            <dt>held by</dt><dd>{(row.seen.holders?.nodes ?? []).map((node) => `${node.node} (${node.dramBlocks > 0 ? "memory" : "SSD"})`).join(", ") || "nobody now"}</dd>
                            <dt>keep it</dt><dd><Copy text={`stemctl pin ${hex(stem.key)} --ttl 1h`} /></dd>
                          </dl>
                          {admin && <Levers seen={row.seen} />}
                        </td>
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
