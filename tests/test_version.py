# SPDX-License-Identifier: Apache-2.0
"""The version is said in three places, which agree."""

import datetime
from pathlib import Path

import yaml

import jaxvl

ROOT = Path(__file__).parents[1]


def test_version_citation_and_changelog_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == jaxvl.__version__
    released = citation["date-released"]
    assert isinstance(released, datetime.date)
    heading = f"## {jaxvl.__version__} ({released})\n"
    assert heading in (ROOT / "CHANGELOG.md").read_text()
