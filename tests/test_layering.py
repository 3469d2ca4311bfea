# SPDX-License-Identifier: Apache-2.0
"""Which layer may know of which, read off the import lines."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxvl import old_names

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "jaxvl").rglob("*.py"))
# A layer is a folder or a file at the top of jaxvl/; it may import itself and the layers before it.
LAYERS = (
    "old_names",
    "errors",
    "arguments",
    "data",
    "config",
    "rewards",
    "distributed",
    "models",
    "rl",
    "observe",
    "vlm",
    "checkpoints",
    "plan",
    "eval",
    "train",
    "curate",
    "migrate",
    "serve",
    "cli",
)
ENTRANCES = {"__init__", "__main__"}  # they lead to any layer
HOST_ONLY = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}
# Reading benchmarks and marking replies needs no device either, though engines do.
NO_DEVICE = ("data", "config", "rewards", "curate", "migrate", "eval/benchmarks", "eval/scoring")
# The part of NNX that means the same whether or not modules are graphs; jax does the rest.
NNX = {"Module", "Param", "Rngs", "split", "merge", "to_pure_dict", "GraphDef"}


def layer(path):
    return path.relative_to(ROOT / "jaxvl").with_suffix("").parts[0]


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
    """What a file imports though its layer may not."""
    own = layer(path)
    forbidden = set()
    if own not in ENTRANCES:
        forbidden |= {f"jaxvl.{name}" for name in LAYERS[LAYERS.index(own) + 1 :]}
    if path.relative_to(ROOT / "jaxvl").as_posix().startswith(NO_DEVICE):
        forbidden |= HOST_ONLY
    return sorted({name for name in imports(ast.parse(source)) if below(name, forbidden)})


def module_name(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def circles(graph):
    """Modules that import each other, however far around: a set of names for each circle."""

    def reached(start):
        seen, todo = set(), [start]
        while todo:
            new = graph.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        return seen

    ways = {name: reached(name) for name in graph}
    return {
        frozenset({name} | {other for other in ways[name] if name in ways.get(other, ())})
        for name in graph
        if name in ways[name]
    }


def test_every_file_has_a_layer():
    assert {layer(path) for path in FILES} - ENTRANCES <= set(LAYERS)
    top = {path.name for path in (ROOT / "jaxvl").iterdir() if path.is_file()}
    modules = {"arguments.py", "errors.py", "old_names.py", "vlm.py"}
    assert top == {"__init__.py", "__main__.py", "py.typed", *modules}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    assert broken_rules(path, path.read_text()) == []


def test_no_module_imports_itself_by_way_of_others():
    names = {module_name(path) for path in FILES}
    graph = {
        module_name(path): names & set(imports(ast.parse(path.read_text())))
        for path in FILES
        if path.name != "__init__.py"
    }
    assert circles(graph) == set()
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {frozenset("abc")}


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("data/image.py", "def f():\n    import jax.numpy as jnp", ["jax.numpy"]),
        ("rewards/mix.py", "from flax import nnx", ["flax", "flax.nnx"]),
        ("rewards/mix.py", "import jaxtyping", []),
        ("models/text.py", "from jaxvl.rl import losses", ["jaxvl.rl", "jaxvl.rl.losses"]),
        ("models/text.py", "from jaxvl import rl", ["jaxvl.rl"]),
        (
            "eval/engines/run.py",
            "from jaxvl.train.grpo import Loop",
            ["jaxvl.train.grpo", "jaxvl.train.grpo.Loop"],
        ),
        ("observe/metrics.py", "from jaxvl import train", ["jaxvl.train"]),
        ("cli/main.py", "from jaxvl.train.grpo import train", []),
        ("eval/scoring/marks.py", "import jax", ["jax"]),
        ("eval/benchmarks/sat.py", "import jax", ["jax"]),
        ("eval/engines/run.py", "from jaxvl.vlm import VLM", []),
        ("errors.py", "import jaxvl.data.image", ["jaxvl.data.image"]),
    ],
)
def test_the_rules_are_seen_when_broken(file, line, broken):
    assert broken_rules(ROOT / "jaxvl" / file, line) == broken


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("jaxvl.sft", "jaxvl.train.sft"),
        ("jaxvl.sharding", "jaxvl.distributed.mesh"),
        ("jaxvl.models.hf", "jaxvl.models.io.hf"),
        ("jaxvl.metrics", "jaxvl.observe.metrics"),
        ("jaxvl.eval.stats", "jaxvl.eval.reporting.stats"),
    ],
)
def test_an_old_name_is_the_new_module(old, new):
    module = importlib.import_module(new)
    assert importlib.import_module(old) is module
    assert module.__name__ == module.__spec__.name == new


def test_an_old_name_of_a_class_is_the_new_class():
    for path, renamed in old_names.CLASSES.items():
        module = importlib.import_module(f"jaxvl.{path}")
        for old, new in renamed.items():
            assert getattr(module, old) is getattr(module, new)
            # it stands for nothing else in that module by now
            assert not re.search(rf"^(class )?{old}\b", inspect.getsource(module), re.MULTILINE)
    from jaxvl.loop import Item

    from jaxvl.rewards.pool import Limits

    assert (Item.__name__, Limits.__name__) == ("StreamItem", "WorkerLimits")


def test_no_two_modules_have_a_public_class_of_one_name():
    found = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in found.items() if len(where) > 1} == {}


def test_names_that_users_had():
    from jaxvl.sft import train as sft

    from jaxvl.config import GRPO, load  # noqa: F401
    from jaxvl.models import hf
    from jaxvl.train import train

    assert callable(train) and callable(sft) and hf.__name__ == "jaxvl.models.io.hf"


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
            "import jaxvl.data.intake, jaxvl.data.pipeline, jaxvl.data.prepared, jaxvl.cli.data",
            ["jax", "flax", "transformers", "torch", "grain", "pyarrow", "tensorflow_datasets"],
        ),
        (
            "import jaxvl.cli.eval, jaxvl.eval.engines.run, jaxvl.eval.scoring.score; "
            "from jaxvl.eval.reporting import page, compare, export",
            ["jax", "flax", "transformers", "torch", "grain"],
        ),
        (
            "import jaxvl.cli.curate, jaxvl.curate.flow, jaxvl.curate.perplexity, "
            "jaxvl.curate.estimate",
            ["jax", "flax", "transformers", "torch", "grain", "pyarrow"],
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
    from jaxvl.checkpoints import start

    assert jaxvl.load is start.load and jaxvl.VLM is vlm.VLM
    assert jaxvl.Completion is vlm.Completion
    for name in jaxvl.__all__:
        assert getattr(jaxvl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        jaxvl.lod  # noqa: B018
