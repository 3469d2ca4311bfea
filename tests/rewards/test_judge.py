# SPDX-License-Identifier: Apache-2.0
"""Scorers against a server of our own on this machine, which errs as real ones do."""

import base64
import io
import json
import math
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxvl
from jaxvl.config import Reward
from jaxvl.errors import UserError
from jaxvl.rewards import MASKED, ChatJudge, LocalJudge, Mixed, RewardEndpoint, judged
from jaxvl.rewards.endpoint import Endpoint
from jaxvl.rewards.judge import local_judges, probability, with_models, yes_or_no

PICTURE = Image.fromarray(np.full((40, 60, 3), 200, np.uint8))


class Server:
    """Answers each request with what `respond(body, number)` returns: (status, headers, object)."""

    def __init__(self, respond):
        self.bodies, self.headers, self.busy, self.most = [], [], 0, 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    outer.bodies.append(body)
                    outer.headers.append(dict(self.headers))
                    number = len(outer.bodies)
                    outer.busy += 1
                    outer.most = max(outer.most, outer.busy)
                status, headers, reply = respond(body, number)
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                with lock:
                    outer.busy -= 1
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/chat/completions"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def serve():
    servers = []

    def make(respond):
        servers.append(Server(respond))
        return servers[-1]

    yield make
    for server in servers:
        server.server.shutdown()
        server.server.server_close()


def says(text, prompt_tokens=10, completion_tokens=1):
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"choices": [{"message": {"content": text}}], "usage": usage}


def question_of(body):
    return body["messages"][0]["content"][-1]["text"]


def test_a_chat_judge_sends_picture_question_and_answer(serve, monkeypatch):
    server = serve(lambda body, number: (200, {}, says("Yes.")))
    monkeypatch.setenv("JUDGE_KEY", "secret")
    endpoint = Endpoint(server.url, key="JUDGE_KEY", prices=(2.0, 8.0))
    judge = ChatJudge(endpoint, model="grader")
    assert judge([[PICTURE]], ["How many?"], ["three {x}"]) == [1.0]
    body = server.bodies[0]
    assert (body["model"], body["temperature"]) == ("grader", 0)
    image, text = body["messages"][0]["content"]
    data = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(data)).size == (60, 40)
    assert "How many?" in text["text"] and "three {x}" in text["text"]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert "secret" not in repr(endpoint)
    assert endpoint.counts["requests"] == 1 and endpoint.counts["prompt_tokens"] == 10
    assert endpoint.cost == pytest.approx((10 * 2 + 1 * 8) / 1e6)


def test_failures_that_pass_are_tried_again(serve):
    def respond(body, number):
        if number == 1:
            return 503, {}, {"error": "busy"}
        if number == 2:
            return 429, {"retry-after": "1"}, {"error": "slow down"}
        if number == 3:
            return 200, {}, b"not json"
        return 200, {}, says("No")

    server = serve(respond)
    endpoint = Endpoint(server.url, backoff=0.01, retries=3)
    start = time.monotonic()
    assert ChatJudge(endpoint, "m")([[]], ["q"], ["a"]) == [0.0]
    assert time.monotonic() - start >= 1  # what the server asked for
    assert endpoint.counts["requests"] == 4 and endpoint.counts["retries"] == 3
    assert endpoint.counts["failed"] == 0


@pytest.mark.parametrize(("status", "requests"), [(500, 3), (400, 1), (401, 1)])
def test_failures_that_stay_are_none_and_counted(serve, status, requests):
    server = serve(lambda body, number: (status, {}, {}))
    endpoint = Endpoint(server.url, backoff=0.01, retries=2)
    assert ChatJudge(endpoint, "m")([[]], ["q"], ["a"]) == [None]
    assert endpoint.counts["failed"] == 1 and endpoint.counts["requests"] == requests


