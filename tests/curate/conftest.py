# SPDX-License-Identifier: Apache-2.0
"""The cache of answers does not wait for the disk in these tests: thousands of answers go in."""

import sqlite3

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_cache():
    connect = sqlite3.connect

    def quick(*args, **settings):
        file = connect(*args, **settings)
        file.execute("pragma synchronous=off")
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxvl.rewards.cache.sqlite3.connect", quick)
        yield
