# SPDX-License-Identifier: Apache-2.0
"""Words that a completion never has: which tokens may follow what it has so far.

An automaton (Aho and Corasick, 1975) reads a completion's bytes; its state is the longest end of
them that begins a banned word. A token is forbidden in a state from which its bytes lead through a
whole word, so that no cut into tokens writes one. What decoding leaves out (special tokens) is no
byte, and so does not hide a word that goes on behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxvl.errors import UserError

FORBIDDEN = -1


def table(tokenizer: Any, words: Sequence[str], vocab: int) -> np.ndarray:
    """int16 [states, vocab]: the state that a token leads to, or FORBIDDEN. State 0 is the start.

    Words are looked for anywhere, also inside of others; of ASCII letters the case does not count.
    """
    empty = [word for word in words if not word]
    if empty:
        raise UserError("sampling.ban has an empty text; expected words that are not to be written")
    step, whole = _automaton([_folded(word.encode()) for word in words])
    return _over_tokens(step, whole, list(token_bytes(tokenizer, vocab)))


def _folded(text: bytes) -> bytes:
    """With small ASCII letters; other bytes stay."""
    return text.lower()


def states(words: Sequence[str]) -> int:
    """How many states the table of these words has, whatever the tokenizer."""
    return len(_starts([_folded(word.encode()) for word in words]))


def _starts(words: Sequence[bytes]) -> list[bytes]:
    """All that words begin with, each once; the first is nothing."""
    found = [b""]
    for word in words:
        found += [word[:end] for end in range(1, len(word) + 1)]
    return list(dict.fromkeys(found))


def _automaton(words: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The next state by state and byte, int16 [S, 256], and which states end in a whole word."""
    states = {text: number for number, text in enumerate(_starts(words))}
    if len(states) > np.iinfo(np.int16).max:
        raise UserError(f"sampling.ban has {len(states)} characters, expected fewer than 32,768")
    step = np.zeros((len(states), 256), np.int16)
    whole = np.zeros(len(states), bool)
    for text, number in states.items():
        whole[number] = any(text.endswith(word) for word in words)
        for byte in range(256):
            longer = text + bytes([byte])
            ends = (longer[at:] for at in range(len(longer) + 1))
            step[number, byte] = next(states[end] for end in ends if end in states)
    return step, whole


def _over_tokens(step: np.ndarray, whole: np.ndarray, tokens: Sequence[bytes]) -> np.ndarray:
    """The automaton over the bytes of all tokens at a time, the longest first."""
    order = np.argsort([-len(token) for token in tokens], kind="stable")
    lengths = np.array([len(tokens[i]) for i in order])
    state_SV = np.repeat(np.arange(len(step), dtype=np.int16)[:, None], len(tokens), axis=1)
    hit_SV = np.zeros(state_SV.shape, bool)
    for at in range(int(lengths.max(initial=0))):
        count = int((lengths > at).sum())
        byte = np.array([tokens[i][at] for i in order[:count]])
        state_SV[:, :count] = step[state_SV[:, :count], byte]
        hit_SV[:, :count] |= whole[state_SV[:, :count]]
    found = np.empty_like(state_SV)
    found[:, order] = np.where(hit_SV, np.int16(FORBIDDEN), state_SV)
    return found


def token_bytes(tokenizer: Any, vocab: int) -> Iterator[bytes]:
    """What each of `vocab` ids adds to a decoded text, in small letters: nothing for special tokens
    and for ids that the tokenizer does not have."""
    known = {id: token for token, id in tokenizer.get_vocab().items()}
    added, to_byte = tokenizer.added_tokens_decoder, _byte_letters()
    for id in range(vocab):
        if id in added:
            yield b"" if added[id].special else _folded(added[id].content.encode())
            continue
        letters = known.get(id, "")
        unknown = [letter for letter in letters if letter not in to_byte]
        if unknown:
            raise UserError(
                f"sampling.ban: token {id} of the tokenizer is {letters!r}, which is no byte-level "
                "BPE; words cannot be banned with it"
            )
        yield _folded(bytes(to_byte[letter] for letter in letters))


def _byte_letters() -> dict[str, int]:
    """The letters that stand for bytes in the vocabulary of a byte-level BPE (GPT-2's)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    found = {chr(byte): byte for byte in plain}
    return found | {chr(256 + number): byte for number, byte in enumerate(others)}
