# SPDX-License-Identifier: Apache-2.0
"""Requests of the chat interface: what is read, and what is refused by its name."""

import base64
import io
import json

import pytest
from PIL import Image

from jaxvl.serve import requests
from jaxvl.serve.requests import BadRequest, read


def url(picture=None):
    data = io.BytesIO()
    (picture or Image.new("RGB", (8, 4), (255, 0, 0))).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def picture_part(**holder):
    return {"type": "image_url", "image_url": holder}


def body(**fields):
    messages = [{"role": "user", "content": "How many?"}]
    return {"model": "m", "messages": messages} | fields


def with_content(*content):
    return body(messages=[{"role": "user", "content": list(content)}])


def asked(fields):
    return read(json.dumps(fields).encode(), "m")


def test_what_is_left_out_has_the_interfaces_defaults():
    found = asked(body(temperature=None, stop=None, user="u", metadata={"a": "b"}))
    assert (found.n, found.max_tokens, found.temperature, found.top_p) == (1, None, 1.0, 1.0)
    assert (found.top_k, found.stream, found.logprobs) == (0, False, False)
    assert found.seed != asked(body()).seed  # drawn


def test_pictures_stand_in_the_places_where_they_came():
    text = {"type": "text", "text": "red?"}
    picture = picture_part(url=url(), detail="high")
    system = {"role": "system", "content": "Short."}
    message = {"role": "user", "content": [text, picture, text]}
    found = asked(body(messages=[system, message], max_completion_tokens=7, top_k=-1, stop=[]))
    parts = [text, {"type": "image"}, text]
    assert found.messages == [system, {"role": "user", "content": parts}]
    assert [image.size for image in found.images] == [(8, 4)]
    assert (found.max_tokens, found.top_k) == (7, 0)


REFUSED = [
    ("n", body(n=0)),
    ("n", body(n=129)),
    ("n", body(n=True)),
    ("max_tokens", body(max_tokens=0)),
    ("max_tokens", body(max_tokens="10")),
    ("max_tokens", body(max_tokens=5, max_completion_tokens=6)),
    ("temperature", body(temperature=-1)),
    ("temperature", body(temperature=2.5)),
    ("temperature", body(temperature=1e-30)),
    ("temperature", body(temperature=float("nan"))),
    ("top_p", body(top_p=0)),
    ("top_p", body(top_p=1.5)),
    ("top_k", body(top_k=2.5)),
    ("seed", body(seed=2**63)),
    ("seed", body(seed="7")),
    ("stream", body(stream="yes")),
    ("stream_options", body(stream_options={"include_usage": True})),
    ("stream_options", body(stream=True, stream_options={"other": 1})),
    ("logprobs", body(stream=True, logprobs=True)),
    ("top_logprobs", body(logprobs=True, top_logprobs=5)),
    ("stop", body(stop=["\n"])),
    ("tools", body(tools=[{"type": "function"}])),
    ("response_format", body(response_format={"type": "json_object"})),
    ("presence_penalty", body(presence_penalty=0.5)),
    ("temprature", body(temprature=0.5)),
    ("model", {"messages": []}),
    ("messages", {"model": "m"}),
    ("messages", body(messages=[])),
    ("messages", body(messages="How many?")),
    ("messages[0]", body(messages=["How many?"])),
    ("messages[0]", body(messages=[{"role": "user"}])),
    ("messages[0]", body(messages=[{"role": "user", "content": "a", "name": "b"}])),
    ("messages[0].role", body(messages=[{"role": "tool", "content": "a"}])),
    ("messages[0].content", body(messages=[{"role": "user", "content": 3}])),
    ("messages[0].content", body(messages=[{"role": "user", "content": "a<|im_end|>"}])),
    ("messages[0].content", body(messages=[{"role": "user", "content": "\ud800"}])),
    ("messages[0].content[0]", with_content("a")),
    ("messages[0].content[0]", with_content({"type": "video_url", "video_url": {"url": "a"}})),
    ("messages[0].content[0]", with_content({"type": "text", "text": "a", "image": "/etc/passwd"})),
    ("messages[0].content[0].text", with_content({"type": "text", "text": 3})),
    ("messages[0].content[0]", with_content({"type": "text", "text": None})),
    ("messages[0].content", body(messages=[{"role": "user", "content": []}])),
    ("messages[0].content[0].image_url", with_content(picture_part())),
    ("messages[0].content[0].image_url", with_content(picture_part(url=url(), size=3))),
    *(
        ("messages[0].content[0].image_url.url", with_content(picture_part(url=wrong)))
        for wrong in (
            "https://example.com/a.png",
            "file:///etc/passwd",
            "/etc/passwd",
            None,
            "data:image/png;base64,!!!",
            "data:image/png;base64,AAAA",
            url()[:-40],
        )
    ),
]


@pytest.mark.parametrize(("param", "fields"), REFUSED, ids=[param for param, _ in REFUSED])
def test_what_cannot_be_done_is_refused_by_its_name(param, fields):
    with pytest.raises(BadRequest) as refused:
        asked(fields)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert param in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"3", b'{"n": 1, "n": 2}', b'{"a": "\xff"}', b"[" * 100_000, b"1" * 5000],
)
def test_a_body_that_is_no_object_is_refused(data):
    with pytest.raises(BadRequest, match="the body is") as refused:
        read(data, "m")
    assert refused.value.status == 400


def test_many_keys_are_counted_once():
    """To count each among all took 47 s for 20,000 of them, which is nothing for a body."""
    keys = ",".join(f'"k{i}": 1' for i in range(100_000))
    with pytest.raises(BadRequest, match="'k7' stands 2 times"):
        read(f'{{{keys}, "k7": 2}}'.encode(), "m")


def test_another_model_is_not_here():
    with pytest.raises(BadRequest, match="found 'other'; expected 'm'") as refused:
        asked(body(model="other"))
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")


def test_a_reply_that_is_sent_back_may_have_nulls():
    reply = {"role": "assistant", "content": "Two.", "refusal": None, "tool_calls": None}
    found = asked(body(messages=[{"role": "user", "content": "How many?"}, reply]))
    assert found.messages[1] == {"role": "assistant", "content": "Two."}


def test_messages_and_texts_are_limited_together(monkeypatch):
    monkeypatch.setattr(requests, "MOST_PARTS", 3)
    monkeypatch.setattr(requests, "MOST_CHARACTERS", 4)
    text = {"type": "text", "text": "ab"}
    assert len(asked(with_content(text, text)).messages[0]["content"]) == 2
    many = body(messages=[{"role": "user", "content": ""}] * 4)
    for one, why in [
        (with_content(text, text, text), "over 3 messages and parts"),
        (many, "over 3 messages and parts"),
        (body(messages=[{"role": "user", "content": "abcde"}]), "over 4 characters"),
    ]:
        with pytest.raises(BadRequest, match=why):
            asked(one)


def test_pictures_are_limited_together(monkeypatch):
    monkeypatch.setattr(requests, "MAX_IMAGE_PIXELS", 70)
    part = picture_part(url=url())
    assert len(asked(with_content(part, part)).images) == 2
    with pytest.raises(BadRequest, match="over 70 pixels in all"):
        asked(with_content(part, part, part))
