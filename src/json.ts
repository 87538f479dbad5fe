/** JSON that may be none: for text whose schema says what is wrong with it. Knows no schemas. */

/** @returns undefined when it is no JSON */
export function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
