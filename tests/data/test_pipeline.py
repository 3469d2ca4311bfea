# SPDX-License-Identifier: Apache-2.0
"""The stream of prompts: one order for any number of processes, resumed where it stopped."""

import dataclasses
import itertools
import json
import threading

import numpy as np
import pytest

from jaxvl.data.example import Example
from jaxvl.data.mixture import Mixture, Part
from jaxvl.data.pipeline import batches, share
from jaxvl.errors import UserError

EXAMPLES = [Example(id=str(i), question="q", answer="a") for i in range(7)]


def first(position, candidates):
    return position, next(candidates).id


def stream(count, examples=EXAMPLES, make=first, **kw):
    settings = dict(prompts=3, seed=5, shuffle=True, workers=2)
    return list(itertools.islice(batches(examples, make, **(settings | kw)), count))


def test_each_epoch_has_every_example_once_in_a_new_order():
    items = [item for batch in stream(14) for item in batch]
    assert [position for position, _ in items] == list(range(42))
    epochs = [[name for _, name in items[start : start + 7]] for start in range(0, 42, 7)]
    assert all(sorted(epoch) == sorted(e.id for e in EXAMPLES) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert epochs[0] != [example.id for example in EXAMPLES]


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    assert stream(6) == stream(6, workers=0) == stream(6, workers=4)
    assert stream(6) != stream(6, seed=6)
    in_order = [(position, str(position % 7)) for position in range(18)]
    assert sum(stream(6, shuffle=False), []) == in_order


@pytest.mark.parametrize("count", [2, 3])
def test_shards_are_disjoint_and_together_the_whole_stream(count):
    shards = [stream(4, process_index=p, process_count=count) for p in range(count)]
    for step in range(4):
        together = sorted(item for shard in shards for item in shard[step])
        whole = stream(4, prompts=3 * count)[step]
        assert together == whole


@pytest.mark.parametrize(("count", "blocks"), [(1, 3), (2, 1), (2, 3), (4, 3), (4, 2)])
def test_every_block_of_a_step_is_cut_among_the_processes(count, blocks):
    """So mini-batches hold the same prompts in the same order, whatever the count."""
    shares = [share(24, index, count, blocks).reshape(-1, 24 // blocks // count)
              for index in range(count)]  # fmt: skip
    assert len(shares[0]) == blocks
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), np.arange(24).reshape(blocks, -1))


def test_where_blocks_do_not_fit_there_are_fewer():
    assert [share(6, index, 2, 2).tolist() for index in (0, 1)] == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shard", [{}, dict(process_index=1, process_count=2)])
def test_a_resumed_stream_goes_on_where_it_stopped(workers, shard):
    settings = dict(prompts=3, seed=5, shuffle=True, workers=workers, **shard)
    whole = stream(8, workers=workers, **shard)
    for stop in (0, 1, 5):
        stopped = batches(EXAMPLES, first, **settings)
        for _ in range(stop):
            next(stopped)
        state = json.loads(json.dumps(stopped.get_state()))
        resumed = batches(EXAMPLES, first, **settings)
        resumed.set_state(state)
        assert [next(resumed) for _ in range(8 - stop)] == whole[stop:]


def test_making_runs_in_threads_and_its_errors_arrive():
    names = set()

    def make(position, candidates):
        names.add(threading.current_thread().name)
        if position == 7:
            raise UserError(f"example {next(candidates).id} is bad")
        return position

    iterator = batches(EXAMPLES, make, prompts=3, seed=0, shuffle=False, workers=2)
    assert [next(iterator), next(iterator)] == [[0, 1, 2], [3, 4, 5]]
    assert threading.current_thread().name not in names
    with pytest.raises(UserError, match="example 0 is bad"):
        next(iterator)


