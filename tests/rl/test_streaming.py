# SPDX-License-Identifier: Apache-2.0
"""Answers in pieces: the text that `generate` returns, and never a half character."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from jaxvl.errors import UserError
from jaxvl.rl import streaming
from jaxvl.rl.streaming import pieces

V = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.0}, {"seed": 3}, {"temperature": 1.3, "top_p": 0.9, "top_k": 40}],
    ids=["greedy", "drawn", "restricted"],
)
def test_pieces_are_the_text_that_generate_returns(vlm, pictures, settings):
    settings = {"max_new_tokens": 30, **settings}
    (whole,) = vlm.generate([f"{V}red?"], [pictures[:1]], n=3, **settings)
    for number, completion in enumerate(whole):
        found = list(vlm.stream(f"{V}red?", pictures[:1], number=number, **settings))
        assert "".join(found) == completion.text
        assert len(found) > 1 and all(found)


def test_an_answer_ends_where_generate_ends_it(vlm):
    """At a stop token, wherever it falls between two looks."""
    stop = tuple(range(0, 300, 48))
    short = dataclasses.replace(vlm, processor=dataclasses.replace(vlm.processor, stop_ids=stop))
    (whole,) = short.generate(["How many?"], n=6, max_new_tokens=25)
    assert {c.finish_reason for c in whole} == {"stop", "length"}
    assert len({len(c.tokens) for c in whole}) > 3
    for number, completion in enumerate(whole):
        found = "".join(short.stream("How many?", max_new_tokens=25, number=number))
        assert found == completion.text


def test_the_first_words_are_there_before_the_last_are_made(vlm, monkeypatch):
    """Looks come after the prompt's token and every 8 more; a program each for both parts."""
    lengths = []
    decode = type(vlm.processor).decode

    def watched(self, tokens):
        lengths.append(len(tokens))
        return decode(self, tokens)

    monkeypatch.setattr(type(vlm.processor), "decode", watched)
    stream = vlm.stream("Left?", max_new_tokens=21, seed=1)
    assert lengths == []
    next(stream)
    assert lengths[-1] < 21
    list(stream)
    assert lengths == [1, 9, 17, 21]


def test_another_answer_compiles_nothing(vlm, caplog):
    def compiled(**settings):
        caplog.clear()
        with jax.log_compiles():
            list(vlm.stream("Left?", max_new_tokens=13, **settings))
        messages = [record.getMessage() for record in caplog.records]
        return [
            m
            for m in messages
            if m.startswith(("Compiling jit(start)", "Compiling jit(decode_steps"))
        ]

    assert len(compiled()) == 2  # a length that no other test asks for
    assert compiled(seed=5, number=2) == []


def test_the_caller_is_not_left_with_the_models_mesh(vlm):
    before = jax.sharding.get_abstract_mesh()
    stream = vlm.stream("Left?", max_new_tokens=12)
    next(stream)
    assert jax.sharding.get_abstract_mesh() == before


def test_a_mistake_is_told_at_once(vlm):
    with pytest.raises(UserError, match="max_new_tokens=0"):
        vlm.stream("a", max_new_tokens=0)
    with pytest.raises(UserError, match="1 <.image_pad.> for 0 images"):
        vlm.stream(V)


def test_half_a_character_waits_for_the_rest():
    grinning = "a🤔é".encode()  # 1, 4 and 2 bytes
    texts = [grinning[:n].decode(errors="replace") for n in range(1, len(grinning) + 1)]
    assert list(pieces(texts)) == ["a", "🤔", "é"]
    assert list(pieces(texts[:3])) == ["a", "\ufffd"]  # an answer cut off within one
    assert list(pieces([])) == list(pieces([""])) == []


def test_pieces_of_any_tokens_make_up_their_text(vlm):
    """Bytes at random, most of them no valid text, and special tokens among them."""
    rng = np.random.default_rng(0)
    decode = vlm.processor.decode
    for _ in range(200):
        tokens = rng.integers(0, 320, rng.integers(1, 40))
        ends = sorted({*rng.integers(0, len(tokens), 6), len(tokens)})
        found = list(pieces(decode(tokens[:end]) for end in ends))
        assert "".join(found) == decode(tokens)
    euro = vlm.processor.tokenize("€")
    assert len(euro) == 3
    assert list(pieces(decode(euro[:n]) for n in (1, 2, 3))) == ["€"]


def test_steps_of_any_length_make_the_same_answer(vlm, monkeypatch):
    answers = []
    for tokens in (1, 5, 100):
        monkeypatch.setattr(streaming, "TOKENS", tokens)
        answers.append("".join(vlm.stream("How many?", max_new_tokens=18, seed=2)))
    assert len(answers[0]) > 3
    assert all(a == b for a, b in itertools.pairwise(answers))
