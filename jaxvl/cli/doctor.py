# SPDX-License-Identifier: Apache-2.0
"""`jaxvl doctor`: whether this machine can train, and whether a config can be trained on it, before
a device is paid for. Nothing is trained, and nothing of a run is changed."""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import shutil
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec

from jaxvl.checkpoints.start import locate
from jaxvl.config import Config, SFTConfig
from jaxvl.config.validate import check_rows, check_share
from jaxvl.data import templates
from jaxvl.data.buckets import read_off
from jaxvl.data.example import BadRow
from jaxvl.data.intake import ExampleFilter
from jaxvl.data.prompts import Processor
from jaxvl.distributed.mesh import data_shard, make_mesh, row_shards
from jaxvl.errors import UserError
from jaxvl.models.io import hf, sound
from jaxvl.plan.plan import plan_gpus
from jaxvl.rewards import pool
from jaxvl.rewards.endpoint import endpoints
from jaxvl.rewards.mix import score
from jaxvl.rl.completions import Completions
from jaxvl.train import resume, rollouts
from jaxvl.train.prompts import StreamItem

TRIED = {("0.10.2", "0.12.8"), ("0.11.2", "0.12.12")}  # jax and flax with which the tests have run
ROWS = 8  # of the data that are looked at
_DISK_BYTES = 2**26
_LEAST_FREE = 2**30  # bytes of a disk below which a checkpoint of any model is in danger


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check has come to: "ok", "warning" or "error"."""

    name: str
    status: str
    text: str

    def __str__(self) -> str:
        return f"{self.status:<8} {self.name}: {self.text}"


def examine(cfg: Config | SFTConfig | None = None, name: str = "") -> Iterator[Finding]:
    """The findings about this machine, and about `cfg` (of the file `name`) where there is one."""
    checks: list[tuple[str, Callable[[], tuple[str, str]]]] = [
        ("versions", _versions),
        ("devices", _devices),
        ("collective", _collective),
        ("compilation cache", _cache),
        ("fonts", _fonts),
        ("disk", functools.partial(_disk, Path(cfg.run.dir) if cfg else Path.cwd())),
    ]
    if cfg:
        found = _Found(cfg)
        checks += [
            ("mesh", functools.partial(_mesh, cfg)),
            ("model", found.model),
            ("data", found.data),
            ("memory", functools.partial(found.memory, name)),
            ("run.dir", functools.partial(_run_dir, cfg)),
        ]
        if cfg.grpo is not None:
            checks += [("rewards", found.rewards), ("judge", found.judges)]
    for what, check in checks:
        try:
            status, text = check()
        except UserError as error:
            status, text = "error", str(error)
        except Exception as error:  # whatever a file of the user's raises: the others are told too
            status, text = "error", f"{type(error).__name__}: {error}"
        yield Finding(what, status, text)


def _versions() -> tuple[str, str]:
    names = ("jaxvl", "jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")
    found = {name: _version(name) for name in names}
    text = f"Python {platform.python_version()}, " + ", ".join(
        f"{name} {number}" for name, number in found.items()
    )
    if (found["jax"], found["flax"]) in TRIED:
        return "ok", text
    pairs = " or ".join(f"jax {j} with flax {f}" for j, f in sorted(TRIED))
    return "warning", f"{text}; jax and flax were tried as {pairs}, not as this pair"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _devices() -> tuple[str, str]:
    devices = jax.devices()
    limit = device_memory(devices[0])
    memory = f" of {limit / 2**30:.1f} GiB" if limit else ""
    text = f"{len(devices)} {devices[0].device_kind}{memory}, {jax.process_count()} process(es)"
    if devices[0].platform == "cpu":
        return "warning", f"{text}: no accelerator; for one install jaxvl[cuda] or jaxvl[tpu]"
    return "ok", text


def device_memory(device: jax.Device) -> int | None:
    """Bytes that programs may use on a device; of CPU devices, which share it, the machine's."""
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (device.memory_stats() or {}).get("bytes_limit")


def _collective() -> tuple[str, str]:
    mesh = make_mesh(fsdp=-1)
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        rows = np.arange(mesh.size, dtype=np.int32)
        x = jax.make_array_from_callback(
            rows.shape, NamedSharding(mesh, Spec("fsdp")), lambda at: rows[at]
        )
        total = int(jax.jit(jnp.sum)(x))
    if total != rows.sum():
        return "error", f"a sum over {mesh.size} devices is {total}, expected {rows.sum()}"
    return "ok", f"a sum over {mesh.size} device(s) in {time.perf_counter() - start:.1f} s"


