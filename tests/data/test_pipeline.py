# SPDX-License-Identifier: Apache-2.0
"""The stream of prompts: one order for any number of processes, resumed where it stopped."""

import itertools
import json
import threading

import pytest

from jaxvl.data.example import Example
from jaxvl.data.pipeline import batches
from jaxvl.errors import UserError

EXAMPLES = [Example(id=str(i), question="q", answer="a") for i in range(7)]


def stream(count, examples=EXAMPLES, make=lambda position, example: (position, example.id), **kw):
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


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shard", [{}, dict(process_index=1, process_count=2)])
def test_a_resumed_stream_goes_on_where_it_stopped(workers, shard):
    settings = dict(prompts=3, seed=5, shuffle=True, workers=workers, **shard)
    make = lambda position, example: (position, example.id)  # noqa: E731
    whole = stream(8, workers=workers, **shard)
    for stop in (0, 1, 5):
        first = batches(EXAMPLES, make, **settings)
        for _ in range(stop):
            next(first)
        state = json.loads(json.dumps(first.get_state()))
        resumed = batches(EXAMPLES, make, **settings)
        resumed.set_state(state)
        assert [next(resumed) for _ in range(8 - stop)] == whole[stop:]


def test_making_runs_in_threads_and_its_errors_arrive():
    names = set()

    def make(position, example):
        names.add(threading.current_thread().name)
        if position == 7:
            raise UserError(f"example {example.id} is bad")
        return position

    iterator = batches(EXAMPLES, make, prompts=3, seed=0, shuffle=False, workers=2)
    assert [next(iterator), next(iterator)] == [[0, 1, 2], [3, 4, 5]]
    assert threading.current_thread().name not in names
    with pytest.raises(UserError, match="example 0 is bad"):
        next(iterator)


def test_no_examples_is_an_error():
    with pytest.raises(UserError, match="no examples"):
        stream(1, examples=[])
