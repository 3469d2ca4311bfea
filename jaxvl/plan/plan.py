# SPDX-License-Identifier: Apache-2.0
"""`jaxvl plan`: a run's programs on chips that are not there, before one is paid for."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from jaxvl.config import Config, Mesh, SFTConfig
from jaxvl.distributed.mesh import make_mesh
from jaxvl.models.arch import Arch
from jaxvl.plan import advice, checks, cuda, estimate, hlo
from jaxvl.plan.chips import GPU, GiB, GpuNode, Nvidia, Topology
from jaxvl.plan.collectives import Collective, collectives
from jaxvl.plan.compile import Compiled, compile_program, coordinates, tpu_devices
from jaxvl.plan.forecast import Forecast, forecast, one_by_one
from jaxvl.plan.program import Held, Program, Sizes
from jaxvl.plan.programs import programs, read_arch
from jaxvl.plan.report import Large, Plan, ProgramReport, Traffic
from jaxvl.plan.roofline import roofline
from jaxvl.rewards.judge import local_judges

LARGEST = 6  # arrays that a report lists
_KERNELS = ("tpu_custom_call", "__cudnn$fmha")  # of attention


def plan_tpu(
    cfg: Config | SFTConfig,
    topology: Topology,
    name: str,
    say: Callable[[str], None] = print,
    compiler: Callable[[Program], Compiled] = compile_program,
) -> Plan:
    """Has what a run of `cfg` needs compiled for TPU slices. `say` is told what goes on."""
    arch, devices = read_arch(cfg.model), tpu_devices(topology)
    return _compiled(cfg, arch, topology, devices, name, say, compiler)


def plan_node(
    cfg: Config | SFTConfig,
    node: GpuNode,
    name: str,
    say: Callable[[str], None] = print,
    compiler: Callable[[Program], Compiled] = compile_program,
) -> Plan:
    """The same for the GPUs of a machine, by XLA's compiler for CUDA."""
    arch, devices = read_arch(cfg.model), cuda.gpu_devices(node)
    with cuda.cudnn():
        return _compiled(cfg, arch, node, devices, name, say, compiler)


def _compiled(
    cfg: Config | SFTConfig,
    arch: Arch,
    target: Topology | GpuNode,
    devices: Sequence[Any],
    name: str,
    say: Callable[[str], None],
    compiler: Callable[[Program], Compiled],
) -> Plan:
    """A plan by the compiler of the devices."""
    mesh, reports = _mesh(cfg.mesh, devices), []
    tpu = isinstance(target, Topology)
    places = coordinates(list(mesh.devices.flat)) if tpu else []
    with jax.set_mesh(mesh):
        for program in programs(cfg, arch, mesh):
            say(f"compiling {program.name} for {target}")
            done = compiler(program)
            say(f"compiled {program.name} in {done.seconds:.0f} s")
            report = _report(program, done, target, places, cfg, arch, mesh)
            if program.name == "update":
                report = _checked(report, done, cfg, arch, mesh)
            reports.append(report)
    reports = [_beside_others(report, reports) for report in reports]
    chip = target.chip
    return Plan(
        config=name,
        target=str(target),
        chips=mesh.size,
        slices=target.slices,
        mesh=dict(mesh.shape),
        hbm=chip.hbm,
        peak=chip.flops,
        source=chip.source,
        exact=True,
        prompts_field=cfg.batch.prompts_field,
        sizes=dataclasses.asdict(Sizes.of(cfg)),
        programs=tuple(reports),
        row=estimate.row_bytes(cfg, arch, mesh),
        notes=_notes(cfg, mesh, target.chips),
        links="ICI" if tpu else "NVLink",
    )


def plan_gpus(cfg: Config | SFTConfig, count: int, name: str) -> Plan:
    """What a run of `cfg` holds on `count` GPUs, counted; what its programs make on the way, by
    formula. Needs as many jax devices of any kind, which do nothing."""
    arch = read_arch(cfg.model)
    mesh = _mesh(cfg.mesh, jax.devices()[:count])
    with jax.set_mesh(mesh):
        every = programs(cfg, arch, mesh)
        constants = sum(program.constants for program in every)
        reports = [_counted(program, constants, cfg, arch, mesh) for program in every]
    return Plan(
        config=name,
        target=f"{count} x {GPU.name}",
        chips=mesh.size,
        slices=1,
        mesh=dict(mesh.shape),
        hbm=GPU.hbm,
        peak=None,
        source=GPU.source,
        exact=False,
        prompts_field=cfg.batch.prompts_field,
        sizes=dataclasses.asdict(Sizes.of(cfg)),
        programs=tuple(reports),
        row=estimate.row_bytes(cfg, arch, mesh),
        notes=_notes(cfg, mesh, count),
    )


def _mesh(wanted: Mesh, devices: Sequence[Any]) -> jax.sharding.Mesh:
    return make_mesh(wanted.data, wanted.fsdp, wanted.tensor, devices=devices)


def _notes(cfg: Config | SFTConfig, mesh: jax.sharding.Mesh, chips: int) -> tuple[str, ...]:
    """What a reader has to know beside the figures."""
    found = []
    if mesh.size < chips:
        found.append(f"the mesh leaves {chips - mesh.size} of {chips} chips out")
    if cfg.eval or cfg.benchmarks:
        found.append("not planned: answering held-out questions and benchmarks between steps")
    found.extend(
        f"not counted: the judge {judge.model}, beside what is held here"
        for judge in local_judges(cfg.rewards)
    )
    return tuple(found)


