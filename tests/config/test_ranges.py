# SPDX-License-Identifier: Apache-2.0
"""Every field says at its place what it takes: a number its range, a word its choices; and that is
what is checked."""

import dataclasses
import math
import typing
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, GroupedMetadata, Interval

from jaxvl import config as C
from jaxvl.config import fields, ranges
from jaxvl.data.controls import ShuffledImages
from jaxvl.data.mixture import Mixture, Part
from jaxvl.data.scenes import Scenes
from jaxvl.data.tasks.records import Records
from jaxvl.data.tasks.sat import SAT
from jaxvl.data.tasks.vlaa import VLAA
from jaxvl.data.traces import Traces
from jaxvl.errors import UserError
from jaxvl.train import settings

FIELDS = {kind: fields.describe(kind) for kind in (C.Config, C.SFTConfig)}
# Words that nobody can list beforehand. Any other field of words is a Literal.
TEXT = (
    "model.path data.digests rewards.N.name run.dir run.allow profile.steps benchmarks.best "
    "benchmarks.tasks.N.name benchmarks.tasks.N.source benchmarks.tasks.N.protocol "
    "sampling.ban"
).split()
RANGE_WORDS = ("ge", "gt", "le", "lt")
LOSSES = (C.Grpo(), C.DrGrpo(), C.Dapo(), C.Bnpo(), C.Cispo(), C.Gspo())


class Source:
    def load(self):
        return []


def whole(loss=LOSSES[0]):
    """A config in which no part is none, and an SFT config."""
    model, data = C.Model("m", lora=C.LoRA()), C.Data(Source(), str)
    benchmarks = C.Benchmarks((C.Benchmark("blink"),))
    rest = {"verify": C.Verify(), "eval": C.Eval(Source()), "benchmarks": benchmarks}
    grpo = C.GRPO(loss=loss, adaptive_kl=C.AdaptiveKL())
    run = C.Run("r", 3)
    return (
        C.Config(model, data, (C.Reward(len),), run, grpo=grpo, **rest),
        C.SFTConfig(model, data, C.SFT(str), run),
    )


def hints_of(kind):
    """The annotations of a dataclass's fields."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def leaves(kind):
    """The kinds of an annotation, those of tuples' items among them."""
    for one in fields.kinds_of(kind):
        items = typing.get_origin(one) is tuple
        yield from (
            (leaf for arg in typing.get_args(one)[:1] for leaf in leaves(arg)) if items else ()
        )
        if not items:
            yield one


def classes(kind):
    """A dataclass and those of its parts."""
    yield kind
    for hint in hints_of(kind).values():
        for leaf in leaves(hint):
            if dataclasses.is_dataclass(leaf):
                yield from classes(leaf)


def unmarked(kind):
    """Fields of a dataclass whose annotation does not say what numbers they take, or marks what is
    none, or by what nobody reads."""
    for name, hint in hints_of(kind).items():
        for leaf in leaves(hint):
            if typing.get_origin(leaf) is not Annotated:
                if leaf in (int, float):
                    yield f"{kind.__name__}.{name}: no range, not even ANY"
                continue
            base, *found = typing.get_args(leaf)
            flat = [
                m for one in found for m in (one if isinstance(one, GroupedMetadata) else [one])
            ]
            if base not in (int, float):
                yield f"{kind.__name__}.{name}: a range of what is no number"
            if len(flat) != len(ranges.markers(leaf)):
                yield f"{kind.__name__}.{name}: a marker that nobody reads"


def test_every_number_has_a_range_or_says_that_it_has_none():
    parts = {part for kind in FIELDS for part in classes(kind)}
    assert {C.Config, C.SFTConfig, C.LoRA, C.AdaptiveKL, C.Gspo, C.Benchmark} <= parts
    assert [text for part in parts for text in unmarked(part)] == []


def test_a_number_without_a_mark_is_found():
    @dataclasses.dataclass
    class Part:
        plain: int
        items: tuple[float, ...] | None
        word: Annotated[str, Ge(1)]
        odd: Annotated[int, "at least 1"]
        fine: Annotated[int, Interval(ge=1, lt=3)] | Literal["auto"]

    hints = {"plain": int, "items": tuple[float, ...] | None, "word": Annotated[str, Ge(1)]}
    hints |= {"odd": Annotated[int, "at least 1"]}
    Part.__annotations__ |= hints
    assert [text.split(":")[0].removeprefix("Part.") for text in unmarked(Part)] == list(hints)


def test_every_field_of_words_lists_them_or_is_free():
    free = {field.path for kind in FIELDS for field in FIELDS[kind] if "str" in field.type.split()}
    assert free == set(TEXT)


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
def test_a_description_has_every_field(kind):
    found = FIELDS[kind]
    parts = set(classes(kind))
    named = {(part.__name__, field.name) for part in parts for field in dataclasses.fields(part)}
    whole_parts = {
        (part.__name__, name)
        for part in parts
        for name, hint in hints_of(part).items()
        if dataclasses.is_dataclass(hint)
    }
    assert {(f.of, f.path.split(".")[-1]) for f in found} == named - whole_parts
    assert [f.path for f in found if not f.doc or "\n" in f.doc] == []
    numbers = {"int", "float"}
    assert [f.path for f in found if bool(numbers & set(f.type.split())) != bool(f.range)] == []


