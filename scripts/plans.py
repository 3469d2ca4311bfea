# SPDX-License-Identifier: Apache-2.0
"""Plans of all recipes in configs/hardware.json, and the tables of docs/scaling.md from them:

    python scripts/plans.py --out plans              compiles what is not in plans/ yet: hours
    python scripts/plans.py --out plans --only visualthinker-2b/v5e:4x4
    python scripts/plans.py --out plans --table      the tables, of what is there
    python scripts/plans.py --out plans --forecasts  the forecasts by part, of what is there
    python scripts/plans.py --papers                 configs/papers on GPUs of 80 GB, by counting

What a compiler made is kept, program by program, so that an interrupted campaign goes on where it
was, and a recipe whose settings have changed is planned again. Delete its folder too where they or
the code change what is compiled.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import gzip
import itertools
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}

from jaxvl import config
from jaxvl.cli.runtime import as_command
from jaxvl.errors import UserError
from jaxvl.plan.chips import GiB, Topology
from jaxvl.plan.compile import Compiled, Memory, compile_program
from jaxvl.plan.plan import plan_gpus, plan_tpu
from jaxvl.plan.program import Program
from jaxvl.plan.report import Plan

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "configs/hardware.json"


def kept(folder: Path) -> Callable[[Program], Compiled]:
    """`compile_program`, but what it gives is kept in `folder` and read from there."""
    folder.mkdir(parents=True, exist_ok=True)

    def compiler(program: Program) -> Compiled:
        facts, text = folder / f"{program.name}.json", folder / f"{program.name}.hlo.gz"
        if facts.exists():
            found = json.loads(facts.read_text())
            found["memory"] = Memory(**found["memory"]) if found["memory"] else None
            found["too_large"] = tuple(tuple(one) for one in found["too_large"])
            found["warnings"] = tuple(found["warnings"])
            return Compiled(**found, text=gzip.decompress(text.read_bytes()).decode())
        done = compile_program(program)
        text.write_bytes(gzip.compress(done.text.encode()))
        found = dataclasses.asdict(done)
        del found["text"]
        facts.write_text(json.dumps(found))  # last: where it is, the text is whole
        return done

    return compiler


def recipes() -> dict[str, tuple[str, str, list[str]]]:
    """name -> (config file, hardware, overrides), the most important first."""
    found = {}
    for name, entry in json.loads(RECIPES.read_text()).items():
        for hardware, overrides in entry["hardware"].items():
            every = [*entry.get("overrides", []), *overrides]
            found[f"{name}/{hardware}"] = (entry["config"], hardware, every)
    return found


def plan(name: str, out: Path) -> Plan:
    """The plan of a recipe; what is compiled for it is kept in `out`."""
    file, hardware, overrides = recipes()[name]
    cfg = config.load(ROOT / file, overrides, config.Config, config.SFTConfig)
    if gpus := re.fullmatch(r"gpu:(\d+)", hardware):
        return plan_gpus(cfg, int(gpus[1]), name)
    slices, slice_name = re.fullmatch(r"(?:(\d+) x )?(.+)", hardware).groups()
    topology = Topology.parse(slice_name, int(slices or 1))
    return plan_tpu(cfg, topology, name, compiler=kept(out / file_name(name)))


def file_name(recipe: str) -> str:
    return re.sub(r"[^\w.-]+", "_", recipe)


def planned(name: str, out: Path) -> dict | None:
    """What was found for a recipe with the settings that it has now; None where it is to be."""
    path = out / f"{file_name(name)}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return found if found.get("settings") == recipes()[name][2] else None


def row(name: str, out: Path) -> list[str]:
    """A line of the table: what a recipe's plan in `out` says."""
    _, hardware, overrides = recipes()[name]
    head = [name.partition("/")[0], hardware, " ".join(f"`{one}`" for one in overrides)]
    found = planned(name, out)
    if found is None:
        return [*head, "not run", *[""] * (len(COLUMNS) - 4)]
    if "error" in found:
        return [*head, found["error"], *[""] * (len(COLUMNS) - 4)]
    largest = max(found["programs"], key=lambda program: program["total"])
    update = next(program for program in found["programs"] if program["name"] == "update")
    fits = "yes" if found["fits"] else "NO"
    share = f"{largest['total'] / GiB:.1f} of {found['hbm'] / GiB:.1f} GiB ({largest['name']})"
    rows = "?" if found["largest_micro_batch"] is None else str(found["largest_micro_batch"])
    if not found["exact"]:
        return [*head, f"{fits}, estimated", share, *[""] * 4, rows, ""]
    made = update["memory"].get("temporaries")  # None: refused, in words without a size
    made = f"{'?' if made is None else f'{made / GiB:.1f}'} ({update['formula'] / GiB:.1f})"
    warned = [warning for program in found["programs"] for warning in program["warnings"]]
    seconds = sum(program["compile_seconds"] for program in found["programs"])
    cells = [*head, fits + "; WARNINGS" * bool(warned), share, made]
    if found["step_seconds"] is None:
        return [*cells, "", "", "", rows, f"{seconds:.0f} s"]
    slowest = max(found["programs"], key=lambda p: p["calls"] * p["roofline"]["seconds"])
    of_it = slowest["calls"] * slowest["roofline"]["seconds"]
    bound = f"{slowest['name']} {of_it:.1f} s, {slowest['roofline']['bound']}"
    each = f"{update['roofline']['seconds']:.2f} s, {update['roofline']['bound']}"
    return [
        *cells,
        f"{found['step_seconds']:.1f} s ({bound})",
        each,
        f"{found['update_mfu_ceiling']:.0%}",
        rows,
        f"{seconds:.0f} s",
    ]


