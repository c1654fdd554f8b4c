// What the directory tells, as protobuf's JSON has it: 64-bit numbers are text, bytes are base64, enums are names.
// The shapes are those of proto/stemcache/v1/{directory,node,operator,counters}.proto.

export type Count = string | number; // 64 bits

export interface Address {
  node: string;
  peerAddress: string;
  hostId: string;
}

export interface FleetNode {
  address: Address;
  state: "live" | "stale" | "lost";
  silentMs: number;
  blocksDram: Count;
  blocksSsd: Count;
  dramBytes: Count;
  dramBytesUsed: Count;
  ssdBytes: Count;
  ssdBytesUsed: Count;
  resyncs: Count;
  healthPercent: number;
  draining: boolean;
}

export interface Fleet {
  nodes: FleetNode[];
  blocks: Count;
  ghosts: Count;
  uptimeMs: Count;
  version: string;
  indexBytes: Count;
  indexBytesMax: Count;
  blocksShed: Count;
}

export interface TenantCounts {
  tenant: string;
  tokensAsked: Count;
  tokensHit: Count;
  dramBytes: Count;
  dramBytesUsed: Count;
}

export interface Counters {
  requests: Count;
  tokensAsked: Count;
  tokensHit: Count[]; // by Source
  tokensMissed: Count[]; // by MissCause
  bytes: Count[]; // by BytePath
  prefillSavedUs: Count;
  deadlineMisses: Count;
  integrityFailures: Count;
  blocksPublished: Count;
  blocksRefused: Count;
  blocksEvicted: Count;
  blocksSpilled: Count;
  tenants: TenantCounts[];
  orphanBlocks: Count;
}

export interface Point {
  unixMs: Count;
  stepMs: number;
  change?: Counters;
  nodesLive: number;
  dramBytes: Count;
  dramBytesUsed: Count;
  ssdBytes: Count;
  ssdBytesUsed: Count;
}

export interface History {
  points: Point[];
  total?: Counters;
}

export interface Tick {
  counts: { live: number; stale: number; lost: number; draining: number };
  fleet: Fleet; // nodes: the first of those that are not live
  history: History | null;
}

export interface Arena {
  group: string;
  bytes: Count;
  slotBytes: Count;
  slots: Count;
  slotsFree: Count;
  slotsPinned: Count;
  bytesMax: Count;
  bytesKept: Count;
}

export interface Link {
  peer: string;
  bytes: Count;
}

export interface NodeStatus {
  version: string;
  uptimeMs: Count;
  arenas: Arena[];
  sessions: Count;
  pins: Count;
  leases: Count;
  integrityFailures: Count;
  ssdBytes: Count;
  ssdBytesUsed: Count;
  links?: Link[];
}

export interface NodeAnswer {
  node: string;
  error?: string;
}

export interface Miss {
  first: number;
  count: number;
  cause: string;
  estimateMs: number;
}

export interface Step {
  name: string;
  startUs: Count;
  durationUs: Count;
  peer: string;
  tier: string;
  blocks: number;
  bytes: Count;
  error: string;
}

// In which field the namespace that was asked differs from one under which the same prompt is known; no field: not known.
export interface Difference {
  field: string;
  asked: string;
  known: string;
}

export interface RequestRecord {
  number: Count;
  node: string;
  kind: string;
  request: string;
  tenant: string;
  model: string;
  namespaceFingerprint: string;
  blockTokens: number;
  beganUnixMs: Count;
  durationUs: Count;
  deadlineUs: Count;
  blocksAsked: number;
  blocksMatched: number;
  hits: { source: string; blocks: number; bytes: Count }[];
  misses: Miss[];
  lastKey: string;
  firstMissingKey: string;
  steps: Step[];
  traceId: string;
  error: string;
  difference?: Difference;
  probe: string;
}

export interface Departure {
  node: string;
  tier: string;
  reason: string;
  policy: string;
  agoMs: Count;
  ageMs: Count;
}

export interface Explanation {
  matchedBlocks: number;
  runs: { first: number; count: number; holder: number; tier: string }[];
  holders: Address[];
  truth?: { exact: boolean; lagging: { node: string; lagMs: Count }[] };
  misses: { miss: Miss; departures: Departure[]; difference?: Difference }[];
  silentNodes: string[];
}

