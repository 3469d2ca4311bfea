// SPDX-License-Identifier: Apache-2.0
// A step's prompts, each with all its completions beside one another.
"use strict";

const PROMPTS = 16; // drawn at once; the rest on demand
const browser = { run: 0, step: null, filter: "all", changed: false, query: "", gaps: false, shown: PROMPTS, found: null, outline: null, asked: 0 };
const FILTERS = { all: "all completions", right: "right", wrong: "wrong", truncated: "cut off" };
const reflection = new RegExp(`(${DATA.reflection})`, "gi");

function isRight(completion) {
  const value = completion.rewards[DATA.runs[browser.run].right];
  return value === null || value === undefined ? null : value >= 0.5;
}

function passes(completion) {
  const right = isRight(completion);
  const kinds = { all: true, right: right === true, wrong: right === false, truncated: completion.finish_reason === "length" };
  return kinds[browser.filter] && completion.text.toLowerCase().includes(browser.query);
}

// The steps in which an example was asked, with its right and judged completions there.
function history(example) {
  const outline = browser.outline;
  if (!outline) return [];
  if (!outline.seen) {
    outline.seen = new Map();
    const steps = Object.keys(outline.steps).map(Number).sort((a, b) => a - b);
    for (const step of steps)
      for (const [id, right, judged] of outline.steps[step]) {
        if (!outline.seen.has(outline.ids[id])) outline.seen.set(outline.ids[id], []);
        outline.seen.get(outline.ids[id]).push({ step, right, judged });
      }
  }
  return outline.seen.get(example) || [];
}

// Whether other answers to the example are right than when it was asked before.
function hasChanged(prompt) {
  const steps = history(prompt.id);
  const at = steps.findIndex((one) => one.step === browser.step);
  if (at < 1) return false;
  const share = (one) => (one.judged ? one.right / one.judged : null);
  return share(steps[at]) !== share(steps[at - 1]);
}

// A text whose words of reflection are marked.
function marked(text) {
  return text.split(reflection).map((part, index) => (index % 2 ? el("mark", {}, part) : part));
}

// Green above 0, red below, the stronger the nearer to 1 or -1.
function shade(share) {
  const name = share > 0 ? "--good" : "--bad";
  return `color-mix(in srgb, var(${name}) ${Math.round(Math.min(1, Math.abs(share)) * 45)}%, transparent)`;
}

function signed(value) {
  if (value === null) return "-";
  return (value > 0 ? "+" : "") + value.toFixed(2);
}

function completionCard(completion, number, most) {
  const right = isRight(completion);
  const words = { true: "right", false: "wrong", null: "not judged" }[right];
  const signs = { true: "\u2713 ", false: "\u2717 ", null: "" }[right];
  const head = el(
    "div", { className: "head" },
    el("h4", {}, `${number}. ${signs}${words}`),
    el("span", {}, `advantage ${signed(completion.advantage)}`), el("span", {}, `${completion.tokens ?? "-"} tokens`),
    completion.finish_reason === "length" ? el("span", {}, "cut off") : null,
  );
  if (completion.advantage) head.style.background = shade(completion.advantage / most);
  const text = browser.gaps ? gapView(completion) : [el("pre", {}, ...marked(completion.text))];
  const card = el("article", { className: "completion", "aria-label": `completion ${number}, ${words}` }, head, ...text);
  if (completion.extra) text[0].after(extras(completion.extra));
  return card;
}

function extras(extra) {
  const rows = Object.entries(extra).map(([name, value]) => el("div", {}, el("b", {}, `${name}: `), value));
  return el("details", {}, el("summary", {}, "more"), ...rows);
}

// Rewards by column, a completion a row.
function rewardsTable(prompt, most) {
  const names = [...new Set(prompt.completions.flatMap((one) => Object.keys(one.rewards)))];
  const rows = prompt.completions.map((one, index) => {
    const advantage = el("span", { className: "chip" }, signed(one.advantage));
    if (one.advantage) advantage.style.background = shade(one.advantage / most);
    const values = names.map((name) => show(one.rewards[name]));
    return [String(index + 1), ...values, show(one.reward), advantage, String(one.tokens ?? "-"), one.finish_reason];
  });
  return table(["#", ...names, "reward", "advantage", "tokens", "ended"], rows, "rewards");
}