COLUMNS = ("model", "hardware", "settings", "fits", "largest program")
COLUMNS += ("update's temporaries, GiB (formula)", "step, at least (most of it)")
COLUMNS += ("an update, bound", "its MFU, ceiling", "rows a chip", "compiled in")


def table(out: Path) -> str:
    """All recipes, in markdown."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(row(name, out) for name in recipes())]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def forecast_row(name: str, found: dict) -> list[str]:
    """A line of forecasts: seconds of a step by kind of program, and of the largest by part."""
    calls = {one["name"]: one["calls"] for one in found["programs"]}
    of = {one["name"]: one["forecast"] for one in found["programs"]}

    def seconds(*names: str, shown: int = 0) -> str:
        """Of a step, with as many parts, the largest first."""
        parts: dict[str, float] = collections.Counter()
        for each in names:
            for part, value in (of[each]["parts"] | {"attention": of[each]["kernels"]}).items():
                parts[part] += calls[each] * value
        text = f"{sum(parts.values()):.2f}"
        largest = sorted(parts.items(), key=lambda pair: -pair[1])[:shown]
        return text + (f" ({', '.join(f'{p} {v:.2f}' for p, v in largest)})" if shown else "")

    on_top = found["on_top_seconds"]
    decode = [each for each in of if each.startswith(("decode", "grow"))]
    share = sum(
        one["calls"] * one["roofline"]["hbm"]
        for one in found["programs"]
        if one["name"].startswith("decode")
    ) / sum(calls[each] * of[each]["seconds"] for each in decode)
    return [
        name.replace("/", ", "),
        seconds(*(each for each in of if each.startswith("prefill"))),
        f"{seconds(*decode, shown=3)}; {share:.0%}",
        seconds("logprobs") if "logprobs" in of else "-",
        f"{calls['update']:.0f}: {seconds('update', shown=4)}",
        f"{found['forecast_seconds']:.1f}",
        f"{on_top['exchanges']:.2f} and {on_top['sorts']:.2f}; {on_top['exchanges_beside']:.2f}",
    ]


FORECASTS = ("recipe", "prefill", "decode (largest parts); of it HBM's bound", "log-probabilities")
FORECASTS += ("updates (largest parts)", "step", "on top: exchanges and sorts; exchanges beside")


def forecasts(out: Path) -> str:
    """Forecasts of the recipes that are planned and have one, in markdown."""
    plans = {name: planned(name, out) for name in recipes()}
    there = {n: p for n, p in plans.items() if p and p.get("forecast_seconds") is not None}
    rows = [FORECASTS, ["---"] * len(FORECASTS), *itertools.starmap(forecast_row, there.items())]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def papers() -> str:
    """Every recipe of configs/papers as it stands on GPUs of 80 GB, by counting, in markdown: on
    the most of 8, 4, 2 or 1 that its rows can be shared among."""
    rows = [("recipe", "GPUs", "fits", "largest program", "rows a chip"), ["---"] * 5]
    for path in sorted((ROOT / "configs/papers").glob("*.py")):
        cfg = config.load(path, [], config.Config, config.SFTConfig)
        if before := re.fullmatch(r"runs/(\w+)/hf", cfg.model.path):  # of another recipe's model
            of = config.load(path.with_stem(before[1]), [], config.SFTConfig).model
            cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, path=of.path))
        gpus = math.gcd(8, cfg.batch.rows // (cfg.batch.mini_batches * cfg.batch.micro_batches))
        found = plan_gpus(cfg, gpus, path.stem).to_json()
        largest = max(found["programs"], key=lambda program: program["total"])
        share = f"{largest['total'] / GiB:.1f} of {found['hbm'] / GiB:.1f} GiB ({largest['name']})"
        fits, micro = "yes" if found["fits"] else "NO", found["largest_micro_batch"]
        rows.append((f"`{path.stem}`", str(gpus), fits, share, str(micro)))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("plans"), help="where plans are kept")
    parser.add_argument("--only", nargs="*", help="recipes, as visualthinker-2b/v5e:4x4")
    parser.add_argument("--table", action="store_true", help="show what there is, plan nothing")
    parser.add_argument("--forecasts", action="store_true", help="show them by part, plan nothing")
    parser.add_argument("--papers", action="store_true", help="count for configs/papers alone")
    args = parser.parse_args()
    if args.papers:
        return print(papers())
    if args.forecasts:
        return print(forecasts(args.out))
    args.out.mkdir(parents=True, exist_ok=True)
    if unknown := set(args.only or ()) - set(recipes()):
        parser.error(f"no recipe {min(unknown)}; there are: {', '.join(recipes())}")
    for name in () if args.table else args.only or recipes():
        if planned(name, args.out):
            continue
        print(f"{name}: planning", flush=True)
        try:
            found = plan(name, args.out).to_json()
        except UserError as error:
            found = {"error": str(error)}
        found["settings"] = recipes()[name][2]
        path = args.out / f"{file_name(name)}.json"
        path.write_text(json.dumps(found, indent=1) + "\n")
    print(table(args.out))


if __name__ == "__main__":
    as_command(main)