def _cache() -> tuple[str, str]:
    place = jax.config.values["jax_compilation_cache_dir"]
    if not place:
        return "warning", "none: every start compiles anew"
    if "://" in place:
        return "ok", place
    path = Path(place)
    path.mkdir(parents=True, exist_ok=True)
    (path / ".doctor").write_bytes(b"")
    (path / ".doctor").unlink()
    return "ok", f"{path}, {sum(1 for _ in path.iterdir())} programs"


def _fonts() -> tuple[str, str]:
    from PIL import ImageFont, features

    ImageFont.load_default(12)
    kind = "FreeType" if features.check("freetype2") else "Pillow's bitmap font alone"
    return "ok", kind


def _disk(folder: Path) -> tuple[str, str]:
    """Written where the run will be: an existing folder above it stands in for one to come."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        return "error", f"{there} is a file; choose another run.dir"
    free, probe = shutil.disk_usage(there).free, there / f".doctor.{os.getpid()}"
    if free < _LEAST_FREE + _DISK_BYTES:
        return "error", f"{there} has {free / 2**30:.2f} GiB free; make room"
    try:
        start = time.perf_counter()
        with open(probe, "wb") as file:
            file.write(os.urandom(_DISK_BYTES))
            file.flush()
            os.fsync(file.fileno())
        seconds = time.perf_counter() - start
    except OSError as error:
        return "error", f"{there} cannot be written ({error}); choose another run.dir"
    finally:
        probe.unlink(missing_ok=True)
    speed = _DISK_BYTES / 2**20 / seconds
    return "ok", f"{there}: {free / 2**30:.1f} GiB free, written at {speed:.0f} MiB/s"


def _mesh(cfg: Config | SFTConfig) -> tuple[str, str]:
    mesh = make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)
    check_rows(cfg.batch, row_shards(mesh))
    check_share(cfg.batch, data_shard(mesh).count)
    sizes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    left = len(jax.devices()) - mesh.size
    if left:
        return "warning", f"{sizes}: {left} of {len(jax.devices())} devices are left out"
    return "ok", sizes


def _run_dir(cfg: Config | SFTConfig) -> tuple[str, str]:
    """What a run would find there, by what `resume.check` refuses."""
    resume.check(cfg)
    return "ok", resume.outlook(cfg)


class _Found:
    """What the checks of a config find and those after them need."""

    def __init__(self, cfg: Config | SFTConfig):
        self.cfg = cfg
        self.items: list[StreamItem] = []
        self.processor: Processor | None = None

    def model(self) -> tuple[str, str]:
        path = locate(self.cfg.model.path).files
        arch = hf.arch_from_config(hf.read_config(path))
        files = sound.check_weights(path)
        self.processor = Processor.from_pretrained(
            path, min_pixels=self.cfg.model.min_pixels, max_pixels=self.cfg.model.max_pixels
        )
        size = sum(file.stat().st_size for file in files) / 2**30
        return "ok", f"{path}: {arch.family}, {arch.text.layers} layers, {size:.2f} GiB of weights"

    def data(self) -> tuple[str, str]:
        """The first rows, as a run would encode them."""
        cfg, data = self.cfg, self.cfg.data
        if self.processor is None:
            return "warning", "not looked at: the model has no processor"
        template = templates.for_checkpoint(data.template, cfg.model.path)
        processor = self.processor.with_pixels(data.min_pixels, data.max_pixels)
        gate = ExampleFilter(data.check, cfg.run.trial, data.digests)
        gate.admit(data.source)
        examples, bad, most = data.source.load(), [], [0, 0]
        for row in range(min(ROWS, len(examples))):
            try:
                example = gate.open(examples[row])
                prompt = template(example)
                encoded = processor.encode(prompt, list(example.images))
            except BadRow as why:
                bad.append(f"row {row}: {why}")
                continue
            most = [max(most[0], len(encoded.tokens)), max(most[1], len(encoded.segments))]
            self.items.append(StreamItem(row, example, prompt, encoded))
        text = f"{len(examples)} rows; of the first {len(self.items) + len(bad)} the longest has "
        text += f"{most[0]} tokens and {most[1]} patches"
        if not self.items:
            return "error", f"{text}: none can be used; {'; '.join(bad[:2])}"
        # Buckets that are auto grow with what comes.
        sizes = (data.prompt_buckets, data.patch_buckets)
        limits = [None if of == "auto" else max(of) for of in sizes]
        if any(limit and size > limit for size, limit in zip(most, limits, strict=True)):
            text += f", the largest buckets are {limits[0] or 'auto'} and {limits[1] or 'auto'}"
            return ("warning" if data.too_long == "drop" else "error"), text
        return ("warning", f"{text}; {'; '.join(bad[:2])}") if bad else ("ok", text)

    def memory(self, name: str) -> tuple[str, str]:
        """As `jaxvl plan --gpus` counts it, for the devices that are there. Buckets that are auto
        are as large as the rows that were looked at need."""
        cfg, data, told = self.cfg, self.cfg.data, ""
        sizes = {"prompt_buckets": [len(item.encoded.tokens) for item in self.items]}
        sizes |= {"patch_buckets": [len(item.encoded.segments) for item in self.items]}
        auto = {of: sizes[of] for of in sizes if getattr(data, of) == "auto"}
        if auto and not self.items:
            return "warning", "not counted: buckets are auto, and no row was read"
        if auto:
            read: dict[str, Any] = {of: read_off(auto[of], cfg.batch.prompts) for of in auto}
            cfg = dataclasses.replace(cfg, data=dataclasses.replace(data, **read))
            told = f", with {' '.join(f'{of}={max(read[of])}' for of in read)} for these rows"
        plan = plan_gpus(cfg, len(jax.devices()), name)
        most = max(plan.programs, key=lambda program: program.total)
        limit = device_memory(jax.devices()[0])
        text = f"the largest program ({most.name}) takes about {most.total / 2**30:.2f} GiB"
        text += f" of a device, by formula{told}"
        if limit is None:
            return "warning", f"{text}; what a device has is not known"
        shared = limit / len(jax.local_devices()) if jax.devices()[0].platform == "cpu" else limit
        text += f", of {shared / 2**30:.2f} GiB"
        if most.total > shared:
            text += ": raise micro_batches, shard over more devices, or see jaxvl plan"
            return "error", text
        return ("warning" if most.total > 0.9 * shared else "ok"), text

    def rewards(self) -> tuple[str, str]:
        """Those that ask no endpoint, on a made-up batch: a right, a wrong, an empty and a long
        answer to the first rows."""
        chosen = [reward for reward in self.cfg.rewards if not endpoints(reward.fn)]
        names = [reward.name for reward in chosen]
        if not chosen:
            return "warning", "not called: all of them ask a judge"
        if self.processor is None or not self.items:
            lacks = "no row can be used" if self.processor else "the model's tokenizer is not there"
            return "warning", f"not called: {lacks}"
        texts = [t for item in self.items for t in _answers(str(item.example.answer))]
        ids = [self.processor.tokenize(text) for text in texts]
        got = Completions(texts, ids, np.ones(len(texts), bool))
        inputs = rollouts.reward_inputs(self.items, got, self.processor.box_frame)
        pool.start(pool.WorkerLimits.of(self.cfg.verify))
        start = time.perf_counter()
        scores = score(chosen, **inputs)
        seconds = time.perf_counter() - start
        means = np.nanmean(scores.values_NK, axis=0)
        said = ", ".join(f"{n} {x:.2f}" for n, x in zip(names, means, strict=True))
        return "ok", f"{len(texts)} made-up answers in {seconds:.1f} s, on average {said}"

    def judges(self) -> tuple[str, str]:
        """Whether the servers take a connection; nothing is asked."""
        found = [one for reward in self.cfg.rewards for one in endpoints(reward.fn)]
        for endpoint in found:
            url = urllib.parse.urlsplit(endpoint.url)
            port = url.port or {"https": 443}.get(url.scheme, 80)
            try:
                socket.create_connection((url.hostname, port), timeout=5).close()
            except OSError as error:
                return "error", f"{url.hostname}:{port} cannot be reached ({error})"
        return "ok", f"{len(found)} reachable" if found else "none"


def _answers(gold: str) -> list[str]:
    right = f"<think>x</think><answer>{gold}</answer>"
    return [right, right.replace(gold, "no idea"), "", "word " * 200]
