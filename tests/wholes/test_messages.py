# SPDX-License-Identifier: Apache-2.0
"""The page of messages: every broken file and path has one, and stands there."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["data_files", "image_files", "paths"])
def test_what_is_broken_has_a_message_that_is_on_the_page(kind, tmp_path):
    spec = importlib.util.spec_from_file_location("messages", ROOT / "scripts/messages.py")
    messages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(messages)
    said = dict(getattr(messages, kind)(tmp_path))
    assert [given for given, message in said.items() if len(message) < 10] == []
    page = (ROOT / "docs/messages.md").read_text()
    lines = messages.table("", iter(said.items()))[3:]
    inputs = [line.split("` | `")[0] for line in lines]
    assert [given for given in inputs if given not in page] == []
