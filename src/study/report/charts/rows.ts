/** Charts with a row for each thing compared: values with intervals, and bars cut into parts. */
import type { CustomSeriesOption, SeriesOption } from "echarts";
import {
  type Axis,
  INK,
  type SeriesStyle,
  legend,
  render,
  rowAxis,
  rowLabelWidth,
  text,
  tick,
  valueAxis,
} from "./common.js";

export interface Estimate {
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

export interface Estimates {
  readonly name: string;
  readonly style: SeriesStyle;
  readonly estimates: readonly (Estimate | null)[];
}

const WIDTH = 860;
const LANE = 16;

/** Values and intervals by row. @param kind "forest": one series per row, and a line at 0 */
export function intervalChart(
  x: Axis,
  rows: readonly string[],
  all: readonly Estimates[],
  kind: "compare" | "forest" = "compare",
): string {
  const lanes = kind === "forest" ? 1 : all.length;
  const offset = (i: number): number => (lanes === 1 ? 0 : (i - (lanes - 1) / 2) * LANE);
  const zeroLine = { silent: true, symbol: "none", label: { show: false }, data: [{ xAxis: 0 }] };
  const series = all.flatMap(({ name, style, estimates }, i): SeriesOption[] => [
    whiskers(estimates, style, offset(i)),
    {
      name,
      type: "scatter",
      symbol: style.symbol,
      symbolSize: 10,
      itemStyle: { color: style.color, opacity: 1 },
      symbolOffset: [0, offset(i)],
      data: estimates.flatMap((estimate, row) => (estimate === null ? [] : [[estimate.value, row]])),
      z: 4,
      ...(kind === "forest" &&
        i === 0 && { markLine: { ...zeroLine, lineStyle: { color: INK, type: "solid", width: 1 } } }),
    },
  ]);
  return render(WIDTH, 110 + rows.length * Math.max(34, 14 + LANE * lanes), {
    grid: { left: rowLabelWidth(rows), right: 30, top: lanes > 1 ? 40 : 16, bottom: 52 },
    legend: kind === "forest" ? { show: false } : legend(all, 12),
    xAxis: valueAxis(x, "x"),
    yAxis: rowAxis(rows),
    series,
  });
}

function whiskers(estimates: Estimates["estimates"], { color }: SeriesStyle, offset: number): CustomSeriesOption {
  const present = estimates.flatMap((estimate, row) => (estimate === null ? [] : [{ ...estimate, row }]));
  return {
    type: "custom",
    silent: true,
    // both ends are data, so that the axis holds them; the first of each pair draws
    data: present.flatMap(({ low, high, row }) => [
      [low, row],
      [high, row],
    ]),
    renderItem: (params, api) => {
      if (params.dataIndex % 2 === 1) return { type: "group", children: [] };
      const { low, high, row } = present[params.dataIndex / 2]!;
      const [x1, middle] = api.coord([low, row]) as [number, number];
      const [x2, y] = [api.coord([high, row])[0]!, middle + offset];
      const line = (x1: number, y1: number, x2: number, y2: number) =>
        ({ type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: color, lineWidth: 2 } }) as const;
      return { type: "group", children: [line(x1, y, x2, y), line(x1, y - 5, x1, y + 5), line(x2, y - 5, x2, y + 5)] };
    },
  };
}

export interface Part {
  readonly name: string;
  readonly counts: readonly number[];
}

const hatched = (dashArrayY: number[], rotation: number, alpha: number) => ({
  symbol: "rect",
  dashArrayX: [1, 0],
  dashArrayY,
  rotation,
  color: `rgba(0,0,0,${alpha})`,
});
/** Each part has a fill pattern of its own, so that grey tells them apart, too. */
const fills = [
  { color: "#0072B2", decal: { symbol: "none" } },
  { color: "#56B4E9", decal: hatched([3, 4], Math.PI / 4, 0.3) },
  { color: "#E69F00", decal: hatched([2, 5], -Math.PI / 4, 0.45) },
  { color: "#DDDDDD", decal: { symbol: "none" } },
];
/** A narrower part has no room for its count. */
const LEAST_LABELLED = 0.035;

/** A bar per row, cut into at most four parts that carry their counts. */
export function stackedChart(rows: readonly string[], parts: readonly Part[], xName: string): string {
  const totals = rows.map((_, row) => parts.reduce((sum, { counts }) => sum + counts[row]!, 0));
  const series = parts.map(({ name, counts }, i): SeriesOption => ({
    name,
    type: "bar",
    stack: "all",
    barWidth: 24,
    itemStyle: { ...fills[i % fills.length]!, borderColor: "#ffffff", borderWidth: 1 },
    label: {
      ...text,
      show: true,
      fontSize: 12,
      backgroundColor: "rgba(255,255,255,0.9)",
      padding: [1, 3],
      formatter: ({ dataIndex }) => tick(counts[dataIndex]!),
    },
    data: counts.map((count, row) => {
      const value = count / Math.max(1, totals[row]!);
      return { value, label: { show: value >= LEAST_LABELLED } };
    }),
  }));
  return render(WIDTH, 120 + rows.length * 38, {
    grid: { left: rowLabelWidth(rows), right: 30, top: 44, bottom: 52 },
    legend: legend(parts, 24),
    xAxis: valueAxis({ name: xName, percent: true, min: 0, max: 1 }, "x"),
    yAxis: rowAxis(rows),
    series,
  });
}
