import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import type { Point } from "./api";
import { added, num } from "./api";
import { clock } from "./format";

export interface Series {
  label: string;
  color: string;
  values: (number | null)[];
}

interface ChartProps {
  title: string;
  xs: number[]; // seconds since 1970, or any number with `xLabel`
  series: Series[];
  format: (value: number) => string;
  stacked?: boolean;
  max?: number; // of the y axis
  markers?: { x: number; label: string }[];
  formatX?: (x: number) => string; // for an axis that is not time but sizes, by powers of 2
  summary: string; // the chart in a sentence, for who cannot see it
  height?: number;
}

const paint = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Each series on top of the ones before it, by x; null where any is unknown.
function stack(series: Series[]): (number | null)[][] {
  const sums: (number | null)[][] = [];
  series.forEach(({ values }, i) => {
    sums.push(values.map((value, x) => (value === null ? null : i === 0 ? value : sums[i - 1][x] === null ? null : value + (sums[i - 1][x] as number))));
  });
  return sums;
}

function options(props: ChartProps, width: number): uPlot.Options {
  const drawn = props.stacked ? [...props.series].reverse() : props.series;
  const axis = { stroke: paint("--faint"), grid: { stroke: paint("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  return {
    width,
    height: props.height ?? 210,
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, points: { size: 6 } },
    scales: {
      x: props.formatX ? { time: false, distr: 3, log: 2 } : { time: true },
      y: { range: (_u, _min, max) => [0, props.max ?? (max > 0 ? max * 1.08 : 1)] },
    },
    axes: [
      { ...axis, size: 30, space: 76, ...(props.formatX ? { values: (_u: uPlot, ticks: (number | null)[]) => ticks.map((tick) => (tick === null ? "" : props.formatX!(tick))) } : { values: [
        [3600, "{HH}:{mm}", null, null, null, null, null, null, 1], [60, "{HH}:{mm}", null, null, null, null, null, null, 1],
        [1, "{HH}:{mm}:{ss}", null, null, null, null, null, null, 1]] }) } as uPlot.Axis,
      { ...axis, size: 62, values: (_u, ticks) => ticks.map(props.format) },
    ],
    series: [
      {},
      ...drawn.map((series) => ({
        label: series.label,
        stroke: series.color,
        width: props.stacked ? 1 : 2,
        fill: props.stacked ? series.color : undefined,
        points: { show: props.xs.length < 3 },
        spanGaps: false,
      })),
    ],
    hooks: {
      draw: (props.markers ?? []).map((marker, i) => (u: uPlot) => {
            const x = u.valToPos(marker.x, "x", true);
            u.ctx.save();
            u.ctx.strokeStyle = u.ctx.fillStyle = paint("--text");
            u.ctx.setLineDash([6, 4]);
            u.ctx.beginPath();
            u.ctx.moveTo(x, u.bbox.top);
            u.ctx.lineTo(x, u.bbox.top + u.bbox.height);
            u.ctx.stroke();
            u.ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
            const left = x > u.bbox.left + u.bbox.width * 0.7;
            u.ctx.textAlign = left ? "right" : "left";
            u.ctx.fillText(marker.label, x + (left ? -6 : 6) * devicePixelRatio, u.bbox.top + (14 + 16 * i) * devicePixelRatio);
            u.ctx.restore();
          }),
    },
  };
}

// A chart with its legend, which shows the values under the pointer, or else the latest.
export function Chart(props: ChartProps) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>();
  const [at, setAt] = useState<number | null>(null);
  const [theme, setTheme] = useState(0);
  const empty = props.xs.length === 0;
  const shape = `${theme} ${props.stacked} ${props.series.map((series) => series.label + series.color)} ${(props.markers ?? []).map((marker) => marker.label + marker.x)} ${empty}`;

  useEffect(() => {
    const changed = () => setTheme((n) => n + 1);
    const media = matchMedia("(prefers-color-scheme: dark)");
    media.addEventListener("change", changed);
    const attribute = new MutationObserver(changed);
    attribute.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    return () => {
      media.removeEventListener("change", changed);
      attribute.disconnect();
    };
  }, []);

  const data = (): uPlot.AlignedData => {
    const values = props.stacked ? stack(props.series).reverse() : props.series.map((series) => series.values);
    return [props.xs, ...values] as uPlot.AlignedData;
  };

  useEffect(() => {
    if (!box.current || empty) return;
    const made = new uPlot({ ...options(props, box.current.clientWidth), hooks: { ...options(props, 1).hooks, setCursor: [(u) => setAt(u.cursor.idx ?? null)] } }, data(), box.current);
    plot.current = made;
    const resize = new ResizeObserver(() => box.current && made.setSize({ width: box.current.clientWidth, height: props.height ?? 210 }));
    resize.observe(box.current);
    return () => {
      resize.disconnect();
      made.destroy();
      plot.current = undefined;
    };
  }, [shape]);

  useEffect(() => {
    plot.current?.setData(data());
  }, [props.xs, props.series]);

  // What is told while nothing is pointed at: the latest, or what is nearest to the first marker.
  const first = props.markers?.[0];
  const told = props.xs.map((_, i) => props.series.some((series) => series.values[i] !== null));
  const usual = first ? props.xs.reduce((best, x, i) => (Math.abs(x - first.x) < Math.abs(props.xs[best] - first.x) ? i : best), 0) : Math.max(0, told.lastIndexOf(true));
  const shown = at !== null && at < props.xs.length ? at : usual;
  return (
    <figure class="chart">
      <figcaption>
        <strong>{props.title}</strong>
        <span class="faint">{empty ? "" : at === null ? (first?.label ?? "latest") : props.formatX ? props.formatX(props.xs[shown]) : clock(1000 * props.xs[shown])}</span>
      </figcaption>
      {empty ? <p class="nothing">Nothing was counted in this time.</p> : <div ref={box} class="plot" role="img" aria-label={`${props.title}: ${props.summary}`} />}
      <ul class="legend">
        {props.series.map((series) => (
          <li key={series.label}>
            <i style={{ background: series.color }} />
            {series.label}
            <b>{empty || series.values[shown] === null || series.values[shown] === undefined ? "–" : props.format(series.values[shown] as number)}</b>
          </li>
        ))}
      </ul>
    </figure>
  );
}

