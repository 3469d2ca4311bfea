# SPDX-License-Identifier: Apache-2.0
"""`report.html`: the page of a run, for people.

One file that opens offline, without scripts. Everything it shows (prompts, completions, names) is
untrusted: the template escapes all of it, and the page's own policy forbids scripts and the net.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from jaxvl.data import test_sets
from jaxvl.data.image import FORMATS
from jaxvl.errors import UserError
from jaxvl.observe import charts
from jaxvl.observe.charts import Chart, line_chart, show
from jaxvl.observe.metrics import NONFINITE, read_metrics

_TEMPLATE = Path(__file__).with_suffix(".html")
_CHARTS = (  # title, metrics (with * for any part)
    ("Reward", ("reward", "rewards/*/mean")),
    ("Mixed reward by kind", ("mixed/*/reward",)),
    ("Kinds of questions (share)", ("mixed/*/share",)),
    ("Kinds of questions (completions)", ("mixed/*/count",)),
    ("Held-out questions", ("eval_*",)),
    (
        "Completion length (tokens)",
        tuple(f"completions/{of}_length" for of in ("mean", "min", "max")),
    ),
    ("Benchmarks, lenient", ("eval/*/accuracy",)),
    ("KL to the reference", ("kl",)),
    ("Weight of the KL", ("beta",)),
    ("Entropy", ("entropy",)),
    ("Gradient norm", ("grad_norm",)),
    ("Loss", ("loss", "policy_loss")),
    ("Spread of rewards", ("reward_std", "frac_reward_zero_std", "rewards/*/std")),
    ("Cut off by the length limit (share)", ("completions/clipped_ratio",)),
    ("Clipped tokens (share)", ("clip_ratio/*", "cispo_clip_ratio")),
    ("Sampler to learner, difference of log p", ("sampling/sampling_logp_difference/*",)),
    ("Tokens a second", ("perf/*tokens_per_s",)),
    ("Share of the device's peak", ("perf/mfu", "perf/update_mfu")),
    ("Seconds a step", ("time/*", "step_time")),
    ("Learning rate", ("learning_rate",)),
)
_TILES = (  # label, metric
    ("reward", "reward"),
    ("accuracy", "rewards/*accuracy*/mean"),
    ("format", "rewards/*format*/mean"),
    ("length", "completions/mean_length"),
    ("KL", "kl"),
    ("tokens/s", "perf/tokens_per_s"),
)
_PROMPTS = 4  # shown a step
_IMAGE_SIDE = 384  # pixels, of an embedded image


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` from what the run directory holds, and return its path.

    Read are `metrics.jsonl` and, where they exist, `config.json`, `eval.json` (a table
    {"title", "columns", "rows"} or an object of tables), `rollouts/step_N.jsonl`, the lists of bad
    rows and the mark of training on test data.
    """
    import jinja2

    run_dir = Path(run_dir)
    try:
        html = _page(run_dir)
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, jinja2.TemplateError) as error:
        raise UserError(
            f"{run_dir}: a file of it is not as a run writes it ({error}): config.json, eval.json "
            "or one of rollouts/; move away what does not belong there"
        ) from error
    report = run_dir / "report.html"
    report.write_text(html, encoding="utf-8", errors="replace")
    return report


def _page(run_dir: Path) -> str:
    import jinja2

    metrics = read_metrics(run_dir)
    config = _read_json(run_dir / "config.json")
    main, others = _charts(metrics)
    page = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return page.render(
        name=run_dir.resolve().name,
        model=(config or {}).get("model", {}).get("path", ""),
        steps=metrics[-1]["step"] if metrics else 0,
        planned=(config or {}).get("run", {}).get("steps"),
        test_data=test_sets.marks(run_dir),
        bad_rows=_bad_rows(run_dir),
        nonfinite=[line["step"] for line in metrics if NONFINITE in line],
        tiles=_tiles(metrics),
        tables=_tables(_read_json(run_dir / "eval.json")),
        charts=main,
        box=charts,
        others=others,
        rollouts=_rollouts(run_dir),
        config=json.dumps(config, indent=2, ensure_ascii=False) if config else "",
        show=show,
    )


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: broken JSON ({error})") from None


def _bad_rows(run_dir: Path) -> list[tuple[str, int]]:
    """(reason, count) of the rows that were not used."""
    rows = set()
    for file in run_dir.glob("dropped*.jsonl"):
        rows |= {(line["id"], line["reason"]) for line in read_metrics(run_dir, file.name)}
    return Counter(reason for _, reason in rows).most_common()


