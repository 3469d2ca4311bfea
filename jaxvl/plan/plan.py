# SPDX-License-Identifier: Apache-2.0
"""`jaxvl plan`: a run's programs on chips that are not there, before one is paid for."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from jaxvl.config import Config, Mesh, SFTConfig
from jaxvl.models.arch import Arch
from jaxvl.plan import checks, estimate, hlo
from jaxvl.plan.chips import GPU, GiB, Topology
from jaxvl.plan.collectives import Collective, collectives
from jaxvl.plan.compile import Compiled, Memory, compile_program, coordinates, tpu_devices
from jaxvl.plan.programs import Held, Program, Sizes, programs, read_arch
from jaxvl.plan.report import Large, Plan, ProgramReport, Traffic
from jaxvl.plan.roofline import roofline
from jaxvl.sharding import make_mesh

LARGEST = 6  # arrays that a report lists


def plan_tpu(
    cfg: Config | SFTConfig,
    topology: Topology,
    name: str,
    say: Callable[[str], None] = print,
    compiler: Callable[[Program], Compiled] = compile_program,
) -> Plan:
    """Has what a run of `cfg` needs compiled for TPU slices. `say` is told what goes on."""
    arch, devices = read_arch(cfg.model), tpu_devices(topology)
    mesh = _mesh(cfg.mesh, devices)
    coords = coordinates(mesh.devices.flat)
    sizes, reports = Sizes.of(cfg), []
    with jax.set_mesh(mesh):
        for program in programs(cfg, arch, mesh):
            say(f"compiling {program.name} for {topology}")
            done = compiler(program)
            say(f"compiled {program.name} in {done.seconds:.0f} s")
            report = _report(program, done, topology, coords, arch, sizes, mesh)
            if program.name == "update":
                report = _checked(report, done, cfg, arch, mesh)
            reports.append(report)
    chip = topology.chip
    return Plan(
        config=name,
        target=str(topology),
        chips=topology.chips,
        slices=topology.slices,
        mesh=dict(mesh.shape),
        hbm=chip.hbm,
        peak=chip.flops,
        source=chip.source,
        exact=True,
        sizes=dataclasses.asdict(sizes),
        programs=tuple(reports),
        row=estimate.row_bytes(cfg, arch, mesh),
    )


def plan_gpus(cfg: Config | SFTConfig, count: int, name: str) -> Plan:
    """What a run of `cfg` holds on `count` GPUs, counted; what its programs make on the way, by
    formula. Needs as many jax devices of any kind, which do nothing."""
    arch = read_arch(cfg.model)
    mesh = _mesh(cfg.mesh, jax.devices()[:count])
    with jax.set_mesh(mesh):
        reports = [
            ProgramReport(program.name, program.calls, _counted(program, cfg, arch, mesh))
            for program in programs(cfg, arch, mesh)
        ]
    return Plan(
        config=name,
        target=f"{count} x {GPU.name}",
        chips=count,
        slices=1,
        mesh=dict(mesh.shape),
        hbm=GPU.hbm,
        peak=None,
        source=GPU.source,
        exact=False,
        sizes=dataclasses.asdict(Sizes.of(cfg)),
        programs=tuple(reports),
        row=estimate.row_bytes(cfg, arch, mesh),
    )


def _mesh(wanted: Mesh, devices: Sequence[Any]) -> jax.sharding.Mesh:
    return make_mesh(wanted.data, wanted.fsdp, wanted.tensor, devices=devices)


def _counted(program: Program, cfg, arch: Arch, mesh) -> dict[str, float]:
    """Bytes on one device by what they are, all that a run holds meanwhile included."""
    held = {**program.beside, **program.args, **program.makes}
    if "state" in held:
        state = held.pop("state")
        held |= {"parameters": state.params, "moments": state.opt_state}
    names = ("parameters", "frozen", "moments", "reference", "batch")
    names += ("weights and prompts", "completions")
    memory = {name: estimate.shard_bytes(held.get(name, {})) for name in names}
    made = estimate.temporaries(program.name, cfg, arch, mesh, Held.of(cfg, arch, mesh))
    return memory | {"temporaries (estimate)": made}


def _report(
    program: Program,
    done: Compiled,
    topology: Topology,
    coords: Sequence[Sequence[int]],
    arch: Arch,
    sizes: Sizes,
    mesh,
) -> ProgramReport:
    """What one compiled program does on one chip."""
    beside = sum(estimate.shard_bytes(tree) for tree in program.beside.values())
    taken, warnings = done.memory, done.warnings
    if taken is None:
        arguments = sum(estimate.shard_bytes(tree) for tree in program.args.values())
        taken = Memory(arguments, outputs=0.0, temporaries=topology.chip.hbm, code=0.0)
        warnings += ("the compiler did not say how much it wants: temporaries are more than that",)
    memory = dataclasses.asdict(taken) | {"beside": beside}
    report = ProgramReport(
        name=program.name,
        calls=program.calls,
        memory=memory,
        compile_seconds=done.seconds,
        model_flops=program.work.model_flops / topology.chips,
        warnings=warnings,
    )
    if not done.text:
        arrays: Iterable = done.too_large
        return dataclasses.replace(report, largest=_largest(arrays, sizes, arch, mesh))
    module = hlo.Module(done.text, program.turns)
    kernels = {name: n for name, n in module.kernels().items() if name == "tpu_custom_call"}
    flops = module.flops() + (program.work.attention / topology.chips if kernels else 0.0)
    found = collectives(module)
    traffic = module.traffic() + sum(one.traffic for one in found)
    arrays = ((array.bytes, str(array), where) for array, where in module.arrays())
    return dataclasses.replace(
        report,
        flops=flops,
        traffic=traffic,
        collectives=_traffic(found),
        kernels=kernels,
        roofline=roofline(topology, coords, flops, traffic, found),
        largest=_largest(arrays, sizes, arch, mesh),
    )


def _checked(
    report: ProgramReport, done: Compiled, cfg: Config | SFTConfig, arch: Arch, mesh
) -> ProgramReport:
    """An update's report with what is wrong with it, if anything, and its memory by formula."""
    held = Held.of(cfg, arch, mesh)
    formula = sum(estimate.update_temporaries(cfg, arch, mesh, held).values())
    faults = checks.replicated(held.state.params, mesh)
    if done.text:
        module = hlo.Module(done.text, Sizes.of(cfg).mini_batch().micro_batches)
        faults += checks.faults(module, arch, Sizes.of(cfg), mesh)
    made = report.memory["temporaries"]
    if made > 1.3 * formula:
        faults.append(f"temporaries of {made / GiB:.2f} GiB, {formula / GiB:.2f} by formula")
    return dataclasses.replace(report, warnings=(*report.warnings, *faults), formula=formula)


