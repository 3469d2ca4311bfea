// SPDX-License-Identifier: Apache-2.0
// Curves: a figure for each chart, drawn by uPlot once it comes into view.
"use strict";

const curves = { smooth: 0.6, range: null, figures: [], hidden: new Set(), busy: false };
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) entry.target.figure.draw();
}, { rootMargin: "300px" });

// An exponential mean whose start is not pulled to 0; gaps stay gaps.
function smoothed(values, weight) {
  let sum = 0, total = 0;
  return values.map((value) => {
    if (value === null || value === undefined) return value;
    sum = sum * weight + value * (1 - weight);
    total = total * weight + 1 - weight;
    return sum / total;
  });
}

// The lines of a chart over common steps: [{name, colour, values}], x. Those of runs by the chart's
// metrics, or its own: {name, steps, values, paper: drawn as a level of a paper}.
function linesOf(chart) {
  if (chart.lines) {
    const [x, ...values] = uPlot.join(chart.lines.map((line) => [line.steps, line.values]));
    const lines = chart.lines.map(({ name, paper }, index) => ({ name, paper, colour: paper ? 6 : index, metric: "" }));
    const level = (index) => x.map(() => chart.lines[index].values[0]);
    return [lines.map((line, index) => ({ ...line, values: line.paper ? level(index) : values[index] })), x];
  }
  const several = DATA.runs.length > 1;
  const parts = [], names = [];
  DATA.runs.forEach((run, number) => {
    const own = chart.names.filter((name) => run.metrics[name]);
    if (!own.length) return;
    parts.push([run.steps, ...own.map((name) => run.metrics[name])]);
    for (const name of own)
      names.push({ name: several ? run.name : name, colour: several ? number : names.length, metric: name });
  });
  const [x, ...values] = parts.length > 1 ? uPlot.join(parts) : parts[0] || [[]];
  return [names.map((line, index) => ({ ...line, values: values[index] })), x];
}

class Figure {
  constructor(chart) {
    this.chart = chart;
    this.lead = el("div", { className: "plot", tabIndex: 0, role: "slider", "aria-label": chart.title });
    this.legend = el("div", { className: "legend" });
    this.node = el("figure", { className: "card" }, el("figcaption", {}, chart.title), this.lead, this.legend);
    this.node.figure = this;
    this.plot = null;
    this.lead.addEventListener("keydown", (event) => this.key(event));
    this.update();
    seen.observe(this.node);
  }

  // The figure with the data that the page has now.
  update() {
    [this.lines, this.x] = linesOf(this.chart);
    this.at = this.x.length - 1;
    this.legend.replaceChildren(
      ...this.lines.map((line) => {
        const value = el("b", {}, "");
        const mark = el("i");
        mark.style.background = `var(--c${line.colour % 7})`;
        const hidden = curves.hidden.has(line.name);
        const button = el("button", { type: "button", "aria-pressed": String(!hidden) }, mark, `${line.name} `, value);
        button.addEventListener("click", () => toggle(line.name));
        return button;
      }),
    );
    this.tell(this.at, true);
    if (this.plot) this.redraw();
  }

  draw() {
    seen.unobserve(this.node);
    if (!this.plot) this.redraw();
  }

  redraw() {
    if (this.plot) this.plot.destroy();
    const style = getComputedStyle(document.documentElement);
    const axis = {
      stroke: style.getPropertyValue("--soft").trim(),
      grid: { stroke: style.getPropertyValue("--rule").trim(), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    const raw = this.lines.map((line) => line.values);
    const soft = raw.map((values, index) => (this.lines[index].paper ? values : smoothed(values, curves.smooth)));
    const [smooths, points] = [curves.smooth > 0 && this.x.length > 2, this.x.length < 30];
    const series = (line, extra) => ({
      label: line.name, stroke: colour(line.colour), spanGaps: true, show: !curves.hidden.has(line.name),
      points: { show: false }, ...(line.paper ? { dash: [6, 4] } : {}), ...extra,
    });
    const options = {
      width: this.lead.clientWidth || 340,
      height: 190,
      legend: { show: false },
      padding: [8, 20, 0, 0],
      scales: { x: { time: false }, y: {} },
      axes: [
        { ...axis, size: 26, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? tick.toLocaleString("en") : "")) },
        { ...axis, size: 54, values: (_, ticks) => ticks.map(show) },
      ],
      cursor: { sync: { key: "curves", setSeries: false }, y: false, drag: { x: true, y: false }, points: { size: 7 } },
      series: [
        {},
        ...this.lines.map((line) => series(line, smooths ? { alpha: 0.28, width: 1 } : { width: 1.8, points: { show: points, size: 5 } })),
        ...(smooths ? this.lines.map((line) => series(line, { width: 2 })) : []),
      ],
      bands: this.bands(),
      hooks: {
        setCursor: [(plot) => plot.cursor.idx !== null && this.tell(plot.cursor.idx)],
        setScale: [(plot, name) => name === "x" && zoomed(plot)],
        ready: [(plot) => {
          let down = 0;
          plot.over.addEventListener("mousedown", (event) => (down = event.clientX));
          plot.over.addEventListener("mouseup", (event) => {
            if (Math.abs(event.clientX - down) < 4 && plot.cursor.idx !== null) openStep(this.x[plot.cursor.idx]);
          });
        }],
      },
    };
    this.lead.replaceChildren();
    curves.busy = true;
    this.plot = new uPlot(options, [this.x, ...raw, ...(smooths ? soft : [])], this.lead);
    if (curves.range) this.plot.setScale("x", curves.range);
    curves.busy = false;
    for (const canvas of this.lead.querySelectorAll("canvas")) canvas.setAttribute("aria-hidden", "true");
  }

