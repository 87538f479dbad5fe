/** The report's style sheet: screen, narrow screens and paper. */
export const css = `
:root { --ink: #1c1c1c; --soft: #595959; --line: #d5d5d5; --accent: #0072b2; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1120px; padding: 24px 28px 64px; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 10px; }
h3 { font-size: 1rem; margin: 0 0 6px; }
h4 { font-size: 0.9rem; margin: 0 0 4px; }
p { margin: 0 0 10px; max-width: 78ch; }
.subtitle { color: var(--soft); overflow-wrap: anywhere; }
.verdict { border-left: 6px solid var(--accent); background: #f2f7fb; padding: 16px 20px 8px; margin: 16px 0; }
.verdict p { font-size: 1.1rem; }
.missing { border-left: 6px solid #e69f00; background: #fdf7ea; padding: 12px 20px 4px; margin: 16px 0; }
.missing h2 { font-size: 1rem; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 20px; padding: 0; margin: 16px 0; }
nav a { color: var(--accent); }
main > section:not(.verdict) { border-top: 1px solid var(--line); padding-top: 18px; margin-top: 26px; }
.scroll { overflow-x: auto; }
.scroll:focus-visible { outline: 2px solid var(--accent); }
figure { margin: 0 0 18px; min-width: 0; }
figcaption { color: var(--soft); font-size: 0.875rem; max-width: 78ch; }
figure svg { display: block; width: 100%; height: auto; }
figure.narrow svg { max-width: 620px; min-width: 340px; }
figure.wide svg { max-width: 960px; min-width: 640px; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 6px 24px; }
table { border-collapse: collapse; margin: 0 0 18px; min-width: min(100%, 480px); font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: 0.875rem; padding-bottom: 6px; max-width: min(90ch, calc(100vw - 28px)); }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; vertical-align: top; }
th:first-child, .words th, .words td { text-align: left; }
.words td { white-space: normal; overflow-wrap: anywhere; }
thead th { white-space: normal; border-bottom: 2px solid #8a8a8a; vertical-align: bottom; }
tbody th { font-weight: 500; }
.sample { border: 1px solid var(--line); border-radius: 4px; padding: 12px 16px; margin: 0 0 14px; }
.question { margin-bottom: 4px; }
.gold { color: var(--soft); font-size: 0.9rem; }
.sides { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 12px; }
pre { margin: 0; padding: 8px 10px; background: #f6f6f6; border-radius: 3px; font: 0.85rem/1.45 ui-monospace, Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.outcome { font-weight: 600; margin-left: 6px; }
.outcome.right { color: #00674a; }
.outcome.wrong { color: #a34400; }
@media screen and (max-width: 760px) {
  body { padding: 14px 14px 40px; }
  .charts, .sides { grid-template-columns: minmax(0, 1fr); }
}
@media print {
  @page { size: A4; margin: 14mm; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav { display: none; }
  .scroll { overflow: visible; }
  figure.wide svg { min-width: 0; max-width: 100%; }
  figure, tr, .sample, .verdict { break-inside: avoid; }
  h2, h3, caption { break-after: avoid; }
  table { font-size: 8.5pt; }
  th, td { padding: 3px 6px; }
  .verdict, .missing, pre { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
`;
