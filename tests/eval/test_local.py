# SPDX-License-Identifier: Apache-2.0
"""Replies of a real model, of an endpoint, and what they may depend on."""

import base64
import dataclasses
import io
import json
import random
from collections import namedtuple

import jax
import pytest
from PIL import Image
from typer.testing import CliRunner

import jaxvl
from jaxvl.cli.main import app
from jaxvl.distributed.mesh import make_mesh
from jaxvl.errors import UserError
from jaxvl.eval import tasks
from jaxvl.eval.benchmark import Item
from jaxvl.eval.engines import predictions, rows
from jaxvl.eval.engines.local import Local
from jaxvl.eval.engines.remote import Remote
from jaxvl.eval.engines.replies import ReplySampling, number_of
from jaxvl.rewards.endpoint import Endpoint
from tests.eval.benchmarks import published
from tests.rewards.test_judge import serve  # noqa: F401 (a fixture)
from tests.train.test_prompts import BASE

SAMPLED = ReplySampling(n=2, temperature=1.0, seed=3, max_new_tokens=8)


@pytest.fixture(scope="module")
def base():
    return jaxvl.load(BASE, "float32")


@pytest.fixture(scope="module")
def items():
    return tasks.open_task("smoke").items


def asked(engine, items, missing=None):
    """What the engine replies, by (id, sample)."""
    batches = list(engine.replies(items, everything(items) if missing is None else missing))
    return {(r.item.id, r.sample): r for batch in batches for r in batch}


def texts(replies):
    return {key: reply.raw for key, reply in replies.items()}


def everything(items, n=2):
    return {(item.id, sample) for item in items for sample in range(n)}


def test_replies_depend_on_nothing_that_is_asked_beside_them(base, items):
    engine = Local(base, SAMPLED, batch=6)
    sampler = engine.sampler(1)
    assert (sampler.sampling.slots, engine.rows_together(1), engine.per_prompt) == (6, 12, 2)
    whole = asked(engine, items)
    programs = sampler._cache_size()
    assert len(whole) == 16 and len(set(texts(whole).values())) > 4
    # Another order, other neighbours, one sample of a row: as after a run that was stopped.
    some = [items[5], *reversed(items[:3])]
    again = texts(asked(engine, some, {(items[5].id, 1), *everything(items[:3])}))
    assert again == {key: text for key, text in texts(whole).items() if key in again}
    assert len(again) == 7
    assert sampler._cache_size() == programs
    one = whole[items[0].id, 0]
    assert one.image_tokens == 16 and one.processed_sizes == ((112, 112),)
    assert one.tokens <= 8 and "<|image_pad|>" in one.prompt


def test_several_devices_give_the_same_replies(base, items):
    if jax.device_count() < 4:
        pytest.skip("needs 4 devices")
    greedy = ReplySampling(max_new_tokens=8)
    engine = Local(base, greedy, batch=4)
    batches = list(engine.replies(items, everything(items, 1)))
    # Eight in four slots: those that have ended first are there while the others are made.
    assert len(batches) > 1 and engine.sampler(1).wave._cache_size() == 1
    one = {(r.item.id, r.sample): r.raw for batch in batches for r in batch}
    assert len(one) == sum(map(len, batches)) == 8
    mesh = make_mesh(data=4, devices=jax.devices()[:4])
    spread = Local(jaxvl.load(BASE, "float32", mesh), greedy, 4)
    assert texts(asked(spread, items, everything(items, 1))) == one


def test_what_cannot_be_opened_is_listed(base, items):
    broken = dataclasses.replace(items[0], id="broken", images=(b"no picture",))
    engine = Local(base, SAMPLED, batch=6)
    found = asked(engine, [broken, items[1]])
    assert set(found) == {(items[1].id, 0), (items[1].id, 1)}
    assert [row.id for row in engine.dropped] == ["broken"]


