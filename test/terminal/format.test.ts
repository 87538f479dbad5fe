import { expect, test } from "vitest";
import { clock, duration, figure, percent, range, scientific, signed, size, whole } from "../../src/terminal/format.js";

test("clock", () => {
  expect([0, 7.4, 754, 3_723].map(clock)).toEqual(["0:00", "0:07", "12:34", "1:02:03"]);
});

test("numbers have a true minus", () => {
  expect([percent(0.461), signed(0.428), signed(-0.004), range([-0.01, 0.5])]).toEqual([
    "46.1 %",
    "+42.8",
    "−0.4",
    "[−1.0, 50.0]",
  ]);
  expect([whole(-12_345.6), figure(-0.012345), figure(1234.5), scientific(0.00012)]).toEqual([
    "−12,346",
    "−0.0123",
    "1,235",
    "1.2e−4",
  ]);
  expect([41, 187, 7_500].map(duration)).toEqual(["41 s", "3 min 07 s", "2 h 05 min"]);
  expect([12.3e6, 1.234e9].map(size)).toEqual(["12.3 MB", "1.23 GB"]);
});