def test_a_server_that_hangs_or_is_not_there_fails_in_time(serve):
    def hang(body, number):
        time.sleep(1.0)
        return 200, {}, says("Yes")

    start = time.monotonic()
    assert Endpoint(serve(hang).url, timeout=0.1, retries=1, backoff=0.01).post([{}]) == [None]
    gone = Endpoint("http://127.0.0.1:9/none", timeout=0.5, retries=1, backoff=0.01)
    assert gone.post([{}]) == [None]
    assert time.monotonic() - start < 10


def test_no_more_requests_at_a_time_than_allowed(serve):
    def slow(body, number):
        time.sleep(0.05)
        return 200, {}, {"score": body["answer"] == "x"}

    server = serve(slow)
    endpoint = Endpoint(server.url, concurrency=3)
    endpoint.post([{"answer": str(number)} for number in range(12)])
    assert server.most == 3 and len(server.bodies) == 12


def test_answers_are_kept_on_disk(serve, tmp_path):
    server = serve(lambda body, number: (200, {}, says("Yes")))
    cache = str(tmp_path / "cache" / "judge.sqlite")
    for _ in range(2):
        endpoint = Endpoint(server.url, cache=cache)
        judge = ChatJudge(endpoint, "m")
        assert judge([[], [], []], ["q"] * 3, ["a", "a", "b"]) == [1.0] * 3
    assert len(server.bodies) == 2  # "a" once, "b" once, and nothing the second time
    assert endpoint.counts["cached"] == 3 and endpoint.counts["requests"] == 0


def test_failures_are_not_kept(serve, tmp_path):
    server = serve(lambda body, number: (400 if number == 1 else 200, {}, says("Yes")))
    endpoint = Endpoint(server.url, cache=str(tmp_path / "judge.sqlite"))
    assert ChatJudge(endpoint, "m")([[]], ["q"], ["a"]) == [None]
    assert ChatJudge(endpoint, "m")([[]], ["q"], ["a"]) == [1.0]


def test_an_unclear_reply_is_never_guessed_at(serve):
    for reply, value in (("Yes", 1), ("no.", 0), ("**Yes**", 1), ("Yes and no", None), ("", None)):
        assert yes_or_no(reply) == value
    replies = iter(["Maybe", "Yes"])
    server = serve(lambda body, number: (200, {}, says(next(replies))))
    endpoint = Endpoint(server.url)
    assert ChatJudge(endpoint, "m")([[]], ["q"], ["a"]) == [None]
    assert endpoint.counts["unparsed"] == 1
    server = serve(lambda body, number: (200, {}, {"choices": []}))
    assert ChatJudge(Endpoint(server.url), "m")([[]], ["q"], ["a"]) == [None]


def test_a_reward_model_gives_one_number_a_call(serve):
    def respond(body, number):
        value = {"good": 2.5, "nan": "much", "none": None}[body["answer"]]
        return 200, {}, {"score": value}

    server = serve(respond)
    scorer = RewardEndpoint(Endpoint(server.url))
    got = scorer([[PICTURE], [], []], ["q"] * 3, ["good", "nan", "none"])
    assert got == [2.5, None, None]
    body = next(body for body in server.bodies if body["answer"] == "good")
    assert body["question"] == "q" and body["images"][0].startswith("data:image/jpeg;base64,")


def test_a_local_judge_is_the_log_odds_of_a_yes():
    seen = []

    def logprobs(prompts, images, completions):
        seen.extend(zip(prompts, images, completions, strict=True))
        return [[[-1.0, -0.5], [-2.0]] for _ in prompts]

    assert LocalJudge(logprobs=logprobs)([[PICTURE]], ["q"], ["a"]) == [0.5]
    [(messages, images, completions)] = seen
    assert [part["type"] for part in messages[0]["content"]] == ["image", "text"]
    assert images == [PICTURE] and completions == ["Yes", "No"]
    assert probability(0.0) == 0.5 and probability(1e9) == 1 and probability(-1e9) == 0
    assert probability(1.3) == pytest.approx(1 / (1 + math.exp(-1.3)))


