# SPDX-License-Identifier: Apache-2.0
"""Plans of all recipes in configs/hardware.json, and the tables of docs/scaling.md from them:

    python scripts/plans.py --out plans              compiles what is not in plans/ yet: hours
    python scripts/plans.py --out plans --only vt-2b/v5e:4x4
    python scripts/plans.py --out plans --table      the tables, of what is there

What a compiler made is kept, program by program, so that an interrupted campaign goes on where it
was; figures are read from it anew each time. Delete a recipe's folder when its programs change.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}

from jaxvl import config
from jaxvl.plan.chips import Topology
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
