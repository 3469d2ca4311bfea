# SPDX-License-Identifier: Apache-2.0
"""Selection by perplexity: the highest mean over the scorers, the same wherever it was stopped."""

import math

import numpy as np
import pytest

from jaxvl.curate.perplexity import PerplexityScorer, perplexities, select
from jaxvl.curate.rows import read
from jaxvl.errors import UserError
from tests.curate.sets import jsonl, picture

N = 23


@pytest.fixture
def rows(tmp_path):
    for i in range(N):
        picture(tmp_path / "images" / "s" / f"{i}.png", i)
    return jsonl(
        tmp_path / "sft.jsonl",
        [
            {
                "id": f"s-{i}",
                "source": "s",
                "image": f"s/{i}.png",
                "question": f"q{i}?",
                "answer": "x" * (i * 7 % N + 1),
            }
            for i in range(N)
        ],
    )


def scorer(name, value, calls=None, dies_at=None):
    """A scorer that gives each letter of an answer -value(length) as its log-probability."""
    calls = [] if calls is None else calls

    def logprobs(prompts, images, completions):
        if dies_at is not None and len(calls) >= dies_at:
            raise KeyboardInterrupt
        calls.append(len(prompts))
        assert all(prompt[0]["role"] == "system" for prompt in prompts)
        assert all(len(row) == 1 for row in images)
        return [[np.full(len(text), -value(len(text)), np.float32)] for (text,) in completions]

    return PerplexityScorer(name, lambda: logprobs)


def test_the_highest_mean_of_the_perplexities_is_kept(rows, tmp_path):
    one, two = (lambda n: n / 10), (lambda n: (n - 12) ** 2 / 40)
    done = select(rows, tmp_path / "out", [scorer("a", one), scorer("b", two)], [3, 10], batch=4)
    given = list(read(rows))

    def mean(row):
        n = len(row["answer"])
        return (math.exp(np.float32(one(n))) + math.exp(np.float32(two(n)))) / 2

    order = sorted(given, key=mean, reverse=True)
    for size in (3, 10):
        kept = list(read(tmp_path / "out" / f"sft-{size}.jsonl"))
        wanted = {row["id"] for row in order[:size]}
        assert kept == [row for row in given if row["id"] in wanted]  # in the input's order
    assert done["dropped"] == {"perplexity is too low": N - 10} and done["rows_in"] == N


@pytest.mark.parametrize("dies_at", [0, 1, 3, 5, 6])
def test_stopped_and_gone_on_it_scores_no_batch_twice_and_selects_the_same(rows, tmp_path, dies_at):
    value = lambda n: n / 9  # noqa: E731
    select(rows, tmp_path / "whole", [scorer("a", value)], [5], batch=4)
    calls = []
    if dies_at < 6:
        with pytest.raises(KeyboardInterrupt):
            stopping = [scorer("a", value, calls, dies_at)]
            select(rows, tmp_path / "out", stopping, [5], batch=4)
        for path in (tmp_path / "out").glob("scores-*"):
            with open(path, "a") as file:
                file.write('{"rows": "half')
    select(rows, tmp_path / "out", [scorer("a", value, calls)], [5], batch=4)
    assert calls == [4, 4, 4, 4, 4, 3]
    for path in (tmp_path / "whole").glob("*.json*"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"rows": "k", "perplexity": [null]}', "\0"])
def test_a_damaged_line_of_scores_is_told_and_scored_again(damage, rows, tmp_path, capsys):
    value, calls = (lambda n: n / 9), []
    select(rows, tmp_path / "out", [scorer("a", value, calls)], [5], batch=4)
    (kept,) = (tmp_path / "out").glob("scores-*")
    whole = sorted(kept.read_text().splitlines())
    lines = kept.read_text().splitlines()
    lines[2] = damage
    kept.write_text("\n".join(lines) + "\n")
    for _ in range(2):
        select(rows, tmp_path / "out", [scorer("a", value, calls)], [6], batch=4)
        (tmp_path / "out/select.manifest.json").unlink()
    assert calls == [4, 4, 4, 4, 4, 3, 4] and sorted(kept.read_text().splitlines()) == whole
    assert capsys.readouterr().err.count(f"{kept}, line 3 is damaged") == 1


def test_what_keeps_rows_from_being_scored_is_told(tmp_path):
    for i in range(3):
        picture(tmp_path / f"images/s/{i}.png", i)
    given = [{"image": f"s/{i}.png", "question": "q", "gt": "1"} for i in range(3)]
    source = jsonl(tmp_path / "grpo.jsonl", given)
    with pytest.raises(UserError, match="has 0 rows .*left out: 3 for no answer .*`answer` is mis"):
        select(source, tmp_path / "out", [scorer("a", float)], [1])


@pytest.mark.parametrize("sizes", [[], [0], [N + 1], [5, 25_000], [-1]])
def test_a_size_that_cannot_be_is_named(rows, tmp_path, sizes):
    with pytest.raises(UserError, match=f"has {N} rows"):
        select(rows, tmp_path / "out", [scorer("a", float)], sizes)


def test_scorers_that_are_none_or_one_twice_are_named(rows, tmp_path):
    for scorers in ([], [scorer("a", float), scorer("a", float)]):
        with pytest.raises(UserError, match="--scorer"):
            select(rows, tmp_path / "out", scorers, [1])


def test_the_published_file_is_read_as_it_is_and_a_row_without_its_picture_is_left_out(tmp_path):
    published = []
    for i in range(8):
        published.append(
            {"image": f"/vg/VG_100K/{i}.png", "question": "q", "answer": "x" * (i + 1)}
        )
        if i != 3:
            picture(tmp_path / "images" / f"vg/VG_100K/{i}.png", i)
    source = jsonl(tmp_path / "VLAA-Thinking-SFT-126K.json", [*published, {"image": 3}, {}])
    done = select(source, tmp_path / "out", [scorer("a", float)], [2])
    kept = list(read(tmp_path / "out" / "sft-2.jsonl"))
    assert [(row["id"], row["source"]) for row in kept] == [("sft-6", "vg"), ("sft-7", "vg")]
    assert done["rows_in"] == 10 and done["dropped"]["missing image file"] == 1
    assert sum(done["dropped"].values()) == 8


def test_a_score_that_is_no_number_ends_it(rows, tmp_path):
    with pytest.raises(UserError, match="row s-0"):
        select(rows, tmp_path / "out", [scorer("a", lambda n: math.nan)], [1])


def test_the_perplexity_of_a_model_is_that_of_its_own_logits(vlm, rows):
    """exp(-mean log p) of the answer's tokens after the prompt, by the whole model's logits."""
    from jaxvl.data.example import Example
    from jaxvl.data.templates import vlaa

    some = [row | {"answer": f"the {row['answer'][:3]}"} for row in list(read(rows))[:2]]
    images = rows.parent / "images"
    found = perplexities(vlm.logprobs, some, images)
    for row, perplexity in zip(some, found, strict=True):
        image = str(images / row["image"])
        prompt = vlm.processor.render(vlaa(Example("", row["question"], "", (image,))))
        tokens = vlm.processor.tokenize(row["answer"])
        (logits,) = vlm.logits([prompt + row["answer"]], [[image]])
        logps = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        where = np.arange(-len(tokens) - 1, -1)
        assert perplexity == pytest.approx(math.exp(-logps[where, tokens].mean()), rel=1e-4)
