# SPDX-License-Identifier: Apache-2.0
"""Banned words: the automaton over tokens against the text itself, and the sampler."""

import jax
import numpy as np
import pytest

from jaxvl.data import banned, prompts
from jaxvl.distributed.mesh import make_mesh, put_rows
from jaxvl.errors import UserError
from jaxvl.models.inputs import Prompt
from jaxvl.rl.completions import read_completions
from jaxvl.rl.sampler import Sampler
from tests.tiny import make_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.mark.parametrize("words", [("wait",), ("blue", "square", "re"), ("ää", " a"), ("THE",)])
def test_a_token_is_forbidden_where_it_completes_a_word(tokenizer, words):
    """Random texts a token at a time, special tokens among them: what the table forbids is what
    would bring a banned word into the decoded text, and nothing else."""
    vocab = len(tokenizer) + 3
    found = banned.table(tokenizer, words, vocab)
    rng = np.random.default_rng(0)
    pieces = [*tokenizer("Wait, the blue squares are there. WAIT ää re-waited")["input_ids"]]
    hits = 0
    for _ in range(40):
        ids, state, at = [], 0, int(rng.integers(len(pieces)))
        for _ in range(30):
            at = (at + 1) % len(pieces)
            token = pieces[at] if rng.random() < 0.9 else int(rng.integers(len(tokenizer)))
            text = tokenizer.decode([*ids, token], skip_special_tokens=True)
            low = text.encode().lower()  # of ASCII letters alone
            forbidden = found[state, token] == banned.FORBIDDEN
            if "\N{REPLACEMENT CHARACTER}" not in text:  # half of a character
                assert forbidden == any(word.encode().lower() in low for word in words), text
            hits += forbidden
            if not forbidden:
                ids.append(token)
                state = found[state, token]
    assert hits > 5
    special = [id for id, token in tokenizer.added_tokens_decoder.items() if token.special]
    assert (found[:, special] == np.arange(len(found))[:, None]).all()


def test_what_cannot_be_banned_is_told(tokenizer):
    with pytest.raises(UserError, match="sampling.ban has an empty text"):
        banned.table(tokenizer, ("wait", ""), 10)


def test_no_completion_has_a_banned_word_and_others_stay_as_they_were(vlm):
    """More requests than slots, so that slots change hands; the draws are the same, so that what
    the words do not touch is unchanged."""
    prompt = [{"role": "user", "content": [{"type": "text", "text": "How many?"}]}]
    encoded = [vlm.processor.encode(prompt, [])] * 3
    arrays = prompts.collate(
        encoded, range(3), pad_id=vlm.processor.pad_id, prompt_bucket=96, patch_bucket=4
    )
    mesh = make_mesh(devices=jax.devices()[:1])
    texts = {}
    for words in ((), ("e", "th", "o")):
        with jax.set_mesh(mesh):
            how = vlm.decoding(4, 12, 1.0, 1.0, 0, 5, words)
            sampler = Sampler(vlm.graphdef, how, "float32")
            batch = put_rows(Prompt.from_arrays(arrays), mesh)
            rollout = jax.device_get(sampler(vlm.params, batch, jax.random.key(0)))
        texts[bool(words)] = read_completions(rollout, vlm.processor).texts
    free, held = texts[False], texts[True]
    touched = [any(word in text.lower() for word in ("e", "th", "o")) for text in free]
    assert any(touched) and not all(touched)
    assert not any(word in text.lower() for text in held for word in ("e", "th", "o"))
    assert [t for t, hit in zip(held, touched, strict=True) if not hit] == [
        t for t, hit in zip(free, touched, strict=True) if not hit
    ]
