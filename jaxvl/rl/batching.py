# SPDX-License-Identifier: Apache-2.0
"""Prompts by the thousand on a mesh, a batch at a time: encoded while the device works."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from jaxvl.data import prompts as data_prompts
from jaxvl.data.prompts import Encoded
from jaxvl.distributed.mesh import put_rows, row_shards
from jaxvl.models.arch import Arch
from jaxvl.models.inputs import Prompt

ROWS_A_DEVICE = 16  # prompts that a call works on together, at most
SHARE = 0.5  # of the memory beside the weights that a batch may take
READERS = 4  # threads that open images and tokenize
Size = tuple[int, int]  # tokens and patches of a row, padding counted
_UNKNOWN = 4 * 2**30  # memory of a device that does not say how much it has


class BatchedModel(Protocol):
    """What is needed of a `VLM`."""

    config: Arch
    params: dict[str, Any]
    processor: data_prompts.Processor
    mesh: Mesh
    dtype: str


def batches(
    vlm: BatchedModel,
    pairs: Sequence[tuple[Any, Sequence]],
    n: int = 0,
    new: int = 0,
    all_logits: bool = False,
) -> Iterator[tuple[Prompt, list[int], list[Encoded]]]:
    """Prompts on the mesh, as many as fit, with their numbers in `pairs` and as they are on the
    host. Each is to have `n` completions of `new` tokens, or all its tokens have logits.

    Prompts of a size go together; sizes and numbers of rows are rounded up so that few programs
    are compiled. The rows that fill up repeat a prompt and have no number. A size follows from
    its prompt alone, so that neighbours change nothing.
    """
    shards = row_shards(vlm.mesh)
    same: dict[Size, list[tuple[int, Encoded]]] = {}
    waiting = 0

    def batch(size: Size) -> tuple[Prompt, list[int], list[Encoded]]:
        numbers, encoded = (list(x) for x in zip(*same.pop(size), strict=True))
        return together(vlm, encoded, numbers), numbers, encoded

    for number, encoded in enumerate(_encoded(vlm, pairs)):
        size = size_of(encoded)
        same.setdefault(size, []).append((number, encoded))
        waiting += 1
        full = shards * rows_a_device(vlm, size, n, new, all_logits)
        if len(same[size]) == full or waiting == 4 * shards * ROWS_A_DEVICE:
            size = size if len(same[size]) == full else max(same, key=lambda s: len(same[s]))
            waiting -= len(same[size])
            yield batch(size)
    for size in sorted(same):
        yield batch(size)


def size_of(encoded: Encoded) -> Size:
    """The tokens and patches to which a prompt is padded."""
    step_up = data_prompts.step_up
    return step_up(len(encoded.tokens)), step_up(len(encoded.segments))


def together(vlm: BatchedModel, encoded: Sequence[Encoded], numbers: Sequence[int]) -> Prompt:
    """Prompts of one size on the mesh, and behind them repetitions of the first that fill up."""
    shards, count = row_shards(vlm.mesh), len(encoded)
    fill = (shards << max(0, -(-count // shards) - 1).bit_length()) - count
    tokens, patches = size_of(encoded[0])
    arrays = data_prompts.collate(
        [*encoded, *[encoded[0]] * fill],
        [*numbers, *[numbers[0]] * fill],
        pad_id=vlm.processor.pad_id,
        prompt_bucket=tokens,
        patch_bucket=patches,
    )
    return put_rows(Prompt.from_arrays(arrays), vlm.mesh, whole=True)


def _encoded(vlm: BatchedModel, pairs: Sequence[tuple[Any, Sequence]]) -> Iterator[Encoded]:
    """Prompts in order, made in threads, a few ahead of who takes them."""
    processor = vlm.processor.as_bytes()
    with ThreadPoolExecutor(READERS) as threads:
        ahead: deque[Future] = deque()
        for pair in pairs:
            ahead.append(threads.submit(processor.encode, *pair))
            if len(ahead) > 2 * ROWS_A_DEVICE:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def rows_a_device(vlm: BatchedModel, size: Size, n: int, new: int, all_logits: bool = False) -> int:
    """How many prompts of a size a device works on together: a power of two up to ROWS_A_DEVICE,
    by what a row takes in its memory: the cache of its tokens, the tower's activations, logits.
    Weights and memory are the same in every process, what is free at a time may not be."""
    text, vision = vlm.config.text, vlm.config.vision
    T, patches = size
    width = 2 if vlm.dtype == "bfloat16" else 4
    cache = 2 * text.layers * text.kv_heads * text.head_dim * width * (T + n * new)
    logits = 2 * 4 * text.vocab * (T if all_logits else max(n, 1))
    tower = 4 * patches * (vision.patch_values + 4 * (vision.dim + vision.hidden))
    device = vlm.mesh.local_devices[0]
    stats = device.memory_stats() or {}
    held = sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(vlm.params)
    )
    room = SHARE * max(stats.get("bytes_limit", held + _UNKNOWN) - held, 0)
    rows = max(1, min(ROWS_A_DEVICE, int(room / (cache + logits + tower))))
    return 1 << rows.bit_length() - 1
