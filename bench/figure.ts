/** Numbers as the tables and pictures show them. */

/** Three digits or so. */
export function figure(value: number): string {
  return value >= 1_000 ? Math.round(value).toLocaleString("en-US") : value.toPrecision(3);
}

export const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;
