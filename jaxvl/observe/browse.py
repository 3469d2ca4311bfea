# SPDX-License-Identifier: Apache-2.0
"""A run's rollouts as a page shows them: a step's prompts with their images, and of all steps what
became of each example."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.data.image import FORMATS
from jaxvl.observe.curves import inside

SIDE = 320  # pixels of an image on the page
_STEP = re.compile(r"step_([0-9]{1,12})(?:\.([0-9]+))?\.jsonl")
_ASKED = ("id", "task", "prompt", "answer")
_FIELDS = ("text", "tokens", "reward", "advantage", "finish_reason")


@dataclasses.dataclass(frozen=True)
class Outline:
    """A step's prompts: (example, right completions, judged completions), and its images."""

    prompts: list[tuple[str, int, int]]
    images: int


class Rollouts:
    """The files `rollouts/step_N.jsonl` of a run, several of a step where several processes
    sampled. Outlines are kept until a file changes."""

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        self._outlines: dict[tuple, Outline] = {}

    def files(self) -> dict[int, list[Path]]:
        """By step, in their order and in that of the processes. What leads out of the run
        directory, or is no file, is not among them."""
        found: dict[int, list[tuple[int, Path]]] = {}
        folder = self.run_dir / "rollouts"
        if not folder.is_dir() or inside(self.run_dir, folder) is None:
            return {}
        for entry in os.scandir(folder):
            number = _STEP.fullmatch(entry.name)
            if number and _is_own(folder, Path(entry.path)):
                place = int(number[2] or 0), Path(entry.path)
                found.setdefault(int(number[1]), []).append(place)
        return {
            step: [file for _, file in sorted(places)] for step, places in sorted(found.items())
        }

    def gap_files(self, files: Mapping[int, Sequence[Path]]) -> dict[int, list[Path]]:
        """By step, where the gaps by token of its files are, of those that have some."""
        folder = inside(self.run_dir, "rollouts/gaps")
        if folder is None:
            return {step: [] for step in files}
        beside = {step: [folder / file.name for file in of] for step, of in files.items()}
        return {step: [x for x in of if _is_own(folder, x)] for step, of in beside.items()}

    def step(self, files: Sequence[Path], images: bool = True, gaps: bool = True) -> dict[str, Any]:
        """A step's prompts, and how many lines could not be read. `pictures` are data URIs by the
        digest that the images of the prompts name; a completion's "gap" is as `train.gaps` writes
        it: the characters of each token, and its gap, as base64 of bytes."""
        lines, broken = read(files)
        gaps_by_prompt = _gaps(self.gap_files({0: files})[0]) if gaps else {}
        pictures: dict[str, str] = {}
        prompts = []
        for line in lines:
            shown = [self._image(name) for name in (line.get("image_files") or []) if images]
            for image in shown:
                if "uri" in image:
                    pictures[image["digest"]] = image["uri"]
            completions = [completion(one) for one in line.get("completions") or []]
            known = gaps_by_prompt.get(text_of(line.get("prompt_id")), [])
            if len(known) == len(completions):
                for one, gap in zip(completions, known, strict=True):
                    one |= {"gap": gap} if gap else {}
            prompts.append(
                {
                    **{name: text_of(line.get(name)) for name in _ASKED},
                    "learnt": line.get("learnt", True) is not False,
                    "images": [{k: v for k, v in one.items() if k != "uri"} for one in shown],
                    "completions": completions,
                }
            )
        return {"prompts": prompts, "broken": broken, "pictures": pictures}

    def outline(self, files: Sequence[Path], right: str) -> Outline:
        """What there is to know of a step without opening it: `right` is the reward that judges."""
        key = (right, *state(files))
        if key not in self._outlines:
            lines = read(files)[0]
            self._outlines[key] = Outline(
                [(text_of(line.get("id")), *_judged(line, right)) for line in lines],
                sum(len(line.get("image_files") or []) for line in lines),
            )
        return self._outlines[key]

    def _image(self, name: Any) -> dict[str, str]:
        """An image of the run directory as a small data URI, or why there is none."""
        from PIL import Image

        shown = name if isinstance(name, str) else json.dumps(name)
        try:
            path = inside(self.run_dir, name)
            if path is None:
                return {"name": shown, "error": "not in the run directory"}
            with Image.open(path, formats=FORMATS) as image:
                image.draft("RGB", (SIDE, SIDE))
                small = image.convert("RGB")
            small.thumbnail((SIDE, SIDE))
        except (OSError, ValueError, TypeError, Image.DecompressionBombError) as error:
            return {"name": shown, "error": f"cannot be read ({type(error).__name__})"}
        data = io.BytesIO()
        small.save(data, "JPEG", quality=82)
        digest = hashlib.sha256(data.getvalue()).hexdigest()[:16]
        uri = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
        return {"name": shown, "digest": digest, "uri": uri}