def _beside_others(report: ProgramReport, every: Sequence[ProgramReport]) -> ProgramReport:
    """A program's report with the code of the others, which stays on the device; arrays that are
    constants of a program are part of its code."""
    others = sum(one.memory.get("code", 0.0) for one in every if one is not report)
    return dataclasses.replace(report, memory=report.memory | {"other programs": others})


def _counted(program: Program, constants: float, cfg, arch: Arch, mesh) -> ProgramReport:
    """Bytes on one device by what they are, all that a run holds meanwhile included; `constants`
    are those of all its programs."""
    held = estimate.held(program)
    if constants:
        held["tables of sampling.ban"] = constants
    made = estimate.temporaries(program, cfg, arch, program.mesh or mesh)
    memory = held | {"temporaries (estimate)": made}
    return ProgramReport(program.name, program.calls, memory, held=held)


def _report(
    program: Program,
    done: Compiled,
    target: Topology | GpuNode,
    places: Sequence[Sequence[int]],
    cfg: Config | SFTConfig,
    arch: Arch,
    mesh,
) -> ProgramReport:
    """What one compiled program does on one chip."""
    beside = sum(estimate.shard_bytes(tree) for tree in program.beside.values())
    if done.memory is None:
        sizes = {"arguments": sum(estimate.shard_bytes(tree) for tree in program.args.values())}
        if done.wanted:
            sizes["temporaries"] = max(done.wanted - sizes["arguments"], 0.0)
    else:
        sizes = dataclasses.asdict(done.memory)
        if isinstance(target, GpuNode):  # whose compiler leaves a program's constants out
            sizes["code"] += program.constants
    report = ProgramReport(
        name=program.name,
        calls=program.calls,
        memory=sizes | {"beside": beside},
        held=estimate.held(program),
        refused=done.refused,
        compile_seconds=done.seconds,
        model_flops=program.work.model_flops / mesh.size,
        warnings=done.warnings,
    )
    shape = dict((program.mesh or mesh).shape)
    of = advice.Of(cfg, arch, dict(mesh.shape) | shape, program.name)
    if done.refused:
        return dataclasses.replace(report, largest=_largest(done.too_large, of))
    module = hlo.Module(done.text, program.turns)
    kernels = {name: n for name, n in module.kernels().items() if name.startswith(_KERNELS)}
    attention = program.work.attention / mesh.size if kernels else 0.0
    flops = module.flops() + attention
    found = collectives(module)
    traffic = module.traffic() + sum(one.traffic for one in found)
    arrays = ((array.bytes, str(array), where) for array, where in module.arrays())
    bound = roofline(target, places, flops, traffic, found)
    waited_for = roofline(target, places, 0, 0, [one for one in found if not one.beside])
    alone = waited_for.ici + waited_for.dcn
    chip, exchanges = target.chip, (alone, bound.ici + bound.dcn - alone)
    times: Forecast | None
    if isinstance(chip, Nvidia):
        times = one_by_one(module, chip.flops, chip.bandwidth, attention / chip.flops, *exchanges)
        if program.work.attention:
            report = dataclasses.replace(
                report, warnings=(*report.warnings, *cuda.without_cudnn(module))
            )
    else:
        times = forecast(module, chip.clock, attention / chip.flops, *exchanges)
    return dataclasses.replace(
        report,
        turns=program.turns,
        flops=flops,
        traffic=traffic,
        collectives=_traffic(found),
        kernels=kernels,
        roofline=bound,
        forecast=times,
        largest=_largest(arrays, of),
    )


def _checked(
    report: ProgramReport, done: Compiled, cfg: Config | SFTConfig, arch: Arch, mesh
) -> ProgramReport:
    """An update's report with what is wrong with it, if anything, and its memory by formula."""
    held = Held.of(cfg, arch, mesh)
    formula = sum(estimate.update_temporaries(cfg, arch, mesh, held).values())
    faults = checks.replicated(held.params, mesh)
    if done.text:
        module = hlo.Module(done.text, Sizes.of(cfg).mini_batch().micro_batches)
        faults += checks.faults(module, cfg, arch, mesh)
    made = report.memory.get("temporaries", 0.0)
    if made > 1.3 * formula:
        faults.append(f"temporaries of {made / GiB:.2f} GiB, {formula / GiB:.2f} by formula")
    return dataclasses.replace(report, warnings=(*report.warnings, *faults), formula=formula)


def _traffic(exchanges: Iterable[Collective]) -> tuple[Traffic, ...]:
    """Collectives by kind, size of their groups and network, those that move most first."""
    count: dict[tuple[str, int, bool], float] = collections.defaultdict(float)
    moved: dict[tuple[str, int, bool], float] = collections.defaultdict(float)
    for one in exchanges:
        key = (one.kind, one.size, one.across)
        count[key] += one.times
        moved[key] += one.times * one.moved
    return tuple(
        Traffic(kind, size, count[kind, size, across], total, across)
        for (kind, size, across), total in sorted(moved.items(), key=lambda pair: -pair[1])
    )


def _largest(arrays: Iterable[tuple[float, str, str]], of: advice.Of) -> tuple[Large, ...]:
    return tuple(
        Large(size, shape, where, advice.for_array(shape, of))
        for size, shape, where in itertools.islice(arrays, LARGEST)
    )
