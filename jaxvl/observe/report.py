# SPDX-License-Identifier: Apache-2.0
"""`report.html`: the page of a run or of several, for people.

One file that opens offline. Everything it shows (prompts, completions, names) is untrusted: it is
in the file as data that no browser runs, the page's script sets it as text, and the page's own
policy names that script by its digest and forbids any other, and the net.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.data.reflection import WORDS, whole
from jaxvl.errors import UserError
from jaxvl.observe import browse, curves

FILE = "report.html"
_PAGE = Path(__file__).with_name("page")
_SCRIPTS = (
    "vendor/uplot/uPlot.iife.min.js",
    "base.js",
    "curves.js",
    "gaps.js",
    "rollouts.js",
    "main.js",
)
_STYLES = ("vendor/uplot/uPlot.min.css", "page.css")
_TEXTS = 160 * 2**20  # bytes of rollouts in a file, before they are packed to a fifth or less
_IMAGES = 1200  # in a file
_GAPS = 4 * 2**20  # bytes of gaps by token in a file, which hardly get smaller
# What a run's file raises that holds other JSON than a run writes, and how it is told.
BROKEN = (TypeError, ValueError, AttributeError, LookupError)
NOT_AS_WRITTEN = (
    "config.json, eval.json or one of rollouts/ is not as a run writes it; move away what does "
    "not belong there"
)


def write_report(run_dir: str | Path, *others: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run, with `others` beside it, and return its path: `out`, by default
    `report.html` in the first. See `curves.curves` and `browse.Rollouts` for what is read."""
    return Report(run_dir, *others, out=out).write()


