# SPDX-License-Identifier: Apache-2.0
"""Which room may know of which, read off the import lines."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "jaxvl").rglob("*.py"))
# config -> sharding -> batch -> models -> rl -> train, sft, eval: a room imports those before it.
# What stands on the right is what a room may not import; a name covers what is below it.
HOST_ONLY = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}
FORBIDDEN = {
    "data": HOST_ONLY
    | {f"jaxvl.{name}" for name in ("models", "rl", "batch", "sharding", "vlm", "train", "sft")},
    "rewards": HOST_ONLY
    | {f"jaxvl.{name}" for name in ("models", "rl", "batch", "sharding", "vlm", "train", "sft")},
    "errors": {"jaxvl"},
    "config": HOST_ONLY | {f"jaxvl.{name}" for name in ("models", "rl", "vlm", "train", "sft")},
    "sharding": {
        f"jaxvl.{name}" for name in ("batch", "models", "rl", "vlm", "train", "sft", "eval")
    },
    "processes": {f"jaxvl.{name}" for name in ("config", "sharding", "batch", "models", "vlm")},
    "batch": {f"jaxvl.{name}" for name in ("models", "rl", "vlm", "train", "sft", "eval")},
    "models": {f"jaxvl.{name}" for name in ("rl", "vlm", "train", "sft", "eval")},
    "rl": {f"jaxvl.{name}" for name in ("vlm", "train", "sft", "eval")},
    "vlm": {f"jaxvl.{name}" for name in ("train", "sft", "eval")},
    "sft": {"jaxvl.train", "jaxvl.eval"},
    "eval": {"jaxvl.train", "jaxvl.sft"},
    "plan": {f"jaxvl.{name}" for name in ("loop", "vlm", "train", "sft", "eval")},
}
for name in ("sharding", "batch", "models", "rl", "vlm", "loop", "opening", "sft", "eval", "train"):
    FORBIDDEN.setdefault(name, set()).add("jaxvl.plan")
# Reading benchmarks and marking replies needs no device, though a room's other files have one.
NO_DEVICE = {"eval/benchmarks", "eval/formats", "eval/protocols", "eval/marks", "eval/figures"}
# The part of NNX that means the same whether or not modules are graphs; jax does the rest.
NNX = {"Module", "Param", "Rngs", "split", "merge", "to_pure_dict", "GraphDef"}
ENTRANCES = {"cli", "__init__", "__main__"}  # may import train


def room(path):
    parts = path.relative_to(ROOT / "jaxvl").with_suffix("").parts
    return parts[0]


def imports(tree):
    """Dotted names that a file imports, `from a import b` as both a and a.b, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name, parents):
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def broken_rules(path, source):
    """What a file imports though its room may not."""
    forbidden = set(FORBIDDEN.get(room(path), ()))
    if "/".join(path.relative_to(ROOT / "jaxvl").with_suffix("").parts[:2]) in NO_DEVICE:
        forbidden |= FORBIDDEN["rewards"]
    if room(path) not in ENTRANCES | {"train"}:
        forbidden.add("jaxvl.train")
    return sorted({name for name in imports(ast.parse(source)) if below(name, forbidden)})


def test_there_are_files():
    assert {room(path) for path in FILES} >= {"data", "rewards", "models", "rl", "train", "vlm"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    assert broken_rules(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("data/image.py", "def f():\n    import jax.numpy as jnp", ["jax.numpy"]),
        ("rewards/mix.py", "from flax import nnx", ["flax", "flax.nnx"]),
        ("rewards/mix.py", "import jaxtyping", []),
        ("models/text.py", "from jaxvl.rl import losses", ["jaxvl.rl", "jaxvl.rl.losses"]),
        ("models/text.py", "from jaxvl import rl", ["jaxvl.rl"]),
        ("eval/run.py", "from jaxvl.train import Loop", ["jaxvl.train", "jaxvl.train.Loop"]),
        ("metrics.py", "from jaxvl import train", ["jaxvl.train"]),
        ("cli.py", "from jaxvl.train import train", []),
        ("eval/marks.py", "import jax", ["jax"]),
        ("eval/benchmarks/sat.py", "from jaxvl.vlm import VLM", ["jaxvl.vlm", "jaxvl.vlm.VLM"]),
        ("eval/run.py", "from jaxvl.vlm import VLM", []),
    ],
)
def test_the_rules_are_seen_when_broken(file, line, broken):
    assert broken_rules(ROOT / "jaxvl" / file, line) == broken


def nnx_names(source):
    """Attributes of `nnx` that a file uses, names imported from it included."""
    tree = ast.parse(source)
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "nnx"
    }
    for name in imports(tree):
        used |= {name.removeprefix("flax.nnx.")} if name.startswith("flax.nnx.") else set()
    return used


def test_nnx_is_used_as_plain_pytrees():
    used = {path: nnx_names(path.read_text()) for path in FILES}
    assert {name for names in used.values() for name in names} >= {"Module", "Param", "merge"}
    assert {str(path): names - NNX for path, names in used.items() if names - NNX} == {}
    assert nnx_names("from flax import nnx\n@nnx.jit\ndef f(): ...") == {"jit"}
    assert nnx_names("from flax.nnx import Optimizer") == {"Optimizer"}


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        (
            "import pkgutil, importlib, jaxvl.eval.benchmarks as b; "
            "[importlib.import_module(f'{b.__name__}.{m.name}') for m in pkgutil.iter_modules("
            "b.__path__)]",
            ["jax", "flax", "transformers", "torch", "grain", "pyarrow"],
        ),
        ("import jaxvl", ["jax", "flax", "transformers", "torch", "grain", "PIL"]),
        ("import jaxvl.rewards", ["jax", "flax", "transformers", "torch", "grain"]),
        ("import jaxvl.rewards.mix", ["jax", "flax", "transformers", "torch", "grain"]),
        ("import jaxvl.data.prompts", ["jax", "flax", "transformers", "torch"]),
        (
            "import jaxvl.data.intake, jaxvl.data.pipeline, jaxvl.data.prepared, jaxvl.data_cli",
            ["jax", "flax", "transformers", "torch", "grain", "pyarrow", "tensorflow_datasets"],
        ),
        (
            "import jaxvl.eval_cli, jaxvl.eval.run, jaxvl.eval.score, jaxvl.eval.page, "
            "jaxvl.eval.compare, jaxvl.eval.export",
            ["jax", "flax", "transformers", "torch", "grain"],
        ),
        ("import jaxvl.config", ["jax", "flax", "transformers", "torch"]),
        ("import jaxvl.vlm", ["torch", "tensorflow"]),
    ],
)
def test_a_fresh_process_stays_light(code, unwanted):
    """A reward worker starts with what it needs; nothing on the way to a model needs torch."""
    report = f"{code}; import sys; print(*[m for m in {unwanted} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == []


def test_the_check_of_a_fresh_process_sees_what_is_there():
    code = "import jaxvl.vlm, sys; print('jax' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert found.stdout.strip() == "True", found.stderr


def test_public_names_load_when_used():
    import jaxvl
    from jaxvl import vlm

    assert jaxvl.load is vlm.load and jaxvl.VLM is vlm.VLM
    assert jaxvl.Completion is vlm.Completion
    for name in jaxvl.__all__:
        assert getattr(jaxvl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        jaxvl.lod  # noqa: B018
