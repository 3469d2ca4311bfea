# SPDX-License-Identifier: Apache-2.0
"""A plan as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from jaxvl.plan import advice
from jaxvl.plan.chips import GiB
from jaxvl.plan.host import HostPlan
from jaxvl.plan.program import LOOPS
from jaxvl.plan.report import SPARE, Plan, ProgramReport
from jaxvl.plan.roofline import Roofline


def text(plan: Plan) -> str:
    """The whole of it, in the order of the questions: does it fit, how long, why, what to do."""
    return "\n".join((*_head(plan), *_memory(plan), *_times(plan), *_advice(plan))) + "\n"


def host_text(plan: HostPlan) -> str:
    """The host's share of a step."""
    rows = [["the host in a step", "measured", "ms each", "in a step", "s", "devices meanwhile"]]
    rows.extend(
        [
            part.name,
            f"{part.measured} {part.what}",
            f"{1000 * part.seconds / part.measured:.2f}",
            str(part.of),
            f"{part.a_step:.3f}",
            part.meanwhile or "wait",
        ]
        for part in plan.parts
    )
    total = sum(part.a_step for part in plan.parts)
    waited = sum(part.a_step for part in plan.parts if not part.meanwhile)
    lines = [
        f"{plan.config} on this machine: {plan.cpus} processors, load {plan.load:.1f} before",
        *table(rows),
        f"in all {total:.2f} s of one processor, of which the devices wait for {waited:.2f} "
        "and for what takes longer than they do; several processes have a share each",
        f"handed to the devices in a step: {plan.patch_bytes / 1e9:.3f} GB of images, "
        f"{plan.other_bytes / 1e9:.3f} GB of all else",
        *plan.notes,
    ]
    return "\n".join(lines) + "\n"


def _head(plan: Plan) -> list[str]:
    sizes, mesh = plan.sizes, plan.mesh
    return [
        f"{plan.config} on {plan.target}: {plan.chips} chips of {plan.hbm / GiB:.1f} GiB, "
        + "mesh "
        + " x ".join(f"{name} {size}" for name, size in mesh.items()),
        f"a step: {sizes['rows']} rows in {sizes['micro_batches']} micro-batches; a row: "
        f"{sizes['tokens']} prompt tokens, {sizes['patches']} patches, {sizes['completions']} "
        f"completions of {sizes['length']} tokens",
        *([] if plan.exact else ["an estimate: what programs make on the way is by formula"]),
        *plan.notes,
        "",
    ]


def _memory(plan: Plan) -> list[str]:
    every = dict.fromkeys(kind for program in plan.programs for kind in program.memory)
    kinds = [kind for kind in every if any(p.memory.get(kind) for p in plan.programs)]
    rows = [["memory of a chip, GiB", *kinds, "total", "of HBM"]]
    for program in plan.programs:
        sizes = [
            f"{program.memory[kind] / GiB:.2f}" if kind in program.memory else "-" for kind in kinds
        ]
        total, share = f"{program.total / GiB:.2f}", f"{program.total / plan.hbm:.0%}"
        rows.append([program.name, *sizes, *((total, share) if program.sized else ("?", "?"))])
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    if plan.exact:
        verdict += " (beside: what a run holds meanwhile that the program does not see)"
    largest = max(plan.programs, key=lambda program: program.total)
    parts = sorted(largest.held.items(), key=lambda pair: -pair[1])
    held = ", ".join(f"{name} {size / GiB:.2f}" for name, size in parts)
    refused = [
        f"{p.name} is refused by the compiler: {p.refused}" for p in plan.programs if p.refused
    ]
    return [*table(rows), verdict, *refused, f"held in {largest.name}, GiB: {held}", ""]


def _times(plan: Plan) -> list[str]:
    networks = [(plan.links, False)] + [("DCN", True)] * (plan.slices > 1)
    rows = [
        ["work of a chip, a call", "model TFLOP", "TFLOP", "HBM GB"]
        + [f"{name} GB" for name, _ in networks]
        + ["compute s", "HBM s", *(f"{name} s" for name, _ in networks)]
        + ["bound", "calls", "compiled in"]
    ]
    rows.extend(
        _work(program, program.roofline, [across for _, across in networks])
        for program in plan.programs
        if program.roofline is not None
    )
    if len(rows) == 1:
        return []
    lines = [*table(rows), ""]
    for program in plan.programs:
        if program.collectives:
            lines.append(f"collectives of {program.name}: " + _collectives(program))
        if program.formula is not None and program.sized:
            made = f"{program.memory['temporaries'] / GiB:.2f} GiB"
            lines.append(
                f"temporaries of {program.name}: {made}, by formula {program.formula / GiB:.2f}"
            )
        if program.name in LOOPS:
            lines.append(_a_token(program))
        if program.kernels:
            calls = ", ".join(f"{name} {n:.0f}" for name, n in program.kernels.items())
            lines.append(f"kernels of {program.name}: {calls}")
        lines += [f"WARNING, {program.name}: {warning}" for warning in program.warnings]
    if plan.seconds is not None:
        lines += [
            "",
            f"a step takes at least {plan.seconds:.2f} s (a bound where compute, HBM and "
            f"{plan.links} overlap, not a forecast); "
            f"ceiling of the update's MFU {plan.mfu_ceiling('update'):.0%}",
        ]
    if plan.forecast is not None:
        lines += _forecast(plan)
    lines += [f"chip: {plan.source}", ""]
    return lines