def _traffic(exchanges: Iterable[Collective]) -> tuple[Traffic, ...]:
    """Collectives by kind, size of their groups and network, those that move most first."""
    count, moved = collections.Counter(), collections.Counter()
    for one in exchanges:
        key = (one.kind, len(one.group), one.across)
        count[key] += one.times
        moved[key] += one.times * one.moved
    return tuple(
        Traffic(kind, size, count[kind, size, across], total, across)
        for (kind, size, across), total in moved.most_common()
    )


def _largest(
    arrays: Iterable[tuple[float, str, str]], sizes: Sizes, arch: Arch, mesh: jax.sharding.Mesh
) -> tuple[Large, ...]:
    found = (
        Large(size, shape, where, setting(shape, sizes, arch, mesh))
        for size, shape, where in itertools.islice(arrays, LARGEST)
    )
    return tuple(found)


def setting(shape: str, sizes: Sizes, arch: Arch, mesh: jax.sharding.Mesh) -> str:
    """What makes an array of `shape` ("bf16[1,2048,8960]") smaller on a chip, by the sizes of its
    axes; "" where nothing is recognised."""
    axes = {int(size) for size in re.findall(r"\d+", shape.partition("[")[2].partition("]")[0])}
    tensor = mesh.shape["tensor"]
    vocab, own = arch.text.vocab, sizes.completions * sizes.length
    patches = {sizes.patches, sizes.patches // arch.vision.merge_size**2}
    if axes & {vocab, vocab // tensor}:
        if axes - {vocab, vocab // tensor} <= {arch.text.dim, arch.text.dim // mesh.shape["fsdp"]}:
            return "mesh.tensor: the table of tokens is split over it"
        return "grpo.logprob_chunk or mesh.tensor: logits"
    if axes & {own, own + sizes.tokens}:
        return "grpo.micro_batches, or grpo.group_per_row: activations of rows"
    if sizes.length in axes and sizes.completions in axes:
        return "grpo.group_per_row, sampling.max_new_tokens: caches of completions"
    if axes & patches:
        return "grpo.micro_batches, data.patch_buckets or model.max_pixels: the tower"
    if sizes.tokens in axes:
        return "grpo.micro_batches or data.prompt_buckets: prompts"
    if axes & {arch.text.layers, arch.vision.depth}:
        return "mesh.fsdp or mesh.tensor: weights, moments and gradients"
    return ""