export interface Stem {
  namespaceFingerprint: string;
  model: string;
  tenant: string;
  key: string;
  parent: string;
  blocks: number;
  blockTokens: number;
  requestsPerMinute: number;
  requests: Count;
  lastAskedAgoMs: Count;
  hitFraction: number;
}

export interface SeenStem {
  stem: Stem;
  askedAt: string[];
}

export interface Holders {
  nodes: { node: string; dramBlocks: number; ssdBlocks: number; engineBlocks: number }[];
}

export interface Curve {
  points: { bytes: Count; hitRate: number }[];
  dramBytes: Count;
  hitRateNow: number;
  sampledFraction: number;
  references: Count;
  sinceMs: Count;
  workingSetBytes: Count;
}

export class ApiError extends Error {}

let heard = Date.now();
// When the directory last said anything that was asked of it, by this browser's clock.
export const lastHeard = (): number => heard;
export const justHeard = (): void => {
  heard = Date.now();
};

async function read<T>(response: Response): Promise<T> {
  let body: any = {};
  try {
    body = await response.json();
  } catch {
    // told by the status below
  }
  if (!response.ok) throw new ApiError(body.error || `the directory answered ${response.status}`);
  justHeard();
  return body as T;
}

const BUSY_TRIES = 4; // when others ask too many questions at a time

export async function ask<T>(path: string, parameters: Record<string, string | number> = {}, signal?: AbortSignal): Promise<T> {
  const query = new URLSearchParams(Object.entries(parameters).map(([k, v]) => [k, String(v)])).toString();
  for (let tries = 1; ; ++tries) {
    let response: Response;
    try {
      response = await fetch(`/api/${path}${query ? `?${query}` : ""}`, { signal });
    } catch {
      throw new ApiError("the directory does not answer");
    }
    const wait = Number(response.headers.get("Retry-After"));
    if (response.status !== 503 || !(wait > 0) || tries === BUSY_TRIES) return read<T>(response);
    await new Promise((done) => setTimeout(done, wait * 1000 * (0.5 + Math.random())));
    if (signal?.aborted) throw new ApiError("not asked any more");
  }
}

const TOKEN = "stemcache access token";

// Whether there is an access token to order with: the one of this tab, or what the operator now types in.
export function mayOrder(): boolean {
  if (sessionStorage.getItem(TOKEN)) return true;
  const token = prompt("Access token of this directory: in the file FILE.token beside its --ready-file FILE, or else in its log")?.trim();
  if (token) sessionStorage.setItem(TOKEN, token);
  return Boolean(token);
}

// An order to a node, after mayOrder(); the directory takes it only when it was started with --admin.
export async function order<T>(node: string, lever: string, message: object): Promise<T> {
  const response = await fetch(`/api/nodes/${encodeURIComponent(node)}/${lever}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Stemcache-Console": sessionStorage.getItem(TOKEN) ?? "" },
    body: JSON.stringify(message),
  });
  if (response.status === 401) sessionStorage.removeItem(TOKEN); // the next order asks for another
  return read<T>(response);
}

export const num = (count: Count | undefined): number => Number(count ?? 0);
export const sum = (counts: Count[] | undefined): number => (counts ?? []).reduce<number>((total, count) => total + num(count), 0);

// What was counted in two steps that follow each other; of tenants and orphans, which are levels, what the later says.
export function added(a: Counters | undefined, b: Counters | undefined): Counters | undefined {
  if (!a || !b) return a ?? b;
  const lists = (x: Count[], y: Count[]) => Array.from({ length: Math.max(x.length, y.length) }, (_, i) => num(x[i]) + num(y[i]));
  const both = { ...b } as any;
  for (const [field, value] of Object.entries(a)) {
    if (field === "tenants" || field === "orphanBlocks") continue;
    both[field] = Array.isArray(value) ? lists(value as Count[], both[field] ?? []) : num(value as Count) + num(both[field]);
  }
  return both;
}

export function hex(base64: string): string {
  return Array.from(atob(base64 || ""), (c) => c.charCodeAt(0).toString(16).padStart(2, "0")).join("");
}
