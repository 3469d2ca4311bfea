# SPDX-License-Identifier: Apache-2.0
"""Gaps by token: each at the completion and token it is of, and read back as they were."""

import base64
import json
from types import SimpleNamespace

import numpy as np
import pytest

from jaxvl.config import GRPO
from jaxvl.observe.browse import Rollouts
from jaxvl.rl import learner
from jaxvl.train import gaps

P, G, C = 4, 2, 3
TEXTS = {1: "the ", 2: "apple", 9: ""}  # 7 and 8 are the halves of one character


def decode(ids):
    text = "".join({7: "<", 8: ">"}.get(token, TEXTS.get(token)) for token in ids)
    return text.replace("<>", "é").replace("<", "\ufffd").replace(">", "\ufffd")


def sampled(own=None):
    """Rows of a prompt each (g = G); what the sampler held is 0."""
    ids = [[1, 2, 9], [7, 8, 9], [1], [2, 2]] * 2
    mask = np.array([[n < len(x) for n in range(C)] for x in ids]).reshape(P, G, C)
    return SimpleNamespace(
        items=[SimpleNamespace(position=10 + p) for p in range(P)],
        rollout=SimpleNamespace(logps=np.zeros((P, G, C), np.float32), mask=mask),
        logps={} if own is None else {"own_logps": own},
        got=SimpleNamespace(ids=ids, texts=[decode(x) for x in ids]),
    )


def in_order(cfg, batch, gap_RgC):
    """A step's first update sees the rows of its first mini-batch in the order learnt in."""
    first = gap_RgC[learner.live_order(batch, cfg)][: len(gap_RgC) // cfg.mini_batches]
    return first.reshape(cfg.micro_batches, -1, G, C)


@pytest.mark.parametrize("mini_batches", [1, 2])
def test_a_gap_is_at_its_own_completion_whatever_order_rows_are_learnt_in(mini_batches):
    cfg = GRPO(group=G, beta=0.0, mini_batches=mini_batches, micro_batches=1)
    rollout = sampled()
    chosen = np.array([0, 1, 3])[: 4 - mini_batches]  # prompts that are learnt from
    true = np.arange(P * G * C, dtype=np.float32).reshape(P, G, C)
    advantages = np.ones((len(chosen), G), np.float32)
    advantages[0] = 0  # the first row goes behind the others
    batch = SimpleNamespace(
        tokens=true[chosen], mask=rollout.rollout.mask[chosen], advantages=advantages
    )
    first = in_order(cfg, batch, true[chosen])
    found = gaps.by_completion(rollout, chosen, batch, cfg, first).reshape(P, G, C)
    seen = chosen[learner.live_order(batch, cfg)][: len(chosen) // mini_batches]
    assert len(seen) == (3 if mini_batches == 1 else 1)
    np.testing.assert_array_equal(found[seen], true[seen])
    assert np.isnan(np.delete(found, seen, axis=0)).all()


def test_what_the_learner_held_before_the_first_update_is_taken_where_it_is_known():
    own = np.full((P, G, C), 0.5, np.float32)
    found = gaps.by_completion(sampled(own), np.arange(P), None, GRPO(group=G), None)
    assert set(found[0]) == {0.5} and found[2, 0] == 0.5 and np.isnan(found[2, 1:]).all()


def test_a_gap_is_kept_to_an_eighth_of_itself():
    gap = np.float32([3e-6, -4e-5, 0.0031, -0.7, 12.0, 0.0, 1e-8, np.nan, -np.inf])
    codes = gaps.codes(gap)
    found = gaps.values(base64.b64encode(codes.tobytes()).decode())
    np.testing.assert_allclose(found[:5], gap[:5], rtol=0.125)
    assert found[5:7].tolist() == [0, 0] and np.isnan(found[7]) and codes[8] == -127


def test_characters_of_each_token():
    lengths = gaps.TokenLengths(decode)
    assert lengths.of([1, 2, 9], "the apple") == [4, 5, 0]
    assert lengths.of([1, 7, 8, 1], "the éthe ") == [4, 0, 1, 4]
    assert lengths.of([2, 1], "something else") is None


def test_a_page_reads_what_a_run_writes(tmp_path):
    rollout, share = sampled(), SimpleNamespace(is_lead=True, index=1)
    gap = np.full((P * G, C), np.nan, np.float32)
    gap[:2] = [0.01, -0.01, 0.0]
    gaps.write(tmp_path, 3, rollout, gap, gaps.TokenLengths(decode).of_all(rollout.got), share)
    lines = [
        {"prompt_id": 10 + p, "completions": [{"text": t} for t in rollout.got.texts[2 * p :][:2]]}
        for p in range(P)
    ]
    file = tmp_path / "rollouts/step_3.1.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rollouts = Rollouts(tmp_path)
    first, *others = rollouts.step([file])["prompts"]
    lengths, codes = (
        np.frombuffer(base64.b64decode(x), np.int8) for x in first["completions"][1]["gap"]
    )
    assert lengths.tolist() == [0, 1, 0] and codes.tolist() == [41, -41, 0]
    assert all("gap" not in one for prompt in others for one in prompt["completions"])
    assert "gap" not in rollouts.step([file], gaps=False)["prompts"][0]["completions"][0]


@pytest.mark.parametrize("line", ["[1", "[]", '{"prompt_id": 10, "completions": [["a"]]}', "{}"])
def test_broken_gaps_leave_the_rollouts_as_they_are(tmp_path, line):
    (tmp_path / "rollouts/gaps").mkdir(parents=True)
    file = tmp_path / "rollouts/step_1.jsonl"
    file.write_text(json.dumps({"prompt_id": 10, "completions": [{"text": "a"}]}) + "\n")
    (tmp_path / "rollouts/gaps/step_1.jsonl").write_text(line + "\n")
    (prompt,) = Rollouts(tmp_path).step([file])["prompts"]
    assert prompt["completions"][0]["text"] == "a" and "gap" not in prompt["completions"][0]
