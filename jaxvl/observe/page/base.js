// SPDX-License-Identifier: Apache-2.0
// What every part of the page uses. Text of a run is set as text, never as HTML.
"use strict";

let DATA = JSON.parse(document.getElementById("data").textContent);

const byId = (id) => document.getElementById(id);

// An element with properties (data-* and aria-* as attributes) around children: nodes or text.
function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// A number for people: three digits, thousands with commas.
function show(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (size >= 1000 && size < 1e7) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(3)));
}

function say(text) {
  byId("said").textContent = text;
}

// Bytes that the page holds as base64 of gzip, as the object that they are JSON of.
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function ask(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

// The rollouts of a step: in the file, or from the server that watches the run.
async function readStep(run, step) {
  if (DATA.live) return ask(`step?run=${run}&step=${step}`);
  const found = await unpack(byId(`step-${run}-${step}`).textContent);
  found.pictures = {};
  for (const prompt of found.prompts)
    for (const image of prompt.images) {
      const block = image.digest && byId(`image-${image.digest}`);
      if (block) found.pictures[image.digest] = block.textContent;
    }
  return found;
}

// What became of every example: {ids, steps: {step: [[number in ids, right, judged], ..]}}.
async function readOutline(run) {
  return DATA.live ? ask(`outline?run=${run}`) : DATA.runs[run].outline;
}

// The colour of a line, in the theme that is in force.
function colour(number) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--c${number % 7}`).trim();
}

function table(columns, rows, label) {
  return el(
    "div", { className: "scroll", tabIndex: 0, role: "group", "aria-label": label },
    el(
      "table", {},
      el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell) => el("td", {}, cell))))),
    ),
  );
}
