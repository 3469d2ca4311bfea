# SPDX-License-Identifier: Apache-2.0
"""Controls: what they change of the data, and that they leave the rest."""

import dataclasses

import pytest

from jaxvl.data.controls import ShuffledImages
from jaxvl.data.example import Example
from jaxvl.data.scenes import Scenes
from jaxvl.errors import UserError


@dataclasses.dataclass(frozen=True)
class Given:
    examples: tuple

    def load(self):
        return self.examples


@pytest.mark.parametrize("count", [2, 3, 50])
def test_every_example_gets_the_images_of_another_and_keeps_the_rest(count):
    true = list(Scenes(count).load())
    found = list(ShuffledImages(Scenes(count), seed=1).load())
    shown = [example.images[0].tobytes() for example in found]
    assert sorted(shown) == sorted(example.images[0].tobytes() for example in true)
    for one, other in zip(true, found, strict=True):
        assert one.images[0].tobytes() != other.images[0].tobytes()
        assert dataclasses.replace(one, images=()) == dataclasses.replace(other, images=())


def test_the_seed_says_whose_images_and_nothing_else_does():
    def shown(seed):
        return [e.images[0].tobytes() for e in ShuffledImages(Scenes(20), seed).load()]

    assert shown(1) == shown(1) != shown(2)


def test_sets_that_cannot_be_shuffled():
    with pytest.raises(UserError, match="1 example, expected two or more"):
        ShuffledImages(Scenes(1)).load()
    few = Example("a", "?", "1", images=(b"",)), Example("b", "?", "1", images=(b"", b""))
    with pytest.raises(UserError, match="example a has 1 images and b has 2"):
        ShuffledImages(Given(few)).load()[0]
