// Figures as people read them.

export function count(value: number): string {
  if (!isFinite(value)) return "–";
  const units: [number, string][] = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  for (const [size, unit] of units) {
    if (Math.abs(value) >= size) return `${short(value / size)} ${unit}`;
  }
  return short(value);
}

function short(value: number): string {
  if (value === 0) return "0";
  const magnitude = Math.abs(value);
  return value.toFixed(magnitude >= 100 ? 0 : magnitude >= 10 ? 1 : magnitude >= 1 ? 2 : 3).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

// Sizes of memory: powers of 1024.
export function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    ++unit;
  }
  return `${unit === 0 ? Math.round(value) : short(value)} ${units[unit]}`;
}

// Speeds: powers of 1000, as networks and disks are sold.
export function rate(bytesPerSecond: number): string {
  return Math.abs(bytesPerSecond) < 1000 ? `${count(bytesPerSecond)} B/s` : `${count(bytesPerSecond)}B/s`;
}

export function percent(fraction: number, digits = 1): string {
  return isFinite(fraction) ? `${(100 * fraction).toFixed(digits)} %` : "–";
}

export function micros(us: number): string {
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${short(us / 1000)} ms`;
  return `${short(us / 1e6)} s`;
}

export function duration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 100) return `${Math.round(s)} s`;
  if (s < 6000) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${short(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

export function ago(ms: number): string {
  return ms < 1000 ? "now" : `${duration(ms)} ago`;
}

export function some(number: number, one: string, many = `${one}s`): string {
  return `${count(number)} ${number === 1 ? one : many}`;
}

export function clock(unixMs: number): string {
  return new Date(unixMs).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}
