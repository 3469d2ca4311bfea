# SPDX-License-Identifier: Apache-2.0
"""Plans of all recipes in configs/hardware.json, and the tables of docs/scaling.md from them:

    python scripts/plans.py --out plans              compiles what is not in plans/ yet: hours
    python scripts/plans.py --out plans --only vt-2b/v5e:4x4
    python scripts/plans.py --out plans --table      the tables, of what is there

What a compiler made is kept, program by program, so that an interrupted campaign goes on where it
was; figures are read from it anew each time. Delete a recipe's folder when its programs change.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}

from jaxvl import config
from jaxvl.errors import UserError
from jaxvl.plan.chips import GiB, Topology
from jaxvl.plan.compile import Compiled, Memory, compile_program
from jaxvl.plan.plan import plan_gpus, plan_tpu
from jaxvl.plan.programs import Program
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
            memory = Memory(**found.pop("memory")) if found["memory"] else None
            large = tuple(tuple(one) for one in found.pop("too_large"))
            body = gzip.decompress(text.read_bytes()).decode()
            found.pop("memory", None)
            return Compiled(**found, memory=memory, text=body, too_large=large)
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
    folder = out / name.replace(":", "_")
    return plan_tpu(cfg, Topology.parse(hardware), name, compiler=kept(folder))


def row(name: str, out: Path) -> list[str]:
    """A line of the table: what a recipe's plan in `out` says."""
    _, hardware, overrides = recipes()[name]
    settings = " ".join(overrides)
    path = out / f"{name.replace('/', '_').replace(':', '_')}.json"
    if not path.exists():
        return [name.partition("/")[0], hardware, settings, *["not run"] * 6]
    found = json.loads(path.read_text())
    if "error" in found:
        return [name.partition("/")[0], hardware, settings, found["error"], *["-"] * 5]
    largest = max(found["programs"], key=lambda program: program["total"])
    update = next(program for program in found["programs"] if program["name"] == "update")
    share = f"{largest['total'] / GiB:.1f} of {found['hbm'] / GiB:.0f} GiB ({largest['name']})"
    cells = [name.partition("/")[0], hardware, settings, "yes" if found["fits"] else "NO", share]
    if not found["exact"]:
        return [*cells, "-", "-", str(found["largest_micro_batch"]), "-"]
    bound = update["roofline"] and update["roofline"]["bound"]
    seconds = found["step_seconds"]
    return [
        *cells,
        f"{seconds:.1f} s" if seconds else "-",
        bound or "-",
        str(found["largest_micro_batch"]),
        f"{found['update_mfu']:.0%}" if found["update_mfu"] else "-",
    ]


def table(out: Path) -> str:
    """All recipes, in markdown."""
    head = ["model", "hardware", "settings", "fits", "largest program", "step, at least"]
    head += ["update's bound", "rows a chip", "update's MFU"]
    rows = [head, ["---"] * len(head), *(row(name, out) for name in recipes())]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where plans are kept")
    parser.add_argument("--only", nargs="*", help="recipes, as visualthinker-2b/v5e:4x4")
    parser.add_argument("--table", action="store_true", help="show what there is, plan nothing")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in () if args.table else args.only or recipes():
        path = args.out / f"{name.replace('/', '_').replace(':', '_')}.json"
        if path.exists():
            continue
        print(f"{name}: planning", flush=True)
        try:
            found = plan(name, args.out).to_json()
        except UserError as error:
            found = {"error": str(error)}
        path.write_text(json.dumps(found, indent=1) + "\n")
    print(table(args.out))


if __name__ == "__main__":
    main()