def test_no_examples_is_an_error():
    with pytest.raises(UserError, match="no examples"):
        stream(1, examples=[])


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 3)])
def test_a_stream_goes_on_with_another_number_of_processes(before, after):
    """The positions that follow are the same, though they are dealt to others."""
    settings = dict(prompts=6 // before, seed=5, shuffle=True, workers=2)
    shards = [
        batches(EXAMPLES, first, process_index=p, process_count=before, **settings)
        for p in range(before)
    ]
    for _ in range(3):
        states = [next(shard) and shard.get_state() for shard in shards]
    assert states == [{"position": 18}] * before
    settings["prompts"] = 6 // after
    found = []
    for p in range(after):
        shard = batches(EXAMPLES, first, process_index=p, process_count=after, **settings)
        shard.set_state(states[0])
        found += next(shard)
    assert sorted(found) == stream(4, prompts=6)[3]


def skipping(*bad):
    """Takes the first candidate that is not among `bad`."""

    def make(position, candidates):
        return position, next(c.id for c in candidates if c.id not in bad)

    return make


def test_a_stand_in_depends_on_its_position_alone():
    whole, holes = (sum(stream(30, make=make), []) for make in (first, skipping("2", "5")))
    for (position, id), (_, stand_in) in zip(whole, holes, strict=True):
        assert stand_in not in ("2", "5")
        assert (stand_in == id) == (id not in ("2", "5")), position
    assert len({s for (_, i), (_, s) in zip(whole, holes, strict=True) if i == "2"}) > 1
    assert holes == sum(stream(30, make=skipping("2", "5"), workers=0), [])
    shards = [stream(15, make=skipping("2", "5"), process_index=p, process_count=2) for p in (0, 1)]
    assert sorted(sum(sum(shards, []), [])) == sum(stream(30, make=skipping("2", "5")), [])


@dataclasses.dataclass(frozen=True)
class Few:
    """`size` examples named by a letter."""

    name: str
    size: int

    def load(self):
        return [Example(id=f"{self.name}{i}", question="q", answer="a") for i in range(self.size)]


MIXTURE = Mixture((Part(Few("a", 3), 1.0), Part(Few("b", 10), 3.0), Part(Few("c", 5), 0.5)))


def test_a_mixture_deals_by_weight_and_every_part_has_its_own_epochs():
    items = sum(stream(180, MIXTURE.load()), [])  # 540 prompts, of which 120, 360 and 60
    by_part = {name: [id for _, id in items if id[0] == name] for name in "abc"}
    assert [len(ids) for ids in by_part.values()] == [120, 360, 60]
    for name, size in (("a", 3), ("b", 10), ("c", 5)):
        ids = by_part[name]
        epochs = [ids[start : start + size] for start in range(0, len(ids), size)]
        assert all(len(set(epoch)) == size for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1
    # no stretch of prompts lacks a part: the shares hold all along
    for start in range(0, 540, 9):
        names = [id[0] for _, id in items[start : start + 9]]
        assert all(abs(names.count(n) - k) <= 1 for n, k in (("a", 2), ("b", 6), ("c", 1)))


def test_a_mixture_is_dealt_to_processes_and_resumed_as_anything_else():
    whole = stream(8, MIXTURE.load(), prompts=4)
    shards = [
        stream(8, MIXTURE.load(), prompts=2, process_index=p, process_count=2) for p in (0, 1)
    ]
    assert [sorted(sum(step, [])) for step in zip(*shards, strict=True)] == whole
    settings = dict(prompts=4, seed=5, shuffle=True, workers=2)
    resumed = batches(MIXTURE.load(), first, **settings)
    resumed.set_state({"position": 20})
    assert [next(resumed) for _ in range(3)] == whole[5:]


def test_a_stand_in_comes_from_the_same_part():
    bad = {f"a{i}" for i in range(2)}
    for (_, id), (_, stand_in) in zip(
        sum(stream(60, MIXTURE.load()), []),
        sum(stream(60, MIXTURE.load(), make=skipping(*bad)), []),
        strict=True,
    ):
        assert stand_in[0] == id[0] and stand_in not in bad
