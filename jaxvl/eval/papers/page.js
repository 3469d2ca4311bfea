// SPDX-License-Identifier: Apache-2.0
// The curves of a paper's page; tables and bars are in the page as it is.
"use strict";

function openStep() {} // there are no rollouts here to open

byId("curve-controls").hidden = !DATA.charts.length;
startTheme();
startCurves(Math.max(0, ...DATA.charts.flatMap((chart) => chart.lines.map((line) => line.steps.length))));
curves.figures = DATA.charts.map((chart) => new Figure(chart));
for (const place of document.querySelectorAll("[data-chart]"))
  place.replaceWith(curves.figures[Number(place.dataset.chart)].node);
