// SPDX-License-Identifier: Apache-2.0
// The gap between sampler and learner by token: what a run writes beside its rollouts.
"use strict";

const GAP_FLOOR = 1e-6, GAP_LEVELS = 10, GAP_UNKNOWN = -128; // as in jaxvl/train/gaps.py
const LARGEST = 5; // gaps that are listed below a text

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// A completion's tokens as [{text, gap}], gap null where it is not known; null where there are none.
function tokensOf(completion) {
  if (!completion.gap) return null;
  let lengths, codes;
  try {
    lengths = bytesOf(completion.gap[0]);
    codes = new Int8Array(bytesOf(completion.gap[1]).buffer);
  } catch {
    return null; // no base64
  }
  const letters = [...completion.text]; // characters as Python counts them
  if (lengths.length !== codes.length || lengths.reduce((sum, one) => sum + one, 0) !== letters.length) return null;
  let at = 0;
  return [...codes].map((code, index) => ({ text: letters.slice(at, (at += lengths[index])).join(""), gap: gapOf(code) }));
}

function gapOf(code) {
  if (code === GAP_UNKNOWN) return null;
  return code && Math.sign(code) * GAP_FLOOR * 10 ** ((Math.abs(code) - 1) / GAP_LEVELS);
}

const gapText = (gap) => (gap === 0 ? "below 0.000001" : (gap > 0 ? "+" : "") + Number(gap.toPrecision(2)));

// A completion's text with its gaps as colour, from 0.0001 to 1, and the largest of them in words.
function gapView(completion) {
  const tokens = tokensOf(completion);
  if (!tokens)
    return [el("pre", {}, ...marked(completion.text)), el("p", { className: "soft" }, "No gap is known: the run wrote none, or did not learn from this completion.")];
  const parts = tokens.map(({ text, gap }) => {
    const share = gap ? (Math.log10(Math.abs(gap)) + 4) / 4 : 0;
    if (share <= 0) return text;
    const span = el("span", { title: `gap ${gapText(gap)}` }, text || "\u00b7");
    span.style.background = shade(Math.sign(gap) * share);
    return span;
  });
  const known = tokens.map((one, index) => ({ ...one, index })).filter((one) => one.gap !== null);
  const largest = known.sort((a, b) => Math.abs(b.gap) - Math.abs(a.gap)).slice(0, LARGEST);
  const rows = largest.map((one) => [String(one.index + 1), JSON.stringify(one.text), gapText(one.gap)]);
  return [el("pre", {}, ...parts), table(["token", "text", "gap"], rows, "largest gaps")];
}
