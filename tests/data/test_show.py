# SPDX-License-Identifier: Apache-2.0
"""The table and the page of a prepared set; nothing that a dataset says is alive in the page."""

import json
from html.parser import HTMLParser
from typing import ClassVar

import pytest

from jaxvl.data.prepare import prepare
from jaxvl.data.show import spaced, tables, write_page
from jaxvl.data.tasks import sat
from jaxvl.data.tasks.records import Records
from tests.data.published import picture, write_sat
from tests.observe.pages import EVIL


class Tags(HTMLParser):
    """Collects tags and text; an unclosed element shows as a leftover in `open`."""

    VOID: ClassVar[set[str]] = {"meta", "img", "line", "path", "rect", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def folder(tmp_path):
    source = sat.paper(str(write_sat(tmp_path, copies=4)))
    prepare("sat", source, tmp_path / "out", shard=5)
    return tmp_path / "out"


def test_the_tables_say_what_is_there(folder):
    found = {title: dict(rows) for title, rows in tables(folder)}
    account = found["Prepared set"]
    assert (account["rows in"], account["rows out"]) == ("12", "8")
    assert account["shards"].startswith("3, ") and account["checksums"] == "as in the manifest"
    assert found["Rows left out"] == {"several images": "4 (by setting)"}
    assert found["Examples by task"] == {"sat": "8"}
    measured = found["Measured on 8 examples"]
    assert measured["images an example"] == "1: 8"
    assert measured["image width"] == "56 to 56, median 56"
    assert measured["choices"] == "2 to 3, median 2.5"
    assert measured["commonest answers"] == "'yes, it is' 4, 'the sofa' 4"


def test_a_shard_that_changed_is_named(folder):
    shard = sorted(folder.glob("*.array_record-*"))[1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    account = dict(tables(folder)[0][1])
    assert account["checksums"] == f"wrong in {shard.name}"


def test_samples_are_spaced_evenly():
    assert spaced(10, 3) == [0, 3, 6] and spaced(2, 9) == [0, 1] and spaced(5, 5) == [0, 1, 2, 3, 4]


def test_the_page_shows_pictures_prompts_and_what_was_left_out(tmp_path):
    rows = [
        {"question": EVIL, "answer": "B", "choices": ["x", EVIL], "image": "a.png", "note": EVIL},
        {"question": "no image", "answer": EVIL},
        {"question": "gone", "answer": "a", "image": "b.png"},
    ]
    (tmp_path / "a.png").write_bytes(picture(size=(800, 90), form="PNG"))
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    prepare("records", Records(str(tmp_path / "rows.jsonl"), task=EVIL), tmp_path / "out")
    page = write_page(tmp_path / "out", tmp_path / "page.html", lambda e: f"asked: {e.question}")
    text = page.read_text()
    tags = Tags(text)
    assert tags.open == [] and "<script" not in text
    assert [t for t, _ in tags.tags if t in ("script", "iframe", "object", "link")] == []
    sources = [attributes["src"] for tag, attributes in tags.tags if tag == "img"]
    assert len(sources) == 1 and sources[0].startswith("data:image/jpeg;base64,")
    assert all(not any(name.startswith("on") for name in a) for _, a in tags.tags)
    said = "".join(tags.text)
    assert f"asked: {EVIL}" in said and "800 x 90" in said and "no image" in said
    gold = [a for tag, a in tags.tags if tag == "li" and a.get("class") == "gold"]
    assert len(gold) == 1  # the letter B names the second choice
    assert "missing image file" in said and "no image file" in said
    policy = next(a for tag, a in tags.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")