function imageButton(image) {
  if (image.error) return el("p", { className: "note" }, `${image.name}: ${image.error}`);
  const uri = browser.found.pictures[image.digest];
  const button = el("button", { type: "button", className: "image", "aria-label": `enlarge ${image.name}` }, el("img", { src: uri, alt: image.name }));
  button.addEventListener("click", () => openImage(image.name, uri));
  return button;
}

function promptCard(prompt) {
  const most = Math.max(...prompt.completions.map((one) => Math.abs(one.advantage ?? 0)), 1e-9);
  const kept = prompt.completions.map((one, index) => [one, index + 1]).filter(([one]) => passes(one));
  const steps = history(prompt.id);
  const seen = el("div", { className: "soft history" });
  if (steps.length > 1) {
    seen.append("right when asked: ");
    for (const { step, right, judged } of steps) {
      const here = step === browser.step;
      const button = el("button", { type: "button", disabled: here || !hasStep(step) }, `step ${step}: ${right}/${judged}`);
      button.addEventListener("click", () => openStep(step));
      seen.append(button);
    }
  }
  const beside = el(
    "div", { className: "completions scroll", tabIndex: 0, role: "group", "aria-label": "completions" },
    ...kept.map(([one, number]) => completionCard(one, number, most)),
  );
  return el(
    "article", { className: "card prompt", "aria-label": `prompt ${prompt.id}` },
    el(
      "div", {},
      ...prompt.images.map(imageButton),
      el("h3", {}, [prompt.task, prompt.id].filter(Boolean).join(" ") || "prompt"),
      el("div", {}, el("span", { className: "soft" }, "answer "), prompt.answer || "-"),
      prompt.learnt ? null : el("div", { className: "soft" }, "not learnt from"),
      seen,
    ),
    el("pre", { className: "text" }, prompt.prompt),
    rewardsTable(prompt, most),
    beside,
  );
}

function drawPrompts() {
  const found = browser.found;
  if (!found) return;
  const kept = found.prompts.filter(
    (prompt) => (!browser.changed || hasChanged(prompt)) && (browser.filter === "all" && !browser.query ? true : prompt.completions.some(passes)),
  );
  const run = DATA.runs[browser.run];
  const count = `${kept.length} of ${found.prompts.length} prompts of step ${browser.step}.`;
  const broken = found.broken ? `${found.broken} lines of the file could not be read.` : "";
  const judged = run.right ? `Right is ${run.right} of 0.5 or more.` : "";
  byId("rollout-note").textContent = [count, judged, broken, run.left_out].filter(Boolean).join(" ");
  byId("prompts").replaceChildren(...kept.slice(0, browser.shown).map(promptCard));
  if (kept.length > browser.shown) {
    const more = el("button", { type: "button" }, `${kept.length - browser.shown} more prompts`);
    more.addEventListener("click", () => {
      browser.shown += PROMPTS;
      drawPrompts();
    });
    byId("prompts").append(more);
  }
  for (const text of byId("prompts").querySelectorAll("pre")) // what scrolls is reached by keys
    if (text.scrollHeight > text.clientHeight + 1) {
      text.tabIndex = 0;
      text.setAttribute("role", "group");
      text.setAttribute("aria-label", "text");
    }
}

const hasStep = (step) => DATA.runs[browser.run].rollouts.includes(step);

// The step of the run that has rollouts and is nearest.
function nearest(step) {
  const steps = DATA.runs[browser.run].rollouts;
  return steps.reduce((best, one) => (Math.abs(one - step) < Math.abs(best - step) ? one : best), steps[steps.length - 1]);
}

async function openStep(step, jump = true) {
  const steps = DATA.runs[browser.run]?.rollouts || [];
  if (!steps.length) return;
  browser.step = nearest(step);
  byId("step").value = browser.step;
  byId("step-slider").value = steps.indexOf(browser.step);
  byId("step-slider").setAttribute("aria-valuetext", `step ${browser.step}`);
  if (jump) byId("rollouts").scrollIntoView({ behavior: "instant" });
  const asked = ++browser.asked;
  try {
    const found = await readStep(browser.run, browser.step);
    if (asked !== browser.asked) return; // another step has been asked for since
    browser.found = found;
    browser.shown = PROMPTS;
    drawPrompts();
    say(byId("rollout-note").textContent);
  } catch (error) {
    byId("rollout-note").textContent = `Step ${browser.step} could not be read: ${error.message}`;
  }
}

