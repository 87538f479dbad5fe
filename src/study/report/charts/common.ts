/** What the charts share. Series differ in colour (Okabe & Ito's palette), dash and marker. */
import * as echarts from "echarts";
import type { EChartsOption } from "echarts";
import { figure, scientific, whole } from "../../../terminal/format.js";

export interface SeriesStyle {
  readonly color: string;
  readonly dash: "solid" | number[];
  readonly symbol: "circle" | "triangle" | "diamond" | "rect";
}

/** Okabe & Ito 2008, "Color Universal Design". */
const styles: readonly SeriesStyle[] = [
  { color: "#0072B2", dash: "solid", symbol: "circle" },
  { color: "#D55E00", dash: [8, 4], symbol: "triangle" },
  { color: "#009E73", dash: [2, 3], symbol: "diamond" },
  { color: "#CC79A7", dash: [10, 3, 2, 3], symbol: "rect" },
];
export const baselineStyle: SeriesStyle = { color: "#000000", dash: [1, 3], symbol: "rect" };
export const styleOf = (i: number): SeriesStyle => styles[i % styles.length]!;

export interface Axis {
  readonly name: string;
  /** Shares are shown as percent. */
  readonly percent?: boolean;
  /** Labels are values times this. */
  readonly scale?: number;
  /** Counts have no ticks between whole numbers. */
  readonly whole?: boolean;
  readonly min?: number;
  readonly max?: number;
}

const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', Arial, sans-serif";
export const INK = "#222222";
export const text = { fontFamily: FONT, fontSize: 13, color: INK };

/** Three digits or all before the point: 12,000; 350; 0.25; 1e−4. */
export function tick(value: number): string {
  if (value !== 0 && Math.abs(value) < 0.001) return scientific(value, 0);
  return Math.abs(value) >= 100 ? whole(value) : figure(value);
}

export function valueAxis(
  { name, percent = false, scale = percent ? 100 : 1, whole = false, min, max }: Axis,
  along: "x" | "y",
): object {
  return {
    type: "value",
    name: percent ? `${name} (%)` : name,
    nameLocation: "middle",
    nameGap: along === "x" ? 30 : 48,
    nameTextStyle: text,
    min,
    max,
    scale: true,
    splitNumber: 5,
    minInterval: whole ? 1 : 0,
    axisLine: { show: true, lineStyle: { color: "#666666" } },
    axisTick: { show: true },
    splitLine: { lineStyle: { color: "#e6e6e6" } },
    axisLabel: { ...text, hideOverlap: true, formatter: (value: number): string => tick(scale * value) },
  };
}

/** One row per name, the first on top. */
export function rowAxis(rows: readonly string[]): object {
  return {
    type: "category",
    data: [...rows],
    inverse: true,
    axisTick: { show: false },
    axisLine: { show: false },
    splitLine: { show: true, lineStyle: { color: "#eeeeee" } },
    axisLabel: { ...text, interval: 0 },
  };
}

/** Room for the longest name, by its usual width: text cannot be measured without a browser. */
export const rowLabelWidth = (rows: readonly string[]): number =>
  Math.min(420, 7.3 * Math.max(...rows.map((row) => row.length)) + 18);

/** Only where there is more than one thing to tell apart. */
export function legend(series: readonly { readonly name: string }[], itemWidth: number): object {
  const names = series.map(({ name }) => name);
  return { show: names.length > 1, top: 4, left: "center", itemGap: 22, itemWidth, textStyle: text, data: names };
}

export function render(width: number, height: number, option: EChartsOption): string {
  const view = echarts.init(null, null, { renderer: "svg", ssr: true, width, height });
  view.setOption({ animation: false, backgroundColor: "#ffffff", textStyle: text, ...option });
  const svg = view.renderToSVGString();
  view.dispose();
  return svg;
}