def test_the_command_answers_scores_and_reports(tmp_path):
    def run(*args):
        done = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    options = ["--dtype=float32", "--batch-size=4", "--max-new-tokens=8", "--mesh=1,1,1"]
    said = run("eval", "run", "--model", BASE, "--tasks=smoke", "--out", tmp_path, *options)
    assert "8 replies, 0 are there" in said
    assert len(predictions.read(tmp_path / "smoke")[0]) == 8
    run("eval", "score", tmp_path)
    run("eval", "report", tmp_path, "--format=html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 8 and "<script" not in page
    assert "smoke" in run("eval", "list")


def endpoint_replies(body, number):
    """An OpenAI-compatible server that says how large the picture was."""
    url = body["messages"][-1]["content"][0]["image_url"]["url"]
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    choice = {"message": {"content": f"{picture.size}"}, "finish_reason": "length"}
    if body["seed"] % 5 == 0:
        return 500, {}, {}
    return 200, {}, {"choices": [choice], "usage": {"completion_tokens": 4}}


def test_an_endpoint_is_asked_with_pictures_and_seeds(serve, items):  # noqa: F811
    server = serve(endpoint_replies)
    how = ReplySampling(n=2, temperature=0.5, seed=1, max_new_tokens=9)
    remote = Remote(Endpoint(server.url, retries=0), "m", how, batch=4, max_pixels=3136)
    found = asked(remote, items)
    seeds = {body["seed"]: body for body in server.bodies}
    assert len(seeds) == 16 and seeds[number_of(f"1 {items[0].id} 1")]["max_tokens"] == 9
    failed = sum(seed % 5 == 0 for seed in seeds)
    assert failed and len(found) == 16 - failed == 16 - len(remote.dropped)
    reply = next(iter(found.values()))
    assert (reply.text, reply.tokens, reply.finish_reason) == ("(56, 56)", 4, "length")
    with pytest.raises(UserError, match="plain text"):
        next(remote.replies([Item("1", "text", (), "A")], {("1", 0)}))
    assert json.dumps(reply.processed_sizes) == "[]"


def questions(items, counts=(3, 1, 9)):
    """Items about a few pictures, so many about each, in turn and not side by side."""
    found = [
        dataclasses.replace(
            items[i],
            id=f"{i}/{j}",
            prompt=said(items[i], "Look at the picture. " * 9 + f"Question {j}" + "?" * j),
        )
        for i, count in enumerate(counts)
        for j in range(count)
    ]
    return sorted(found, key=lambda item: item.id[::-1])


def said(item, text):
    """An item's prompt with other words behind its picture."""
    (turn,) = item.prompt
    picture = [part for part in turn["content"] if part["type"] == "image"]
    return [{"role": "user", "content": [*picture, {"type": "text", "text": text}]}]


@pytest.fixture
def short_suffixes(monkeypatch):
    """Room for few tokens, so that eight questions have no more than a small picture and a page of
    words before them."""
    monkeypatch.setattr(rows, "LEAST", 8)


def test_questions_about_a_picture_are_prefilled_together(base, items, short_suffixes, monkeypatch):
    """Three questions in a row of four prompts, nine in one of eight and one alone: the replies are
    those that each has alone, and those that were there are not made again."""
    how = dataclasses.replace(SAMPLED, n=1)
    asked_about = questions(items)
    missing = everything(asked_about, 1)
    engine = Local(base, how, batch=16)
    found = list(engine._encoded(asked_about, missing))
    assert sorted(len(row.asked) for row in found) == [1, 1, 4, 8]
    patches = [one.encoded.patches_PE for row in found for one in row.asked]
    assert len({id(x) for x in patches}) == 3  # each picture once
    whole = asked(engine, asked_about, missing)
    assert whole.keys() == missing and len(set(texts(whole).values())) > 10
    some = {("0/1", 0), ("2/8", 0), ("2/3", 0)}
    again = asked(engine, asked_about, some)
    assert texts(again) == {key: texts(whole)[key] for key in some}
    monkeypatch.setattr(rows, "MOST", 1)
    engine = Local(base, how, batch=16)
    assert {len(row.asked) for row in engine._encoded(asked_about, missing)} == {1}
    alone = asked(engine, asked_about, missing)
    assert texts(alone) == texts(whole)
    for key, one in alone.items():
        assert dataclasses.replace(one, seconds=0) == dataclasses.replace(whole[key], seconds=0)


def test_samples_and_questions_share_a_row(base, items, short_suffixes):
    """Two samples of each of four questions, eight sequences; a picture that cannot be opened and a
    question that cannot be asked take nothing from others."""
    asked_about = questions(items, (4,))
    alone = {}
    for item in asked_about:
        alone |= texts(asked(Local(base, SAMPLED, batch=8), [item]))
    bad = dataclasses.replace(asked_about[0], id="bad", prompt="no picture is asked about")
    engine = Local(base, SAMPLED, batch=8)
    found = asked(engine, [bad, *asked_about])
    assert texts(found) == alone and [row.id for row in engine.dropped] == ["bad"]
    assert [len(row.asked) for row in engine._encoded(asked_about, found.keys())] == [4]
    assert engine.sampler(4).sampling.completions == 8


def test_questions_about_a_picture_on_several_devices(base, items, short_suffixes):
    if jax.device_count() < 2:
        pytest.skip("needs 2 devices")
    how = ReplySampling(max_new_tokens=8)
    asked_about = questions(items, (3, 1))
    missing = everything(asked_about, 1)
    mesh = make_mesh(data=2, devices=jax.devices()[:2])
    spread = Local(jaxvl.load(BASE, "float32", mesh), how, batch=8)
    assert {len(row.asked) for row in spread._encoded(asked_about, missing)} == {1, 4}
    one = texts(asked(Local(base, how, batch=8), asked_about, missing))
    assert texts(asked(spread, asked_about, missing)) == one


@pytest.mark.parametrize(("sentences", "prompts"), [(0, 1), (4, 2), (9, 4)])
def test_a_row_has_no_more_tokens_of_its_own_than_it_shares(base, items, sentences, prompts):
    """Suffixes have room for 32 tokens; thirteen of a sentence are shared."""
    asked_about = [
        dataclasses.replace(
            items[0], id=str(j), prompt=said(items[0], "Look at the picture. " * sentences + f"{j}")
        )
        for j in range(8)
    ]
    engine = Local(base, ReplySampling(), batch=32)
    found = list(engine._encoded(asked_about, everything(asked_about, 1)))
    assert {len(row.asked) for row in found} == {prompts} and len(found) == 8 // prompts


def test_circular_evaluation_by_the_command(tmp_path, short_suffixes, monkeypatch):
    """The rotations of a question of SAT share rows, and are answered as one at a time."""
    next(iter(published.LAYOUTS["sat"].values()))(tmp_path)
    sizes, sampler = set(), Local.sampler
    monkeypatch.setattr(Local, "sampler", lambda self, q: sizes.add(q) or sampler(self, q))
    found = []
    for batch in (1, 8):
        sizes.clear()
        out = tmp_path / f"batch{batch}"
        options = ["--dtype=float32", f"--batch-size={batch}", "--max-new-tokens=8", "--mesh=1,1,1"]
        args = ["--model", BASE, "--tasks=sat", f"--source={tmp_path}", "--out", out, *options]
        words = ["eval", "run", *map(str, args)]
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0
        found.append({key: line["raw"] for key, line in predictions.read(out / "sat")[0].items()})
        assert sizes == ({1} if batch == 1 else {1, 2}), sizes
    assert found[0] == found[1] and len(found[0]) == 5


def test_a_prompt_that_ends_with_its_picture_has_a_row_of_its_own(base, items, short_suffixes):
    text = "Look at the picture. " * 9 + "<|vision_start|><|image_pad|>"
    asked_about = [
        dataclasses.replace(items[0], id=str(j), prompt=text + "<|vision_end|>" * (j > 0))
        for j in range(3)
    ]
    missing = everything(asked_about, 1)
    engine = Local(base, ReplySampling(max_new_tokens=8), batch=8)
    assert sorted(len(row.asked) for row in engine._encoded(asked_about, missing)) == [1, 2]
    found = texts(asked(engine, asked_about, missing))
    assert found.keys() == missing and found["1", 0] == found["2", 0]


@pytest.mark.parametrize(("batch", "n"), [(12, 1), (16, 3), (32, 3), (32, 5), (8, 1)])
def test_no_batch_has_more_rows_than_its_size(base, batch, n, monkeypatch):
    """Rows of several sizes in any order, of which a full batch has fewer prompts than others that
    wait."""
    rng = random.Random(batch * n)
    engine = Local(base, ReplySampling(n=n, temperature=1.0), batch=batch)
    sizes = [q for q in (1, 2, 4, 8) if q <= engine.most]
    stand_in = namedtuple("stand_in", "asked shape")
    given = [
        stand_in((None,) * q, (q, rng.choice([64, 96]), 64, 32)) for q in rng.choices(sizes, k=3000)
    ]
    monkeypatch.setattr(engine, "_encoded", lambda *_: iter(given))
    found = list(engine._batches([], ()))
    assert sorted(row for some in found for row in some) == sorted(given)
    for some in found:
        assert len({row.shape for row in some}) == 1
        assert len(some) <= engine.rows_together(len(some[0].asked))


def test_what_cannot_be_asked_is_listed_once_and_takes_nothing_from_others(base, items):
    """In several rows of samples each: a video, no words, a cut picture as bytes and open."""
    data = io.BytesIO()
    items[0].images[0].save(data, "PNG")
    cut = data.getvalue()[:300]
    bad = {
        "video": {"prompt": "<|video_pad|>", "images": ()},
        "empty": {"prompt": "", "images": ()},
        "cut": {"images": (cut,)},
        "open": {"images": (Image.open(io.BytesIO(cut)),)},
    }
    asked_about = [dataclasses.replace(items[0], id=id, **fields) for id, fields in bad.items()]
    engine = Local(base, dataclasses.replace(SAMPLED, n=4), batch=2)
    wanted = everything([*asked_about, items[1]], 4)
    found = asked(engine, [*asked_about, items[1]], wanted)
    assert found.keys() == everything([items[1]], 4)
    assert sorted(one.id for one in engine.dropped) == sorted(bad)


def test_open_pictures_that_differ_in_their_palette_are_two(base, items):
    colours = [[0, 0, 0, 255, 0, 0], [0, 255, 0, 0, 0, 255]]
    asked_about = []
    for number, palette in enumerate(colours):
        picture = Image.new("P", (112, 112), 1)
        picture.putpalette(palette)
        asked_about.append(dataclasses.replace(items[0], id=str(number), images=(picture,)))
    engine = Local(base, ReplySampling(), batch=8)
    found = list(engine._encoded(asked_about, everything(asked_about, 1)))
    patches = [one.encoded.patches_PE for row in found for one in row.asked]
    assert len(patches) == 2 and (patches[0] != patches[1]).any()
