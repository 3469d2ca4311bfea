# SPDX-License-Identifier: Apache-2.0
"""A model to work with by hand: load, logits, generate, stream, logprobs, attention, save."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.sharding import Mesh

from jaxvl import arguments
from jaxvl.config import LoRA
from jaxvl.data import banned
from jaxvl.data import prompts as data_prompts
from jaxvl.data.prompts import Encoded, Processor
from jaxvl.distributed import multihost
from jaxvl.distributed.mesh import fetch, make_mesh, param_shardings, put_rows
from jaxvl.errors import UserError
from jaxvl.models import lora, partition, qwen_vl
from jaxvl.models.arch import Arch
from jaxvl.models.io import hf, peft
from jaxvl.models.io.find import checkpoint_dir
from jaxvl.models.io.hf_config import check_images, check_tokens
from jaxvl.models.layers import cast
from jaxvl.rl import batching, forward, learner, streaming
from jaxvl.rl.batch import Rollout
from jaxvl.rl.completions import check_drawn
from jaxvl.rl.sampler import cached_sampler
from jaxvl.rl.sampling import Banned, SamplingParams


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sampled answer. `tokens` include the stop token, `text` has no special tokens."""

    text: str
    tokens: list[int]
    logprobs: np.ndarray  # float32 [C], at the sampling temperature (1 when greedy)
    finish_reason: str  # "stop" or "length"


