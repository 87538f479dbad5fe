/** A benchmark's result as an SVG picture: bars for its cases, or curves where it has some. */
import * as echarts from "echarts";
import type { BenchResult, Curves } from "./bench.js";
import { figure } from "./figure.js";

/** Ours, then the peers. */
const colors = ["#0b6e99", "#c9ced6", "#8d96a3", "#e3c7a0"];
const white = { animation: false, backgroundColor: "#ffffff" };

/**
 * Horizontal bars of the medians, labelled with them and with the lowest and highest measurement.
 */
export function barChart({ title, unit, better, peerNames, cases }: BenchResult): string {
  const sides = ["ours", ...peerNames.filter((name) => cases.some(({ peers }) => peers[name] !== undefined))];
  const measuredOf = (side: string, c: number) => (side === "ours" ? cases[c]!.ours : cases[c]!.peers[side]);
  return svg(1_000, 130 + cases.length * sides.length * 22, {
    ...white,
    title: {
      text: title,
      subtext: `${unit}, ${better} is better; medians, figures in brackets: lowest to highest`,
      left: 10,
      top: 8,
    },
    legend: { right: 60, top: 10, data: sides },
    grid: { left: 380, right: 190, top: 75, bottom: 30 },
    xAxis: { type: "value" },
    yAxis: { type: "category", inverse: true, data: cases.map(({ name }) => name) },
    series: sides.map((name, s) => ({
      name,
      type: "bar",
      itemStyle: { color: colors[s] },
      data: cases.map((_, c) => measuredOf(name, c)?.median ?? null),
      label: {
        show: true,
        position: "right",
        formatter: ({ dataIndex }: { dataIndex: number }) => {
          const measured = measuredOf(name, dataIndex);
          return measured === undefined
            ? ""
            : `${figure(measured.median)}  [${figure(measured.min)}, ${figure(measured.max)}]`;
        },
      },
    })),
  });
}

/** One small picture for each set of curves, side by side, two in a row. */
export function lineChart({ title }: BenchResult, curves: readonly Curves[]): string {
  const [width, height, top] = [500, 300, 60];
  const place = (k: number) => ({ left: (k % 2) * width, top: top + Math.floor(k / 2) * height });
  const columns = Math.min(2, curves.length);
  return svg(columns * width, top + Math.ceil(curves.length / 2) * height, {
    ...white,
    title: [
      { text: title, left: 10, top: 8 },
      ...curves.map(({ title: text }, k) => ({
        text,
        textStyle: { fontSize: 13 },
        left: place(k).left + 60,
        top: place(k).top,
      })),
    ],
    legend: { right: 20, top: 10, data: [...new Set(curves.flatMap(({ lines }) => lines.map(({ name }) => name)))] },
    grid: curves.map((_, k) => ({
      left: place(k).left + 70,
      top: place(k).top + 45,
      width: width - 110,
      height: height - 105,
    })),
    xAxis: curves.map(({ xName, logX }, k) => ({
      gridIndex: k,
      type: logX === true ? "log" : "value",
      name: xName,
      nameLocation: "middle",
      nameGap: 25,
    })),
    yAxis: curves.map(({ yName, logY }, k) => ({
      gridIndex: k,
      type: logY === true ? "log" : "value",
      name: yName,
      scale: true,
    })),
    series: curves.flatMap(({ lines }, k) =>
      lines.map(({ name, points }) => ({
        name,
        type: "line",
        xAxisIndex: k,
        yAxisIndex: k,
        symbolSize: 5,
        ...(name.startsWith("ours") ? { color: colors[0] } : {}),
        data: points.map((point) => [...point]),
      })),
    ),
  });
}

function svg(width: number, height: number, option: echarts.EChartsCoreOption): string {
  const view = echarts.init(null, null, { renderer: "svg", ssr: true, width, height });
  view.setOption(option);
  const text = view.renderToSVGString();
  view.dispose();
  return `${text}\n`;
}