// Points that are drawn side by side are of one length: single seconds, as ticks bring them, are put together to the others' step. The last is
// left out until half of it is there: a rate over a blink is noise.
function ofOneStep(points: Point[]): Point[] {
  const step = Math.max(0, ...points.map((point) => point.stepMs));
  const out: Point[] = [];
  let group = NaN;
  for (const point of points) {
    const its = point.stepMs > 0.9 * step ? NaN : Math.floor((num(point.unixMs) - point.stepMs / 2) / step);
    const last = out[out.length - 1];
    if (its === group) out[out.length - 1] = { ...point, stepMs: last.stepMs + point.stepMs, change: added(last.change, point.change) };
    else out.push(point);
    group = its;
  }
  return out.length > 1 && out[out.length - 1].stepMs < step / 2 ? out.slice(0, -1) : out;
}

// The points as x values, with a hole where heartbeats are missing.
export function timeline(all: Point[]): { xs: number[]; points: (Point | null)[] } {
  const points = ofOneStep(all);
  const xs: number[] = [];
  const out: (Point | null)[] = [];
  let before: Point | undefined;
  for (const point of points) {
    if (before && num(point.unixMs) - num(before.unixMs) > 2.5 * Math.max(point.stepMs, before.stepMs)) {
      xs.push((num(before.unixMs) + before.stepMs) / 1000);
      out.push(null);
    }
    xs.push(num(point.unixMs) / 1000);
    out.push(point);
    before = point;
  }
  return { xs, points: out };
}

// A value for each point; null in holes.
export function along(points: (Point | null)[], value: (point: Point) => number | null): (number | null)[] {
  return points.map((point) => (point === null ? null : value(point)));
}