def _charts(metrics: Sequence[dict[str, Any]]) -> tuple[list[Chart], list[Chart]]:
    """The charts of _CHARTS, and one for each metric that is in none of them."""
    steps = [line["step"] for line in metrics]
    left = [name for name in _names(metrics) if name not in ("step", NONFINITE)]
    groups = []
    for title, patterns in _CHARTS:
        taken = [name for pattern in patterns for name in left if fnmatchcase(name, pattern)]
        left = [name for name in left if name not in taken]
        groups.append((title, taken))

    def draw(groups: list[tuple[str, list[str]]]) -> list[Chart]:
        series = [(title, {n: _column(metrics, n) for n in names}) for title, names in groups]
        charts = [line_chart(title, steps, columns) for title, columns in series]
        return [chart for chart in charts if chart]

    return draw(groups), draw([(name, [name]) for name in left])


def _names(metrics: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for line in metrics for name in line))


def _column(metrics: Sequence[dict[str, Any]], name: str) -> list[float | None]:
    values = [line.get(name) for line in metrics]
    numbers = [isinstance(value, (int, float)) and math.isfinite(value) for value in values]
    return [value if number else None for value, number in zip(values, numbers, strict=True)]


def _tiles(metrics: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """For each of _TILES the mean over the first and the last tenth of the steps."""
    tiles = []
    tenth = max(1, len(metrics) // 10)
    for label, pattern in _TILES:
        name = next((name for name in _names(metrics) if fnmatchcase(name, pattern)), None)
        known = [value for value in _column(metrics, name) if value is not None] if name else []
        if known:
            first, last = (sum(part) / len(part) for part in (known[:tenth], known[-tenth:]))
            tiles.append({"label": label, "name": name, "first": show(first), "last": show(last)})
    return tiles


def _tables(data: Any) -> list[dict[str, Any]]:
    tables = [data] if isinstance(data, dict) and "rows" in data else list((data or {}).values())
    return [table for table in tables if isinstance(table, dict) and "rows" in table]


def _rollouts(run_dir: Path) -> list[dict[str, Any]]:
    """The first, the middle and the last step that has rollouts, with a few prompts each."""
    files: dict[int, list[Path]] = {}  # several where several processes sampled
    for file in sorted((run_dir / "rollouts").glob("step_*.jsonl")):
        number = file.name.split(".")[0].removeprefix("step_")
        if number.isdecimal():
            files.setdefault(int(number), []).append(file)
    steps = sorted(files)
    chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]}) if steps else []
    return [{"step": step, **_step(run_dir, files[step])} for step in chosen]


def _step(run_dir: Path, files: Sequence[Path]) -> dict[str, Any]:
    prompts, broken = [], 0
    for line in (line for file in files for line in file.read_bytes().split(b"\n") if line):
        try:
            prompt = dict(json.loads(line))
            if not _as_written(prompt):
                raise TypeError
            prompts.append(prompt)
        except (ValueError, TypeError, RecursionError):
            broken += 1
    total = len(prompts)
    prompts = sorted(prompts, key=lambda prompt: not prompt.get("image_files"))[:_PROMPTS]
    for prompt in prompts:
        prompt["images"] = [_image(run_dir, name) for name in prompt.get("image_files") or []]
        if not isinstance(prompt.get("prompt"), str):
            prompt["prompt"] = json.dumps(prompt.get("prompt"), indent=1, ensure_ascii=False)
    return {"prompts": prompts, "total": total, "broken": broken}


def _as_written(prompt: dict[str, Any]) -> bool:
    """Whether a line's lists are lists of what the page shows of them."""
    files, completions = (prompt.get(name) or [] for name in ("image_files", "completions"))
    lists = isinstance(files, list) and isinstance(completions, list)
    return lists and all(
        isinstance(one, dict) and isinstance(one.get("rewards") or {}, dict) for one in completions
    )


def _image(run_dir: Path, name: str) -> dict[str, str]:
    """An image of the run directory as a small data URI, or why there is none."""
    from PIL import Image

    try:
        path = (run_dir / name).resolve()
        if not path.is_relative_to(run_dir.resolve()):
            return {"name": name, "error": "outside of the run directory"}
        with Image.open(path, formats=FORMATS) as image:
            image.draft("RGB", (_IMAGE_SIDE, _IMAGE_SIDE))
            small = image.convert("RGB")
        small.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE))
    except (OSError, ValueError, TypeError, Image.DecompressionBombError) as error:
        return {"name": name, "error": f"cannot be read ({type(error).__name__})"}
    data = io.BytesIO()
    small.save(data, "JPEG", quality=88)
    return {
        "name": name,
        "uri": "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode(),
    }