def _forecast(plan: Plan) -> list[str]:
    """A step operation by operation, and what that leaves out."""
    by = "the compiler's estimated cycles"
    if plan.links == "NVLink":
        by = "each operation at its own bound, one after the other"
    lines = [
        f"forecast of a step {plan.forecast:.2f} s ({by}); MFU of the update then "
        f"{plan.mfu_forecast('update'):.0%}",
        f"on top of it, estimated: exchanges {plan.on_top['exchanges']:.2f} s that nothing runs "
        f"beside, sorts {plan.on_top['sorts']:.2f} s; other exchanges, "
        f"{plan.on_top['exchanges_beside']:.2f} s, run beside operations; without an estimate: the "
        "latency of exchanges, copies that run beside, the start of a kernel, the host",
    ]
    for program in plan.programs:
        found = program.forecast
        if found is None:
            continue
        parts = [f"{name} {seconds:.3f}" for name, seconds in found.parts.items()]
        if found.kernels:
            parts.append(f"attention's kernels at the chip's peak {found.kernels:.3f}")
        lines.append(f"  {program.name} {found.seconds:.3f} s: {', '.join(parts)}")
        if found.exchanges or found.beside or found.sorts:
            ours = f"exchanges {found.exchanges:.3f} s, sorts {found.sorts:.3f} s"
            lines.append(f"    estimated on top: {ours}; exchanges beside {found.beside:.3f} s")
        if found.missing:
            missing = ", ".join(f"{times:.0f} {kind}" for kind, times in found.missing.items())
            lines.append(f"    not in the compiler's figures: {missing}")
    return lines


def _work(program: ProgramReport, roof: Roofline, networks: Sequence[bool]) -> list[str]:
    """A program's line of the table of work; `networks` says which, between slices or within."""
    moved = dict.fromkeys(networks, 0.0)
    for one in program.collectives:
        moved[one.across] += one.bytes
    seconds = [roof.dcn if across else roof.ici for across in networks]
    return [
        program.name,
        f"{program.model_flops / 1e12:.1f}",
        f"{program.flops / 1e12:.1f}",
        f"{program.traffic / 1e9:.1f}",
        *(f"{moved[across] / 1e9:.1f}" for across in networks),
        *(f"{part:.3f}" for part in (roof.compute, roof.hbm, *seconds)),
        f"{roof.bound} {roof.seconds:.3f} s",
        str(program.calls),
        f"{program.compile_seconds:.0f} s",
    ]


def _a_token(program: ProgramReport) -> str:
    """What decoding moves for one token of every slot, beside what it holds."""
    moved = program.traffic / program.turns / 1e9
    held = (program.memory["arguments"] + program.memory["outputs"]) / 1e9
    return (
        f"{program.name}: a token of every slot moves {moved:.2f} GB in HBM; weights and caches, "
        f"whole, read once: {held:.2f} GB"
    )


def _collectives(program: ProgramReport) -> str:
    return ", ".join(
        f"{one.count:.0f} {one.kind} over {one.group}{' slices' * one.across} "
        f"({one.bytes / 1e9:.2f} GB)"
        for one in program.collectives
    )


def _advice(plan: Plan) -> list[str]:
    rows, lines = plan.largest_micro_batch, []
    if rows is not None:
        lines.append(
            f"with {SPARE:.0%} of memory to spare a micro-batch of the update has at most {rows} "
            "rows a chip (by formula, from what it takes now)"
        )
    for program in plan.programs:
        if plan.holds(program):
            continue
        if program.total > plan.hbm:
            over = (program.total - plan.hbm) / GiB
            lines.append(
                f"{program.name} is {over:.2f} GiB too large; what it takes, what moves it:"
            )
        held = sorted(program.held.items(), key=lambda pair: -pair[1])[:4]
        for name, size in held if program.sized else ():
            what = advice.for_kind(name, plan.prompts_field)
            lines.append(f"  {size / GiB:8.2f} GiB  {name}" + (f": {what}" if what else ""))
        for one in program.largest:
            lines.append(f"  {one.bytes / GiB:8.2f} GiB  {one.shape}  {one.where}")
            lines += [f"                {one.setting}"] if one.setting else []
    return lines


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they must be, the first to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