def test_a_run_finds_the_local_judges_that_want_a_model():
    waiting, ready = LocalJudge("a"), LocalJudge(logprobs=len)
    rewards = [
        Reward(partial(judged, scorer=waiting)),
        Reward(Mixed(scorer=waiting)),
        Reward(partial(judged, scorer=ready)),
        Reward(judged),
    ]
    assert local_judges(rewards) == [waiting]
    with pytest.raises(UserError, match="has no model yet"):
        waiting([[]], ["q"], ["a"])


class Own:
    """A reward of a user's own, with a scorer."""

    def __init__(self, scorer):
        self.scorer = scorer


def test_a_run_scores_by_copies_of_its_judges_that_have_their_model():
    waiting, other, ready = LocalJudge("a"), LocalJudge("b"), LocalJudge(logprobs=len)
    rewards = [
        Reward(partial(judged, scorer=waiting, to_reward=probability), weight=2.0),
        Reward(Mixed(scorer=other, beta=3.0)),
        Reward(Own(waiting)),
        Reward(partial(judged, scorer=ready)),
        Reward(judged),
    ]
    asked = []

    def logprobs(model):
        asked.append(model)
        return model.upper

    found = with_models(rewards, logprobs)
    assert asked == ["a", "b"]  # one model, once
    assert found[0].fn.keywords["scorer"].logprobs() == "A" and found[0].weight == 2.0
    assert found[0].fn.keywords["to_reward"] is probability
    assert found[1].fn.scorer.logprobs() == "B" and found[1].fn.beta == 3.0
    assert found[2].fn.scorer.logprobs() == "A"
    assert found[3] is rewards[3] and found[4] is rewards[4]
    assert local_judges(rewards) == [waiting, other]  # what was given is as it was


def test_a_local_judge_asks_the_model_itself():
    path = Path(__file__).parents[2] / "configs/quickstart_base"
    vlm = jaxvl.load(path, dtype="float32")
    scorer = LocalJudge(logprobs=vlm.logprobs, template="{question} {answer}?")
    [got] = scorer([[PICTURE]], ["Is it"], ["red"])
    content = [{"type": "image"}, {"type": "text", "text": "Is it red?"}]
    prompt = [{"role": "user", "content": content}]
    [[yes, no]] = vlm.logprobs([prompt], [[PICTURE]], [["Yes", "No"]])
    assert got == pytest.approx(float(yes.sum() - no.sum()), abs=1e-4)  # float32 sums


def columns(count):
    return {"question": ["q"] * count, "answer": ["gold"] * count, "images": [()] * count}


def test_judged_asks_about_answer_blocks_only():
    asked = []

    def scorer(images, prompts, texts):
        asked.extend(zip(prompts, texts, strict=True))
        return [0.75] * len(texts)

    texts = ["<answer>a</answer>", "no tags", "<answer></answer>", "<answer>b</answer>"]
    got = judged([""] * 4, texts, [[]] * 4, scorer=scorer, **columns(4))
    assert got == [0.75, 0, 0, 0.75]
    assert asked == [("Question: q\nReference: gold", "a"), ("Question: q\nReference: gold", "b")]


def test_a_judge_that_fails_does_what_the_setting_says():
    def scorer(images, prompts, texts):
        raise ConnectionError("down")

    def run(on_failure):
        texts = ["<answer>a</answer>", "none"]
        settings = {"scorer": scorer, "on_failure": on_failure}
        return judged([""] * 2, texts, [[]] * 2, **settings, **columns(2))

    assert run("mask") == [MASKED, 0]
    assert run(0.5) == [0.5, 0]
    with pytest.raises(ConnectionError):
        run("fail")
    with pytest.raises(UserError, match="expected 'fail', 'mask' or a number"):
        run("skip")


def test_a_wrong_endpoint_is_told_at_once(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(UserError, match="expected http"):
        Endpoint("localhost:8000")
    with pytest.raises(UserError, match="no NO_SUCH_KEY"):
        Endpoint("http://localhost:8000", key="NO_SUCH_KEY")