@dataclasses.dataclass
class VLM:
    """A vision-language model: `config`, `params` (a nested dict on `mesh`) and `processor`.

    Prompts are strings, rendered as they are (one <|image_pad|> an image), or lists of chat
    messages (rendered by the checkpoint's template). `images` holds a list of PIL images or paths
    for every prompt, [] where there is none; None means no images at all.

    Where the mesh lies on several processes, all of them call the same with the same arguments and
    get the same.
    """

    config: Arch
    params: dict[str, Any] = dataclasses.field(repr=False)
    processor: Processor = dataclasses.field(repr=False)
    mesh: Mesh
    dtype: str  # of the products
    hf_config: dict[str, Any] = dataclasses.field(repr=False)
    lora: LoRA | None = None  # what the adapters in `params` are, where it holds some

    @functools.cached_property
    def graphdef(self) -> nnx.GraphDef:
        """The structure whose leaves `params` holds, adapters included."""
        if self.lora:
            return lora.graphdef(self.config, self.lora)
        return qwen_vl.graphdef(self.config)

    def adapted(self, cfg: LoRA, seed: int = 0) -> VLM:
        """This model with fresh adapters, which change nothing yet; weights are shared with it."""
        if not isinstance(cfg, LoRA):
            raise UserError(f"adapted: expected a jaxvl.LoRA, found {arguments.found(cfg)}")
        with jax.set_mesh(self.mesh):
            fresh = lora.init(self.params, cfg, lora.keys(seed)[0])
        return dataclasses.replace(self, params=partition.combine(self.params, fresh), lora=cfg)

    def merged(self) -> VLM:
        """A model without adapters that computes the same: weights with one become float32 sums."""
        if not self.lora:
            return self
        return dataclasses.replace(self, params=lora.merge(self.params, self.lora), lora=None)

    def encode(self, prompts: Sequence[Any], images: Sequence[Sequence] | None) -> list[Encoded]:
        """Prompts with their images as tokens, patches and positions, on the host."""
        return [self.processor.encode(*pair) for pair in self._pairs(prompts, images)]

    def _pairs(
        self, prompts: Sequence[Any], images: Sequence[Sequence] | None
    ) -> list[tuple[Any, Sequence]]:
        """Each prompt with its images; UserError where they do not fit it, before any is opened."""
        prompts = arguments.items("prompts", prompts, "prompts")
        images = [[] for _ in prompts] if images is None else images
        if not isinstance(images, (list, tuple)):
            raise UserError(
                "images: expected a list for each prompt with its images, found "
                f"{arguments.found(images)}"
            )
        if len(images) != len(prompts):
            raise UserError(
                f"images: expected a list for each of the {len(prompts)} prompts, "
                f"found {len(images)}; give [] where a prompt has none"
            )
        for i, (prompt, row) in enumerate(zip(prompts, images, strict=True)):
            if not isinstance(row, (list, tuple)):
                raise UserError(
                    f"images: expected a list for each prompt, found {arguments.found(row)} for "
                    f"prompt {i}; put it in [], and give [] where there is none"
                )
            self.processor.prepare(prompt, row)
        return list(zip(prompts, images, strict=True))

    def logits(self, prompts: Sequence[Any], images: Sequence[Sequence] | None = None) -> list:
        """Next-token logits at every position: float32 [T_i, V] for each prompt, padding off."""
        run = forward.logits(self.graphdef, self.dtype)
        pairs = self._pairs(prompts, images)
        results: list[Any] = [None] * len(pairs)
        with jax.set_mesh(self.mesh):
            for prompt, numbers, encoded in batching.batches(self, pairs, all_logits=True):
                logits = fetch(run(self.params, prompt))
                for row, i in enumerate(numbers):
                    results[i] = logits[row, : len(encoded[row].tokens)]
        return results

    def generate(
        self,
        prompts: Sequence[Any],
        images: Sequence[Sequence] | None = None,
        n: int = 1,
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
    ) -> list[list[Completion]]:
        """`n` completions of every prompt; temperature 0 is greedy.

        Prompts are encoded while the device works, a few batches ahead of it. How many make a batch
        follows the mesh and the memory; no completion depends on it.
        """
        how = self.decoding(n, max_new_tokens, temperature, top_p, top_k)
        run = cached_sampler(self.graphdef, how, self.dtype)
        key = jax.random.key(arguments.whole("seed", seed, *arguments.SEEDS))
        pairs = self._pairs(prompts, images)
        results: list[list[Completion]] = [[] for _ in pairs]
        with jax.set_mesh(self.mesh):
            for prompt, numbers, _ in batching.batches(self, pairs, n, max_new_tokens):
                rollout = jax.tree.map(fetch, run(self.params, prompt, key))
                check_drawn(rollout, numbers)
                for row, i in enumerate(numbers):
                    results[i] = [self.completion(rollout, row, j) for j in range(n)]
        return results

    def stream(
        self,
        prompt: Any,
        images: Sequence = (),
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        number: int = 0,
    ) -> Iterator[str]:
        """The answer to one prompt in pieces, while it is made.

        Together they are the text that `generate` returns for the prompt (alone or first of its
        call) with the same settings, as completion `number` of its n.
        """
        how = self.decoding(1, max_new_tokens, temperature, top_p, top_k)
        seed = arguments.whole("seed", seed, *arguments.SEEDS)
        number = arguments.whole("number", number, 0)
        with jax.set_mesh(self.mesh):
            ((rows, _, _),) = batching.batches(self, self._pairs([prompt], [images]))
        rows = dataclasses.replace(rows, completion=rows.completion + number)
        sampler = cached_sampler(self.graphdef, how, self.dtype)
        made = streaming.rollouts(sampler, self.params, rows, jax.random.key(seed), self.mesh)
        return streaming.pieces(streaming.texts(made, self.processor.decode))

    def logprobs(
        self,
        prompts: Sequence[Any],
        images: Sequence[Sequence] | None,
        completions: Sequence[Sequence[str | Sequence[int] | Completion]],
        temperature: float = 1.0,
    ) -> list[list[np.ndarray]]:
        """log p of every completion token: float32 [C_i] for each completion of each prompt.

        `completions` holds a list for every prompt, of texts, token ids or `Completion`s.
        `temperature` is the one they were sampled at; 1 for greedy ones.
        """
        temperature = arguments.number("temperature", temperature, 0)
        if not temperature:
            raise UserError("logprobs: temperature=0; expected more than 0 (1 for greedy ones)")
        prompts = arguments.items("prompts", prompts, "prompts")
        tokens = self._tokens(completions, len(prompts))
        g = max((len(row) for row in tokens), default=0)
        longest = max((len(c) for row in tokens for c in row), default=0)
        if not longest:
            return [[np.zeros(0, np.float32) for _ in row] for row in tokens]
        C = data_prompts.round_up(longest, 16)
        policy = learner.Policy(self.graphdef, self.dtype, "block", temperature, chunk=128)
        run = forward.logprobs(policy)
        results: list[list[np.ndarray]] = [[] for _ in tokens]
        with jax.set_mesh(self.mesh):
            pairs = self._pairs(prompts, images)
            for prompt, numbers, _ in batching.batches(self, pairs, g, C):
                padded = np.full((prompt.tokens.shape[0], g, C), self.processor.pad_id, np.int32)
                for row, i in enumerate(numbers):
                    for j, completion in enumerate(tokens[i]):
                        padded[row, j, : len(completion)] = completion
                padded = put_rows(padded, self.mesh, whole=True)
                logps = fetch(run(self.params, prompt, padded))
                for row, i in enumerate(numbers):
                    results[i] = [logps[row, j, : len(c)] for j, c in enumerate(tokens[i])]
        return results

    def _tokens(self, completions: Any, prompts: int) -> list[list[list[int]]]:
        """The token ids of each prompt's completions; UserError for what is none."""
        rows = arguments.items("completions", completions, "lists, one for each prompt")
        if len(rows) != prompts or not all(isinstance(row, (list, tuple)) for row in rows):
            shown = ", ".join(arguments.found(row) for row in rows[:5])
            raise UserError(
                f"completions: expected a list for each of the {prompts} prompts, found "
                f"{len(rows)}: {shown}"
            )
        return [[self._ids(one) for one in row] for row in rows]

    def _ids(self, completion: Any) -> list[int]:
        """The token ids of one completion: a text, ids, or a `Completion`."""
        if isinstance(completion, Completion):
            completion = completion.tokens
        if isinstance(completion, str):
            return self.processor.tokenize(completion)
        what = "texts, token ids or Completions of `generate`"
        ids, vocab = arguments.items("a completion", completion, what), self.config.text.vocab
        for token in ids:
            whole = type(token) is int or isinstance(token, np.integer)
            if not whole or not 0 <= token < vocab:
                raise UserError(
                    f"completions: the token id {arguments.found(token)}; expected whole numbers "
                    f"from 0 to {vocab - 1}"
                )
        return [int(token) for token in ids]

    def attention(self, prompt: Any, images: Sequence = (), layer: int = -1) -> np.ndarray:
        """What each token of a prompt looks at in one of the decoder's layers.

        The softmax of its heads, float32 [N, T, T] (head, query, key); each row sums to 1. A
        negative `layer` counts from the last. `encode([prompt], [images])[0]` says which tokens
        stand for which merged patch (`slots`) and how those lie (`grids`).
        """
        layers, layer = self.config.text.layers, arguments.whole("layer", layer)
        if not -layers <= layer < layers:
            raise UserError(f"layer {layer}: the decoder has {layers}, 0 to {layers - 1}")
        run = forward.attention(self.graphdef, self.dtype)
        with jax.set_mesh(self.mesh):
            ((rows, _, encoded),) = batching.batches(self, self._pairs([prompt], [images]))
            length = len(encoded[0].tokens)
            weights = fetch(run(self.params, rows, jnp.int32(layer % layers)))[0]
        return rearrange(weights, "K G Q S -> (K G) Q S")[:, :length, :length]

    def save(self, path: str | Path) -> None:
        """A Hugging Face checkpoint directory: config, safetensors, tokenizer, processor files.

        Adapters are folded into the weights. All is written in the widest dtype of any parameter.
        What is there already is not written over: `path` is new, or an empty directory.
        """
        path, params = _new_directory(path), self.merged().params
        widest = jnp.result_type(*jax.tree.leaves(params))
        hf.save_params(path, cast(params, widest), self.hf_config)
        if jax.process_index() == 0:
            self.processor.save(path)

    def save_adapters(self, path: str | Path, base: str | None = None) -> None:
        """The adapters alone in PEFT's format; `base` names the checkpoint that they belong to."""
        if not self.lora:
            raise UserError("save_adapters: this model has none; `save` writes the model")
        peft.save(_new_directory(path), self.params, self.lora, base)

    def decoding(
        self,
        n: int,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        top_k: int,
        slots: int = 0,
        ban: Sequence[str] = (),
    ) -> SamplingParams:
        """What a sampler for this model is made for; `ban` are texts that it never writes."""
        top_p, vocab = arguments.number("top_p", top_p, 0, 1), self.config.text.vocab
        if not top_p:
            raise UserError("top_p=0: expected a number above 0, up to 1 (all tokens)")
        return SamplingParams(
            completions=arguments.whole("n", n, 1),
            max_new_tokens=arguments.whole("max_new_tokens", max_new_tokens, 1),
            stop_ids=tuple(self.processor.stop_ids),
            pad_id=self.processor.pad_id,
            never_ids=self.config.never_sampled,
            temperature=arguments.number("temperature", temperature, 0),
            top_p=top_p,
            top_k=arguments.whole("top_k", top_k, 0),
            slots=slots,
            banned=Banned(banned.table(self.processor.tokenizer, ban, vocab)) if ban else None,
        )

    def completion(self, rollout: Rollout, row: int, i: int, most: int | None = None) -> Completion:
        """Completion `i` of a row of a host rollout, as far as it is made; of its tokens the first
        `most`."""
        whole = int(rollout.mask[row, i].sum())
        length = whole if most is None else min(whole, most)
        tokens = rollout.tokens[row, i, :length].tolist()
        return Completion(
            text=self.processor.decode(tokens),
            tokens=tokens,
            logprobs=np.asarray(rollout.logps[row, i, :length]),
            finish_reason="stop" if rollout.finished[row, i] and length == whole else "length",
        )


