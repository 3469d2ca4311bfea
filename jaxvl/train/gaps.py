# SPDX-License-Identifier: Apache-2.0
"""How far the learner's log-probability of each sampled token is from the sampler's, kept beside a
step's rollouts: `rollouts/gaps/step_N.jsonl`, a line a prompt, two bytes a token.

It costs no pass of its own: the first update of a step computes the learner's, and where more than
one follows and the sampling is corrected, they are made before it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from einops import rearrange

from jaxvl.config import GRPO
from jaxvl.distributed.mesh import DataShard
from jaxvl.rl import learner
from jaxvl.rl.batch import TrainBatch
from jaxvl.rl.completions import Completions
from jaxvl.train.rollouts import ScoredRollout, share_file

# A gap's byte is its sign and, by tenths of a power of ten from 1e-6 on, its size.
FLOOR, LEVELS, UNKNOWN = 1e-6, 10, -128


class TokenLengths:
    """How many characters each token adds to its text. What a token is decoded to is kept."""

    def __init__(self, decode: Callable[[Sequence[int]], str]):
        self._decode = decode
        self._known: dict[int, int] = {}

    def of_all(self, got: Completions) -> list[list[int] | None]:
        """Of every completion."""
        return [self.of(ids, text) for ids, text in zip(got.ids, got.texts, strict=True)]

    def of(self, ids: Sequence[int], text: str) -> list[int] | None:
        """Of the tokens of `text`. A character whose bytes are of several tokens is the last one's.
        None where the tokens do not make up the text one after another."""
        found: list[int] = []
        begun: list[int] = []
        for token in ids:
            length = self._known.get(token) if not begun else None
            if length is None:
                piece = self._decode([*begun, token])
                if piece.endswith("\ufffd"):  # the next token has the rest of its bytes
                    begun.append(token)
                    found.append(0)
                    continue
                length = len(piece)
                if not begun:
                    self._known[token] = length
            begun = []
            found.append(length)
        return found if sum(found) == len(text) and max(found, default=0) < 256 else None


def by_completion(
    sampled: ScoredRollout,
    chosen: np.ndarray,
    batch: TrainBatch,
    cfg: GRPO,
    first_MRgC: np.ndarray,
    shards: int = 1,
) -> np.ndarray:
    """[N, C], NaN where it is not known: `first_MRgC` is the stat `TOKEN_GAP` of a step's first
    update, whose rows are those of `batch` (the prompts `chosen`) in the order they are learnt
    in, which lie in so many `shards`."""
    old_RgC, mask_RgC = sampled.rollout.logps, sampled.rollout.mask
    if "own_logps" in sampled.logps:
        gap_RgC = np.where(mask_RgC, sampled.logps["own_logps"] - old_RgC, np.nan)
    else:
        first_RgC = rearrange(first_MRgC, "M R g C -> (M R) g C")
        rows_Pr = rearrange(np.arange(len(old_RgC)), "(P r) -> P r", P=len(sampled.items))
        rows_R = rearrange(rows_Pr[chosen], "P r -> (P r)")
        rows_R = rows_R[learner.live_order(batch, cfg, shards)]
        gap_RgC = np.full(old_RgC.shape, np.nan, np.float32)
        gap_RgC[rows_R[: len(first_RgC)]] = first_RgC
    return rearrange(gap_RgC, "R g C -> (R g) C")


def codes(gap: np.ndarray) -> np.ndarray:
    """Gaps as int8: 0 below `FLOOR`, else sign * (1 + LEVELS * log10(|gap| / FLOOR)), rounded."""
    with np.errstate(divide="ignore"):
        level = 1 + np.rint(LEVELS * np.log10(np.abs(gap) / FLOOR))
    signed = np.sign(gap) * np.clip(level, 0, 127)
    return np.where(np.isnan(gap), UNKNOWN, signed).astype(np.int8)


def values(packed: str) -> np.ndarray:
    """The gaps of a completion's codes as they are in the file: NaN where unknown, 0 below
    `FLOOR`."""
    found = np.frombuffer(base64.b64decode(packed), np.int8).astype(np.float64)
    size = FLOOR * 10 ** ((np.abs(found) - 1) / LEVELS)
    return np.where(found == UNKNOWN, np.nan, np.sign(found) * size)


def write(
    run_dir: Path,
    step: int,
    sampled: ScoredRollout,
    gap_NC: np.ndarray,
    lengths: Sequence[Sequence[int] | None],
    share: DataShard,
) -> None:
    """The file of a process: of each prompt {"prompt_id", "completions": [[lengths, codes], ..]},
    both bytes in base64; null for a completion without a gap. `lengths` are those of its tokens."""
    if not share.is_lead:
        return
    got, group = sampled.got, len(sampled.got.ids) // len(sampled.items)
    codes_NC, lines = codes(gap_NC), []
    for p, item in enumerate(sampled.items):
        completions: list[list[str] | None] = []
        for n in range(p * group, (p + 1) * group):
            of = codes_NC[n, : len(got.ids[n])]
            sizes = lengths[n] if (of != UNKNOWN).any() else None
            completions.append(
                None if sizes is None else [_base64(bytes(sizes)), _base64(of.tobytes())]
            )
        lines.append(json.dumps({"prompt_id": item.position, "completions": completions}) + "\n")
    folder = run_dir / "rollouts" / "gaps"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / share_file(step, share)).write_text("".join(lines), encoding="utf-8")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
