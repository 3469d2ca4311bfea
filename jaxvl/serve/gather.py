# SPDX-License-Identifier: Apache-2.0
"""Requests that wait while the devices work are decoded together, as soon as these are free.

Those of a batch have the same sampling settings and prompts of one size. A reply depends on its own
request and seed alone: it is what `VLM.generate` makes of the prompt by itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import traceback
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxvl.data.prompts import Encoded, step_up
from jaxvl.distributed.mesh import row_shards
from jaxvl.rl import batching, streaming
from jaxvl.rl.batch import Rollout
from jaxvl.rl.completions import lost_prompts
from jaxvl.rl.sampler import cached_sampler
from jaxvl.rl.sampling import SamplingParams
from jaxvl.vlm import VLM, Completion


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A choice of a reply, as far as it is made."""

    completion: Completion
    ended: bool


# The choices of a reply, or why there is none.
News = list[Drawn] | str


@dataclasses.dataclass(eq=False)
class Job:
    """A request on its way through the devices. `news` gets its choices as they grow where it
    `streams`, once all have ended where not."""

    encoded: Encoded
    how: SamplingParams
    most: int  # tokens of a choice
    seed: int
    streams: bool
    news: asyncio.Queue[News] = dataclasses.field(default_factory=asyncio.Queue)
    gone: bool = False  # nobody waits for it any more
    done: bool = False

    @property
    def kind(self) -> tuple[SamplingParams, batching.Size]:
        """What requests of one batch have in common."""
        return self.how, batching.size_of(self.encoded)


def tokens_for(most: int, limit: int) -> int:
    """The tokens that a sampler is made for which draws `most`: a few sizes, so that few programs
    are compiled. What is drawn beyond `most` is left off, and what is before does not depend on
    it."""
    return min(step_up(most), limit)


class Gather:
    """The devices' one thread, and the jobs that wait for it; `batch` of them go together."""

    def __init__(self, vlm: VLM, batch: int):
        self.vlm, self.batch = vlm, batch
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Job] = []
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def add(self, job: Job) -> None:
        """Puts a job behind those that wait."""
        with self._change:
            self._waiting.append(job)
            self._change.notify()

    def close(self, seconds: float) -> bool:
        """Ends the thread after the tokens it is at; whether it has ended within so long."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while jobs := self._next():
            try:
                self._decode(jobs)
            except Exception as error:  # a batch that does not fit the memory, say: others may
                traceback.print_exc()
                self._fail(jobs, f"{type(error).__name__}: {error!s:.300}")

    def _next(self) -> list[Job]:
        """The job that has waited for longest, with those that can go with it; none at the end."""
        with self._change:
            while True:
                self._waiting = [job for job in self._waiting if not job.gone]
                if self._closed:
                    return []
                if self._waiting:
                    break
                self._change.wait()
            first = self._waiting[0]
            most = min(self.batch, self._fitting(first))
            jobs = [job for job in self._waiting if job.kind == first.kind][:most]
            self._waiting = [job for job in self._waiting if job not in jobs]
            return jobs

    def _fitting(self, job: Job) -> int:
        """How many such requests fit the devices' memory."""
        how, size = job.kind
        rows = batching.rows_a_device(self.vlm, size, how.completions, how.max_new_tokens)
        return rows * row_shards(self.vlm.mesh)

    def _decode(self, jobs: Sequence[Job]) -> None:
        """All choices of jobs of one kind; stops where nobody waits for what is left."""
        vlm, how = self.vlm, jobs[0].how
        with jax.set_mesh(vlm.mesh):
            # Each is the first prompt of its own call of `generate`.
            prompt = batching.together(vlm, [job.encoded for job in jobs], [0] * len(jobs))
        seeds = [job.seed for job in jobs]
        seeds += seeds[:1] * (len(prompt.tokens) - len(jobs))
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        sampler = cached_sampler(vlm.graphdef, how, vlm.dtype)
        for rollout in streaming.rollouts(sampler, vlm.params, prompt, keys, vlm.mesh):
            lost = lost_prompts(rollout, len(rollout.mask))
            for row, job in enumerate(jobs):
                if row in lost:
                    self._fail([job], "what the model makes of the prompt is no distribution (NaN)")
                elif not job.done and not job.gone:
                    self._tell(job, rollout, row)
            if self._closed or all(job.done or job.gone for job in jobs):
                return

    def _tell(self, job: Job, rollout: Rollout, row: int) -> None:
        ended = rollout.finished[row] | (rollout.mask[row].sum(-1) >= job.most)
        job.done = bool(ended.all())
        if job.done or job.streams:
            choices = [
                Drawn(self.vlm.completion(rollout, row, i, job.most), bool(ended[i]))
                for i in range(job.how.completions)
            ]
            self._loop.call_soon_threadsafe(job.news.put_nowait, choices)

    def _fail(self, jobs: Sequence[Job], why: str) -> None:
        for job in jobs:
            if not job.done:
                job.done = True
                self._loop.call_soon_threadsafe(job.news.put_nowait, why)
