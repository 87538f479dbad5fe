/** A report as one HTML page that loads nothing: styles and charts are inside. Knows no figures. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { html, raw } from "hono/html";
import { packageRoot } from "../../config/load.js";
import type { Block, Document, Section } from "./document.js";

/** What is interpolated into `html` is escaped, unless it is such HTML itself. */
type Html = ReturnType<typeof html>;

export function toHtml({ title, subtitle, verdict, missing, sections }: Document): string {
  const page = html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="generator" content="finellama report" />
        <title>${title}</title>
        <style>
          ${raw(readFileSync(join(packageRoot, "assets/report.css"), "utf8"))}
        </style>
      </head>
      <body>
        <header>
          <h1>${title}</h1>
          <p class="subtitle">${subtitle}</p>
        </header>
        <main>
          <section class="verdict" aria-labelledby="verdict-title">
            <h2 id="verdict-title">Verdict</h2>
            ${verdict.map((line) => html`<p>${line}</p>`)}
          </section>
          ${
            missing.length === 0
              ? ""
              : html`<aside class="missing">
                  <h2>Incomplete</h2>
                  <ul>
                    ${missing.map((line) => html`<li>${line}</li>`)}
                  </ul>
                </aside>`
          }
          <nav aria-label="Contents">
            <ul>
              ${sections.map(({ id, title }) => html`<li><a href="#${id}">${title}</a></li>`)}
            </ul>
          </nav>
          ${sections.map(section)}
        </main>
      </body>
    </html> `;
  return (page as { toString(): string }).toString();
}

function section({ id, title, blocks }: Section): Html {
  return html`<section id="${id}">
    <h2>${title}</h2>
    ${runs(blocks).map((run) => (run[0]!.kind === "chart" && run.length > 1 ? html`<div class="charts">${run.map(block)}</div>` : run.map(block)))}
  </section> `;
}

/** Neighbouring charts that are not wide stand together. */
function runs(blocks: readonly Block[]): Block[][] {
  const narrow = (block: Block): boolean => block.kind === "chart" && block.wide !== true;
  const list: Block[][] = [];
  for (const one of blocks) {
    const last = list.at(-1);
    if (last !== undefined && narrow(one) && narrow(last[0]!)) last.push(one);
    else list.push([one]);
  }
  return list;
}

function block(one: Block): Html {
  switch (one.kind) {
    case "text":
      return html`<p>${one.text}</p> `;
    case "chart":
      return html`<figure class="${one.wide === true ? "wide" : "narrow"}">
        <div class="scroll" tabindex="0">${picture(one.svg, one.alt)}</div>
        <figcaption>${one.caption}</figcaption>
      </figure> `;
    case "table":
      return html`<div class="scroll" tabindex="0">
        <table class="${one.words === true ? "words" : "numbers"}">
          <caption>
            ${one.caption}
          </caption>
          <thead>
            <tr>
              ${one.head.map((cell) => html`<th scope="col">${cell}</th>`)}
            </tr>
          </thead>
          <tbody>
            ${one.rows.map(
              ([name = "", ...cells]) =>
                html`<tr>
                  <th scope="row">${name}</th>
                  ${cells.map((cell) => html`<td>${cell}</td>`)}
                </tr> `,
            )}
          </tbody>
        </table>
      </div> `;
  }
  return html`<article class="sample">
    <h3>${one.title}</h3>
    <p class="question">${one.question}</p>
    <p class="gold">Right answer: ${one.gold}</p>
    <div class="sides">
      ${one.sides.map(
        ({ title, text, outcome }) =>
          html`<div>
            <h4>
              ${title}
              <span class="outcome ${outcome === "correct" ? "right" : "wrong"}"
                >${outcome === "correct" ? "✓ right" : `✗ ${outcome}`}</span
              >
            </h4>
            <pre>${text}</pre>
          </div>`,
      )}
    </div>
  </article> `;
}

/** The SVG with its description; it scales with the page. */
function picture(svg: string, alt: string): Html {
  const described = (_: string, width: string, height: string): string =>
    html`<svg role="img" aria-label="${alt}" viewBox="0 0 ${width} ${height}"` as string;
  return raw(svg.replace(/^<svg width="(\d+)" height="(\d+)"( viewBox="[^"]*")?/, described));
}
