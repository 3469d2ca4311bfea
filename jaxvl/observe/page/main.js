// SPDX-License-Identifier: Apache-2.0
// The page's head and its settings; what it does while a run goes on.
"use strict";

const SECONDS = 3; // between two questions whether a run has gone on

function drawHead() {
  const runs = DATA.runs;
  byId("title").textContent = runs.map((run) => run.name).join(", ") || "No run yet";
  byId("progress").textContent = runs
    .map((run) => {
      const steps = `${run.last}${run.planned ? ` of ${run.planned}` : ""} steps`;
      const parts = [runs.length > 1 ? `${run.name}: ${steps}` : steps, run.finished ? "finished" : "", runs.length > 1 ? "" : run.model, `as of ${run.written}`];
      return parts.filter(Boolean).join(" \u00b7 ");
    })
    .join("; ");
  byId("notes").replaceChildren(
    ...runs.flatMap((run) => run.notes.map((note) => el("p", { className: "note" }, runs.length > 1 ? `${run.name}: ${note}` : note))),
  );
  byId("tiles").replaceChildren(runs.length > 1 ? runsTable() : el("div", { className: "tiles" }, ...(runs[0]?.tiles || []).map(tile)));
}

function tile({ label, name, first, last }) {
  return el(
    "div", { className: "card", title: `${name}: mean over the first and the last tenth of the steps` },
    el("div", { className: "soft" }, label), el("div", { className: "value" }, last), el("div", { className: "soft" }, `from ${first}`),
  );
}

function runsTable() {
  const labels = [...new Set(DATA.runs.flatMap((run) => run.tiles.map((one) => one.label)))];
  const rows = DATA.runs.map((run, index) => {
    const mark = el("i", { className: "swatch" });
    mark.style.background = `var(--c${index % 7})`;
    const cells = labels.map((label) => {
      const found = run.tiles.find((one) => one.label === label);
      return found ? `${found.first} \u2192 ${found.last}` : "-";
    });
    return [el("span", {}, mark, run.name), String(run.last), ...cells];
  });
  return el("div", { className: "card" }, table(["run", "steps", ...labels], rows, "runs, first tenth of the steps to last"));
}

function drawTables() {
  const tables = DATA.runs.flatMap((run) => run.tables.map((one) => ({ ...one, run: run.name })));
  byId("tables").hidden = !tables.length;
  byId("tables").querySelector(".tables").replaceChildren(
    ...tables.map((one) => {
      const title = DATA.runs.length > 1 ? `${one.run}: ${one.title}` : one.title;
      return el("div", { className: "card" }, el("h3", {}, title), table(one.columns, one.rows, title || "evaluation"));
    }),
  );
}

// Every field; of several runs those that differ.
function drawConfigs() {
  const runs = DATA.runs;
  let names = [...new Set(runs.flatMap((run) => Object.keys(run.config)))];
  byId("configs").hidden = !names.length;
  if (runs.length > 1) names = names.filter((name) => new Set(runs.map((run) => run.config[name])).size > 1);
  const rows = names.map((name) => [name, ...runs.map((run) => run.config[name] ?? "-")]);
  const columns = ["field", ...runs.map((run) => (runs.length > 1 ? run.name : "value"))];
  const summary = runs.length > 1 ? `${names.length} fields that differ` : `${names.length} fields`;
  const open = byId("configs").querySelector("details")?.open ?? runs.length > 1;
  byId("configs").querySelector("div").replaceChildren(
    el("details", { open }, el("summary", {}, summary), table(columns, rows, "config")),
  );
}

function drawAll() {
  drawHead();
  drawTables();
  drawCurves();
  drawConfigs();
}

// What has come since; the rollouts that are being read stay as they are.
async function goOn() {
  if (!byId("follow").checked) return;
  try {
    const found = await ask(`data?seen=${encodeURIComponent(DATA.state)}`);
    if (found.same) return;
    const before = DATA.runs.map((run) => run.name).join("\n");
    DATA = found;
    drawAll();
    if (DATA.runs.map((run) => run.name).join("\n") !== before || browser.step === null) {
      startRollouts();
      if (DATA.runs.length) await openRun(0);
    } else {
      byId("step-slider").max = Math.max(0, DATA.runs[browser.run].rollouts.length - 1);
      browser.outline = await readOutline(browser.run);
    }
  } catch (error) {
    byId("progress").textContent = `No word of the run: ${error.message}`;
  }
}

startTheme();
startCurves(Math.max(0, ...DATA.runs.map((run) => run.steps.length)));
startRollouts();
startZoom();
drawAll();
if (DATA.runs.length) openRun(0);
if (DATA.live) {
  byId("follow-box").hidden = false;
  setInterval(goOn, SECONDS * 1000);
}
