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
  truth?: { exact: boolean };
  misses: { miss: Miss; departures: Departure[]; field: string; asked: string; known: string }[];
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
  holders: { nodes: { node: string; dramBlocks: number; ssdBlocks: number }[] };
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

async function read<T>(response: Response): Promise<T> {
  let body: any = {};
  try {
    body = await response.json();
  } catch {
    // told by the status below
  }
  if (!response.ok) throw new ApiError(body.error || `the directory answered ${response.status}`);
  return body as T;
}

export async function ask<T>(path: string, parameters: Record<string, string | number> = {}): Promise<T> {
  const query = new URLSearchParams(Object.entries(parameters).map(([k, v]) => [k, String(v)])).toString();
  let response: Response;
  try {
    response = await fetch(`/api/${path}${query ? `?${query}` : ""}`);
  } catch {
    throw new ApiError("the directory does not answer");
  }
  return read<T>(response);
}

// An order to a node; the directory takes it only when it was started with --admin.
export async function order<T>(node: string, lever: string, message: object): Promise<T> {
  const response = await fetch(`/api/nodes/${encodeURIComponent(node)}/${lever}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Stemcache-Console": "1" },
    body: JSON.stringify(message),
  });
  return read<T>(response);
}

export const num = (count: Count | undefined): number => Number(count ?? 0);
export const sum = (counts: Count[] | undefined): number => (counts ?? []).reduce<number>((total, count) => total + num(count), 0);

export function hex(base64: string): string {
  return Array.from(atob(base64 || ""), (c) => c.charCodeAt(0).toString(16).padStart(2, "0")).join("");
}