def _is_own(folder: Path, file: Path) -> bool:
    """Whether it is a file, and no link that leads out of its folder."""
    return file.is_file() and (not file.is_symlink() or inside(folder, file.name) is not None)


def state(files: Sequence[Path]) -> tuple:
    """What changes when one of the files does."""
    stats = [(file, file.stat()) for file in files]
    return tuple((file, of.st_mtime_ns, of.st_size) for file, of in stats)


def read(files: Sequence[Path]) -> tuple[list[dict[str, Any]], int]:
    """The lines as a run writes them, and how many others there are."""
    lines, broken = [], 0
    for raw in (line for file in files for line in file.read_bytes().split(b"\n") if line):
        try:
            line = dict(json.loads(raw))
            if not _as_written(line):
                raise TypeError
            lines.append(line)
        except (ValueError, TypeError, RecursionError):
            broken += 1
    return lines, broken


def _as_written(line: Mapping[str, Any]) -> bool:
    """Whether a line's lists are lists of what the page shows of them."""
    files, completions = (line.get(name) or [] for name in ("image_files", "completions"))
    lists = isinstance(files, list) and isinstance(completions, list)
    return lists and all(
        isinstance(one, dict)
        and all(isinstance(one.get(name) or {}, dict) for name in ("rewards", "extra"))
        for one in completions
    )


def completion(one: Mapping[str, Any]) -> dict[str, Any]:
    """A completion of a line, its numbers finite or None and its texts texts."""
    found = {name: one.get(name) for name in _FIELDS}
    for name in ("reward", "advantage", "tokens"):
        found[name] = _number(found[name])
    found["text"], found["finish_reason"] = text_of(found["text"]), text_of(found["finish_reason"])
    found["rewards"] = {name: _number(value) for name, value in (one.get("rewards") or {}).items()}
    if one.get("extra"):
        found["extra"] = {name: text_of(value) for name, value in one["extra"].items()}
    return found


def _gaps(files: Sequence[Path]) -> dict[str, list[list[str] | None]]:
    """By prompt, of each completion what `train.gaps` wrote, or None."""
    found = {}
    for raw in (line for file in files for line in file.read_bytes().split(b"\n") if line):
        try:
            line = json.loads(raw)
            found[text_of(line["prompt_id"])] = [
                [str(lengths), str(codes)] if (lengths, codes) != ("", "") else None
                for lengths, codes in (one or ("", "") for one in line["completions"])
            ]
        except (ValueError, TypeError, LookupError, RecursionError):
            continue  # the page shows the completions of the prompt without it
    return found


def _judged(line: Mapping[str, Any], right: str) -> tuple[int, int]:
    rewards = [(one.get("rewards") or {}).get(right) for one in line.get("completions") or []]
    known = [value for value in map(_number, rewards) if value is not None]
    return sum(value >= 0.5 for value in known), len(known)


def _number(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(f"{value:.6g}") if number and abs(value) < float("inf") else None


def text_of(value: Any) -> str:
    """A text as it is, and anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