def _new_directory(path: Any) -> Path:
    """See `arguments.new_directory`; the first process looks, which is the one that writes."""
    multihost.agree(lambda: jax.process_index() or arguments.new_directory(path))
    return arguments.path("the directory to write", path)


def load(
    path_or_hub_id: str | Path,
    dtype: str = "bfloat16",
    mesh: Mesh | None = None,
    *,
    float32_head: bool = False,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> VLM:
    """A model from a Hugging Face checkpoint directory, a hub id, or the export of a run. Arguments
    are those of `jaxvl.load` (`jaxvl.checkpoints.start`), which takes the steps of a run too."""
    check_settings(dtype, mesh, float32_head, min_pixels=min_pixels, max_pixels=max_pixels)
    path = checkpoint_dir(path_or_hub_id)
    config = hf.read_config(path)
    arch = hf.arch_from_config(config)
    processor = Processor.from_pretrained(path, min_pixels=min_pixels, max_pixels=max_pixels)
    check_tokens(path, config, processor.generation_config, processor.tokenizer)
    check_images(path, arch.vision, processor.image)
    arch = dataclasses.replace(arch, text=dataclasses.replace(arch.text, float32_head=float32_head))
    mesh = make_mesh(devices=jax.devices()[:1]) if mesh is None else mesh
    with jax.set_mesh(mesh):
        shapes = qwen_vl.abstract_params(arch)
        qwen_vl.check_mesh(arch, mesh)
        wanted = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            jax.eval_shape(lambda p: qwen_vl.to_compute_dtype(p, dtype, arch.text), shapes),
            param_shardings(shapes, mesh),
        )
        params = hf.load_params(path, wanted)
    return VLM(arch, params, processor.with_dtype(dtype), mesh, dtype, config)


def check_settings(dtype: Any, mesh: Any, float32_head: Any, **pixels: Any) -> None:
    """UserError for arguments of `load` of a wrong kind."""
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype {dtype!r}: expected 'float32' or 'bfloat16'")
    if mesh is not None and not isinstance(mesh, Mesh):
        raise UserError(
            f"mesh: expected one of jaxvl.distributed.mesh.make_mesh, found {arguments.found(mesh)}"
        )
    arguments.flag("float32_head", float32_head)
    for name, value in pixels.items():
        if value is not None:
            arguments.whole(name, value, 1)