def test_a_description_says_what_stands_at_the_field():
    found = {(field.path, field.of): field for field in FIELDS[C.Config]}
    top_p = found["sampling.top_p", "Sampling"]
    assert (top_p.type, top_p.default, top_p.range) == ("float", 1.0, "above 0 and at most 1")
    assert found["mesh.data", "Mesh"].range == "at least 1, or -1"
    assert found["data.prompt_buckets", "Data"].range == "each at least 1"
    assert found["rewards.N.weight", "Reward"].range == "any"
    assert found["run.dir", "Run"].default is fields.MISSING
    assert found["grpo.loss.epsilon", "Gspo"].default == 3e-4
    assert found["grpo.loss.delta", "DrGrpo"].doc == found["grpo.loss.delta", "Grpo"].doc


def replaced(node, path, value):
    """A copy of `node` with the field at `path` replaced."""
    key, *rest = path
    if isinstance(node, tuple):
        number = int(key)
        return (*node[:number], replaced(node[number], rest, value), *node[number + 1 :])
    new = replaced(getattr(node, key), rest, value) if rest else value
    return dataclasses.replace(node, **{key: new})


def marked(node):
    """(part, field, annotation, marker) of every range in a config."""
    for name, hint in hints_of(type(node)).items():
        for leaf in leaves(hint):
            if typing.get_origin(leaf) is Annotated:
                yield from ((node, name, leaf, marker) for marker in ranges.markers(leaf))
        value = getattr(node, name)
        for item in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(item):
                yield from marked(item)


def test_every_range_is_kept_to():
    seen = set()
    for root in (root for loss in LOSSES for root in whole(loss)):
        for node, name, leaf, marker in marked(root):
            ((word, bound),) = ((w, getattr(marker, w)) for w in RANGE_WORDS if hasattr(marker, w))
            lower, whole_number = word in ("ge", "gt"), typing.get_args(leaf)[0] is int
            beyond = bound + (-1 if lower else 1)
            if not whole_number:
                beyond = math.nextafter(bound, -math.inf if lower else math.inf)
            if type(node) is C.Mesh:
                beyond = -2  # -1 is all that remain
            seen.add((type(node).__name__, name, word))
            for value, fits in ((bound, word in ("ge", "le")), (beyond, False)):
                held = (value,) if isinstance(getattr(node, name), tuple) else value
                new = dataclasses.replace(node, **{name: held})
                if fits:
                    fields.check_fields(new, "part.")
                    continue
                with pytest.raises(UserError, match=rf"^part\.{name}(\.0)? = .*expected a number "):
                    fields.check_fields(new, "part.")
    assert len(seen) >= 69


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39])
@pytest.mark.parametrize("path", ["rewards.0.weight", "optim.lr", "sampling.temperature"])
def test_what_float32_does_not_hold_is_refused(path, value):
    cfg = replaced(whole()[0], path.split("."), value)
    with pytest.raises(UserError, match=rf"{path} = .*that float32 holds"):
        fields.check_fields(cfg)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("mesh.data", 0, "mesh.data = 0: expected a number at least 1, or -1"),
        ("mesh.fsdp", -2, "mesh.fsdp = -2: expected a number at least 1, or -1"),
        ("mesh.fsdp", -1.0, "mesh.fsdp: expected int or -1, found -1.0 (float)"),
        ("data.prompt_buckets", (8, 0), "data.prompt_buckets.1 = 0: expected a number at least 1"),
        ("benchmarks.tasks.0.limit", -1, "benchmarks.tasks.0.limit = -1: expected a number at"),
        ("grpo.loss.delta", 1, "grpo.loss.delta = 1: expected a number above 1"),
        ("run.seed", 2**31, "run.seed = 2147483648: expected a number at least 0 and at most"),
        ("run.resume", 1, "run.resume: expected one of auto, never, true, false, found 1 (int)"),
    ],
)
def test_the_message_names_field_found_and_expected(path, value, words):
    with pytest.raises(UserError) as caught:
        fields.check_fields(replaced(whole()[0], path.split("."), value))
    assert words in str(caught.value)


def test_settings_that_a_resumed_run_may_change_are_fields():
    """A list of paths: one that is no field would let nothing through, and nobody would see."""
    known = {field.path for kind in FIELDS for field in FIELDS[kind]}
    for path in (*settings.FREE, *settings._HOW):
        assert any(name == path or name.startswith(f"{path}.") for name in known), path
    warnings = {path for path in known if path.endswith("_warn")}  # they change no number
    assert "sft.spike_warn" in warnings and warnings <= set(settings.FREE)


@pytest.mark.parametrize(
    "text", ["source.first=-3", "source.within=-1", "source.seed=-1", "source.size=0"]
)
def test_a_source_s_number_below_its_range_is_refused(text):
    size = text.startswith("source.size")
    recipe = "quickstart" if size else "visualthinker"
    name, _, value = text.partition("=")
    with pytest.raises(UserError, match=rf"data\.{name} = {value}: expected a number at least \d"):
        C.load(f"configs/{recipe}.py", [f"data.{text}"])


def test_the_sources_of_a_source_are_looked_at():
    inner = Traces(ShuffledImages(SAT("data")), runs=("a",), longest=-1)
    data = C.Data(Mixture((Part(Records("a.jsonl", limit=-2)), Part(inner))), str)
    with pytest.raises(UserError, match=r"data\.source\.parts\.0\.source\.limit = -2: expected a"):
        fields.check_fields(data, "data.")
    with pytest.raises(UserError, match=r"data\.source\.longest = -1"):
        fields.check_fields(C.Data(inner, str), "data.")


def test_every_number_of_our_sources_has_a_range():
    sources = (SAT, Records, VLAA, Scenes, Traces, ShuffledImages)
    found = [text.partition(":")[0] for source in sources for text in unmarked(source)]
    assert found == ["Traces.low"]  # -inf by default, which is below what any array holds