function move(by) {
  const steps = DATA.runs[browser.run].rollouts;
  const at = steps.indexOf(browser.step) + by;
  if (steps[at] !== undefined) openStep(steps[at], false);
}

async function openRun(run) {
  browser.run = run;
  browser.found = browser.outline = null;
  const steps = DATA.runs[run].rollouts;
  byId("step-slider").max = Math.max(0, steps.length - 1);
  byId("prompts").replaceChildren();
  byId("rollout-note").textContent = steps.length ? "" : "No rollouts have been written yet.";
  await openStep(browser.step ?? steps[steps.length - 1], false);
  const outline = await readOutline(run);
  if (browser.run !== run) return;
  browser.outline = outline;
  drawPrompts();
}

function button(text, label, act) {
  const node = el("button", { type: "button", "aria-label": label }, text);
  node.addEventListener("click", act);
  return node;
}

function startRollouts() {
  const bar = byId("browser");
  const runs = el("select", { id: "run" }, ...DATA.runs.map((run, index) => el("option", { value: index }, run.name)));
  runs.addEventListener("change", () => openRun(Number(runs.value)));
  const number = el("input", { type: "number", id: "step", min: 0 });
  number.addEventListener("change", () => openStep(number.value ? Number(number.value) : browser.step, false));
  const slider = el("input", { type: "range", id: "step-slider", min: 0, "aria-label": "step" });
  slider.addEventListener("input", () => openStep(DATA.runs[browser.run].rollouts[Number(slider.value)], false));
  const filter = el("select", { id: "filter" }, ...Object.entries(FILTERS).map(([value, text]) => el("option", { value }, text)));
  filter.addEventListener("change", () => {
    browser.filter = filter.value;
    drawPrompts();
  });
  const changed = el("input", { type: "checkbox", id: "changed" });
  changed.addEventListener("change", () => {
    browser.changed = changed.checked;
    drawPrompts();
  });
  const gaps = el("input", { type: "checkbox", id: "gaps", checked: browser.gaps });
  gaps.addEventListener("change", () => {
    browser.gaps = gaps.checked;
    drawPrompts();
  });
  const query = el("input", { type: "search", id: "query" });
  query.addEventListener("input", () => {
    browser.query = query.value.toLowerCase();
    drawPrompts();
  });
  bar.className = "bar sticky";
  bar.replaceChildren(
    ...(DATA.runs.length > 1 ? [el("label", {}, "Run ", runs)] : []),
    button("\u2039", "previous step", () => move(-1)),
    el("label", {}, "Step ", number),
    button("\u203a", "next step", () => move(1)),
    slider,
    button("Newest", "newest step", () => openStep(Infinity, false)),
    el("label", {}, "Show ", filter),
    el("label", {}, changed, " changed since last asked"),
    el("label", { title: "the learner's log-probability of each token less the sampler's" }, gaps, " gap by token"),
    el("label", {}, "Containing ", query),
  );
  addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea, dialog, [role=slider]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n" || event.key === "p") move(event.key === "n" ? 1 : -1);
  });
}

// An image in a window of its own, from a quarter to eight times its size.
const zoom = { size: 1 };

function openImage(name, uri) {
  byId("zoom-name").textContent = name;
  const image = byId("zoom").querySelector("img");
  image.src = uri;
  image.alt = name;
  byId("zoom").showModal();
  zoomImage(Math.max(1, Math.min(4, Math.floor(Math.min(innerWidth * 0.8 / (image.naturalWidth || 384), innerHeight * 0.7 / (image.naturalHeight || 384))))));
}

function zoomImage(size) {
  zoom.size = Math.min(8, Math.max(0.25, size));
  const image = byId("zoom").querySelector("img");
  image.style.width = `${(image.naturalWidth || 384) * zoom.size}px`;
  byId("zoom-size").textContent = `${Math.round(zoom.size * 100)}%`;
}

function startZoom() {
  byId("zoom-in").addEventListener("click", () => zoomImage(zoom.size * 2));
  byId("zoom-out").addEventListener("click", () => zoomImage(zoom.size / 2));
  byId("zoom-close").addEventListener("click", () => byId("zoom").close());
  byId("zoom").addEventListener("keydown", (event) => {
    if (event.key === "+" || event.key === "=") zoomImage(zoom.size * 2);
    if (event.key === "-") zoomImage(zoom.size / 2);
  });
}