  // The space between the tenth and the ninetieth percentile of one run.
  bands() {
    const place = (part) => this.lines.findIndex((line) => line.metric.includes(part)) + 1;
    const [high, low] = [place("/p90_"), place("/p10_")];
    if (!high || !low || DATA.runs.length > 1) return [];
    return [{ series: [high, low], fill: colour(this.lines[low - 1].colour) + "33" }];
  }

  // The values at a place of the curves, beside their names and for screen readers; with `last`
  // those of a line that ended before are its last ones.
  tell(at, last = false) {
    if (at < 0) return;
    this.at = at;
    const known = (values) => values.findLast((value) => value !== null && value !== undefined);
    const values = this.lines.map((line) => show(last ? known(line.values) : line.values[at]));
    this.legend.querySelectorAll("b").forEach((node, index) => (node.textContent = values[index]));
    const said = this.lines.map((line, index) => `${line.name} ${values[index]}`).join(", ");
    this.lead.setAttribute("aria-valuemin", this.x[0]);
    this.lead.setAttribute("aria-valuemax", this.x[this.x.length - 1]);
    this.lead.setAttribute("aria-valuenow", this.x[at]);
    this.lead.setAttribute("aria-valuetext", `step ${this.x[at]}: ${said}`);
  }

  key(event) {
    const last = this.x.length - 1, far = Math.max(1, Math.round(last / 10));
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageDown: -far, PageUp: far, Home: -Infinity, End: Infinity };
    if (event.key in moves) {
      const at = Math.min(last, Math.max(0, this.at + moves[event.key]));
      this.draw();
      this.plot.setCursor({ left: this.plot.valToPos(this.x[at], "x"), top: 10 });
      this.tell(at);
    } else if (event.key === "Enter") openStep(this.x[this.at]);
    else if (event.key === "Escape") zoomTo(null);
    else return;
    event.preventDefault();
  }
}

function toggle(name) {
  if (!curves.hidden.delete(name)) curves.hidden.add(name);
  for (const figure of curves.figures) figure.update();
}

// A drag in one curve is the range of all.
function zoomed(plot) {
  if (curves.busy) return;
  const { min, max } = plot.scales.x;
  const x = plot.data[0];
  const whole = min <= x[0] && max >= x[x.length - 1];
  const same = whole ? curves.range === null : curves.range?.min === min && curves.range?.max === max;
  if (!same) zoomTo(whole ? null : { min, max }); // plots tell of what they were told, too
}

function zoomTo(range) {
  curves.range = range;
  byId("unzoom").disabled = !range;
  curves.busy = true;
  for (const { plot, x } of curves.figures)
    if (plot && x.length > 1) plot.setScale("x", range || { min: x[0], max: x[x.length - 1] });
  curves.busy = false;
}

// One chart a metric where there are several runs, else as they are grouped.
function chartsToDraw() {
  const found = DATA.charts.map((chart) => ({ ...chart }));
  if (DATA.runs.length < 2) return found;
  return found.flatMap((chart) =>
    chart.names.map((name) => ({ ...chart, names: [name], title: chart.names.length > 1 ? `${chart.title}: ${name}` : chart.title })),
  );
}

function drawCurves() {
  const wanted = chartsToDraw();
  const key = JSON.stringify([wanted, DATA.runs.map((run) => run.name)]);
  if (key === curves.key) {
    for (const figure of curves.figures) figure.update();
    return;
  }
  curves.key = key;
  for (const { plot } of curves.figures) if (plot) plot.destroy();
  curves.figures = wanted.map((chart) => new Figure(chart));
  const [main, others] = [false, true].map((other) => curves.figures.filter((figure) => figure.chart.other === other));
  byId("charts").replaceChildren(...main.map((figure) => figure.node));
  if (!curves.figures.length) byId("charts").append(el("p", { className: "soft" }, "No step has been written yet."));
  byId("others").hidden = !others.length;
  byId("others").querySelector("summary").textContent = `${others.length} other metrics`;
  byId("others").querySelector("div").replaceChildren(...others.map((figure) => figure.node));
}

// `longest`: the steps of the longest line.
function startCurves(longest) {
  byId("smooth").value = longest < 40 ? 0 : longest < 500 ? 0.6 : 0.9;
  const smooth = () => {
    curves.smooth = Number(byId("smooth").value);
    byId("smooth-value").textContent = curves.smooth;
  };
  smooth();
  byId("smooth").addEventListener("input", () => {
    smooth();
    for (const figure of curves.figures) if (figure.plot) figure.redraw();
  });
  byId("unzoom").addEventListener("click", () => zoomTo(null));
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) for (const { plot, lead } of curves.figures) if (plot) plot.setSize({ width: lead.clientWidth, height: 190 });
    width = innerWidth;
  });
}

function startTheme() {
  const redraw = () => curves.figures.forEach((figure) => figure.plot && figure.redraw());
  byId("theme").addEventListener("change", () => {
    const chosen = byId("theme").value;
    if (chosen) document.documentElement.dataset.theme = chosen;
    else delete document.documentElement.dataset.theme;
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