class Report:
    """A page that may be written again and again while its runs go on: what is made of a step's
    rollouts is kept."""

    def __init__(self, *run_dirs: str | Path, out: str | Path | None = None):
        self.rollouts = [browse.Rollouts(Path(run_dir)) for run_dir in run_dirs]
        self.out = Path(out) if out else Path(run_dirs[0]) / FILE
        self._packed: dict[tuple, tuple[str, dict[str, str]]] = {}

    def write(self) -> Path:
        """The page as the run directories are now. The file is replaced as a whole."""
        try:
            self._replace(self._page())
        except UserError:
            raise
        except BROKEN as error:
            raise UserError(f"{self.out}: {NOT_AS_WRITTEN} ({error})") from error
        except OSError as error:
            raise UserError(f"{self.out} cannot be written ({error})") from None
        return self.out

    def _replace(self, pieces: Iterator[str]) -> None:
        part = self.out.with_name(f".{self.out.name}.part")
        try:
            with open(part, "w", encoding="utf-8", errors="replace") as file:
                file.writelines(pieces)
            os.replace(part, self.out)
        except BaseException:
            with contextlib.suppress(OSError):  # what is told is why the page was not written
                part.unlink()
            raise

    def _page(self) -> Iterator[str]:
        runs, blocks, before = [], {}, self._packed
        self._packed = {}
        for number, rollouts in enumerate(self.rollouts):
            run, files = curves.curves(rollouts.run_dir), rollouts.files()
            outlines = {step: rollouts.outline(of, run["right"]) for step, of in files.items()}
            sizes = {step: sum(file.stat().st_size for file in of) for step, of in files.items()}
            chosen = thinned(sizes, _TEXTS // len(self.rollouts))
            imaged = thinned(
                {step: outlines[step].images for step in chosen}, _IMAGES // len(self.rollouts)
            )
            beside = rollouts.gap_files({step: files[step] for step in chosen})
            bytes_of = {s: sum(x.stat().st_size for x in of) for s, of in beside.items() if of}
            gapped = thinned(bytes_of, _GAPS // len(self.rollouts))
            for step in chosen:
                shown = step in imaged, step in gapped
                key = (*shown, *browse.state([*files[step], *beside[step]]))
                packed = before.get(key) or _pack(rollouts.step(files[step], *shown))
                self._packed[key] = packed
                blocks[f"step-{number}-{step}"] = packed[0]
                blocks |= {f"image-{digest}": uri for digest, uri in packed[1].items()}
            said = _left_out(list(files), chosen, imaged, len(bytes_of) - len(gapped))
            runs.append(run | {"rollouts": chosen, "left_out": said, "outline": table(outlines)})
        return page(document(runs, live=False), blocks)


def _pack(step: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """A step as base64 of its compressed JSON, and its images by digest."""
    pictures = step.pop("pictures")
    data = json.dumps(step, ensure_ascii=False).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode(), pictures


def thinned(sizes: Mapping[int, int], budget: int) -> list[int]:
    """The last of the steps, and of all every first, second, fourth, .. such that their sizes are
    within the budget. What is left out stays out while steps are added."""
    steps, stride = list(sizes), 1
    while sum(sizes[step] for step in steps[::stride]) > budget and stride < len(steps):
        stride *= 2
    return sorted({*steps[::stride], *steps[-1:]})


def _left_out(
    steps: Sequence[int], chosen: Sequence[int], imaged: Sequence[int], gapless: int
) -> str:
    if len(imaged) == len(steps) and not gapless:
        return ""
    rest = f"and images of {len(imaged)}" if len(imaged) < len(chosen) else "images among them"
    rest += f", without gaps by token of {gapless}" if gapless else ""
    return (
        f"This file has the rollouts of {len(chosen)} of {len(steps)} steps, {rest}, "
        "to stay small; jaxvl watch shows all."
    )


def table(outlines: Mapping[int, browse.Outline]) -> dict[str, Any]:
    """Outlines of all steps, each example named once: {"ids", "steps": {step: [[number in ids,
    right, judged], ..]}}."""
    ids: dict[str, int] = {}
    steps = {
        step: [
            [ids.setdefault(name, len(ids)), right, judged] for name, right, judged in of.prompts
        ]
        for step, of in outlines.items()
    }
    return {"ids": list(ids), "steps": steps}


def document(runs: Sequence[dict[str, Any]], live: bool) -> dict[str, Any]:
    """All that the page's script is handed at once."""
    names = list(dict.fromkeys(name for run in runs for name in run["metrics"]))
    words = dict.fromkeys(word for listed in WORDS.values() for word in listed)
    return {
        "live": live,
        "runs": list(runs),
        "charts": curves.charts(names),
        "reflection": "|".join(map(whole, words)),
    }


def page(data: dict[str, Any], blocks: Mapping[str, str]) -> Iterator[str]:
    """The page around its data, and around `blocks` of text by their element's id, in pieces: that
    of a long run is never in memory as a whole."""
    return render(
        [_PAGE / "page.html"],
        [_PAGE / name for name in _SCRIPTS],
        [_PAGE / name for name in _STYLES],
        data,
        title=", ".join(run["name"] for run in data["runs"]) or "runs",
        connect="; connect-src 'self'" if data["live"] else "",
        blocks=blocks,
    )


def render(
    templates: Sequence[Path],
    scripts: Sequence[Path],
    styles: Sequence[Path],
    data: Mapping[str, Any],
    connect: str = "",
    **fields: Any,
) -> Iterator[str]:
    """In pieces, the first of the templates with one script, one style, a policy that allows these
    alone, and `data` as JSON that the script reads. The others are what it imports by name."""
    import jinja2
    from markupsafe import Markup

    script, style = (
        "\n".join(file.read_text(encoding="utf-8") for file in files) for files in (scripts, styles)
    )
    texts = {file.name: file.read_text(encoding="utf-8") for file in templates}
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(texts),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; "
        f"img-src data:; base-uri 'none'; form-action 'none'{connect}"
    )
    return environment.get_template(templates[0].name).generate(
        policy=Markup(policy),
        script=Markup(script),
        style=Markup(style),
        data=Markup(text.replace("<", "\\u003c")),  # no tag can begin, nor the element end
        **fields,
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
