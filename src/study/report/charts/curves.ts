import type { CustomSeriesOption, SeriesOption } from "echarts";
import { type Axis, type SeriesStyle, legend, render, valueAxis } from "./common.js";

export interface Curve {
  readonly name: string;
  readonly style: SeriesStyle;
  /** In order of x; low and high are the band, where there is one. */
  readonly points: readonly { readonly x: number; readonly y: number; readonly low?: number; readonly high?: number }[];
  readonly marked: boolean;
}

export function curveChart(x: Axis, y: Axis, curves: readonly Curve[]): string {
  const series = curves.flatMap(({ name, style, points, marked }): SeriesOption[] => [
    band(points, style),
    {
      name,
      type: "line",
      data: points.map((point) => [point.x, point.y]),
      color: style.color,
      symbol: style.symbol,
      symbolSize: 8,
      showSymbol: marked,
      lineStyle: { width: 2, type: style.dash },
      z: 3,
    },
  ]);
  return render(520, 320, {
    grid: { left: 76, right: 24, top: curves.length > 1 ? 40 : 18, bottom: 52 },
    legend: legend(curves, 36),
    xAxis: valueAxis(x, "x"),
    yAxis: valueAxis(y, "y"),
    series,
  });
}

function band(points: Curve["points"], { color }: SeriesStyle): CustomSeriesOption {
  const inside = points.filter((point) => point.low !== undefined && point.high !== undefined);
  return {
    type: "custom",
    silent: true,
    // every corner is a datum, so that the axes hold the band; the first one draws it all
    data: inside.flatMap(({ x, low, high }) => [
      [x, low!],
      [x, high!],
    ]),
    renderItem: (params, api) => {
      if (params.dataIndex !== 0) return { type: "group", children: [] };
      const corners = [
        ...inside.map(({ x, low }) => [x, low!]),
        ...inside.toReversed().map(({ x, high }) => [x, high!]),
      ];
      const points = corners.map((corner) => api.coord(corner));
      return { type: "polygon", shape: { points }, style: { fill: color, opacity: 0.15 } };
    },
  };
}
