// Colours and words for what the messages number: tiers, paths and causes, in the order of their enums.

export interface Named {
  index: number; // in the message's list
  name: string;
  label: string;
  color: string;
}

// Source of node.proto.
export const SOURCES: Named[] = [
  { index: 1, name: "SOURCE_LOCAL_DRAM", label: "this node's memory", color: "#0a8f63" },
  { index: 2, name: "SOURCE_REMOTE_DRAM", label: "another node's memory", color: "#2f7fd1" },
  { index: 3, name: "SOURCE_LOCAL_SSD", label: "this node's SSD", color: "#e0a020" },
  { index: 4, name: "SOURCE_REMOTE_SSD", label: "another node's SSD", color: "#c56a1e" },
];

// BytePath of counters.proto.
export const PATHS: Named[] = [
  { index: 1, name: "BYTE_PATH_LOCAL", label: "local memory", color: "#0a8f63" },
  { index: 2, name: "BYTE_PATH_SAME_HOST", label: "same host", color: "#38b2ac" },
  { index: 3, name: "BYTE_PATH_REMOTE", label: "network", color: "#2f7fd1" },
  { index: 4, name: "BYTE_PATH_SSD_READ", label: "SSD read", color: "#e0a020" },
  { index: 5, name: "BYTE_PATH_SSD_WRITE", label: "SSD write", color: "#c56a1e" },
  { index: 6, name: "BYTE_PATH_PUBLISH", label: "published", color: "#8a63d2" },
];

export interface Cause extends Named {
  means: string;
  act: string; // what an operator can do
}

// MissCause of types.proto.
export const CAUSES: Cause[] = [
  { index: 10, name: "MISS_CAUSE_EVICTED", label: "evicted", color: "#d1495b", means: "left its last tier for space", act: "see Capacity: more DRAM or SSD; pin what must stay" },
  { index: 9, name: "MISS_CAUSE_SPILL_REJECTED", label: "spill rejected", color: "#e0762f", means: "left memory and was not thought worth a write to SSD", act: "admission policy, or a disk that fails: see the node's log" },
  { index: 8, name: "MISS_CAUSE_NODE_LOST", label: "node lost", color: "#a23b72", means: "its only holders died or could not be reached", act: "see Nodes" },
  { index: 1, name: "MISS_CAUSE_REFUSED", label: "refused", color: "#8b1e3f", means: "quota or overload", act: "quota of the tenant, queues of the node" },
  { index: 2, name: "MISS_CAUSE_DEADLINE", label: "deadline", color: "#b5179e", means: "the request's time ran out first", act: "see Traces: which step took it" },
  { index: 4, name: "MISS_CAUSE_INTEGRITY", label: "integrity", color: "#ff0054", means: "a copy failed its proof and was not used", act: "find the node and its disk or memory: see its log" },
  { index: 7, name: "MISS_CAUSE_NOT_YET", label: "not yet", color: "#f2c14e", means: "being computed or published at that moment", act: "nothing: the next one finds it" },
  { index: 6, name: "MISS_CAUSE_UNREACHABLE", label: "unreachable", color: "#7f9c3a", means: "held, but behind the first missing block", act: "look at what is missing before it" },
  { index: 5, name: "MISS_CAUSE_RECOMPUTE_CHEAPER", label: "recompute cheaper", color: "#5aa9a3", means: "bringing it would take longer than computing it", act: "nothing, or a faster network" },
  { index: 11, name: "MISS_CAUSE_INCOMPATIBLE", label: "incompatible", color: "#6a4c93", means: "known under another namespace of this tenant", act: "engines of one model differ: explain says in which field" },
  { index: 12, name: "MISS_CAUSE_COLD", label: "cold", color: "#5b8def", means: "never published", act: "nothing: new prompts" },
  { index: 3, name: "MISS_CAUSE_UNKNOWN", label: "unknown", color: "#8d99ae", means: "no directory answered, or it happened too long ago", act: "directories: lag, restarts" },
  { index: 13, name: "MISS_CAUSE_BELOW_BLOCK", label: "below a block", color: "#b8c0cc", means: "the prompt's tail, shorter than a block", act: "nothing" },
];

export const causeOf = (name: string): Cause =>
  CAUSES.find((cause) => cause.name === name) ?? { index: 0, name, label: "other", color: "#8d99ae", means: "", act: "" };

export const sourceOf = (name: string): Named => SOURCES.find((source) => source.name === name) ?? { index: 0, name, label: name, color: "#8d99ae" };

const TIERS: Record<string, string> = { TIER_GPU: "GPU memory", TIER_DRAM: "memory", TIER_SSD: "SSD" };
export const tierOf = (name: string): string => TIERS[name] ?? "";

const REASONS: Record<string, string> = {
  REMOVE_REASON_EVICTED: "evicted",
  REMOVE_REASON_SPILL_REJECTED: "not worth a write to SSD",
  REMOVE_REASON_INTEGRITY: "failed its proof",
  REMOVE_REASON_WITHDRAWN: "withdrawn",
  REMOVE_REASON_UNSPECIFIED: "went to SSD",
};
export const reasonOf = (name: string): string => REASONS[name] ?? name;
