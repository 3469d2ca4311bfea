# SPDX-License-Identifier: Apache-2.0
"""Damage of a checkpoint is seen, named as damage, and the one before is gone on from."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec

from jaxvl.checkpoints import manifest
from jaxvl.checkpoints.store import Checkpoints
from jaxvl.distributed.mesh import make_mesh
from jaxvl.errors import UserError
from jaxvl.rl.learner import TrainState
from scripts.bench.corruptions import FAULTS, flip_any


def make_state(step, width=512):
    """With enough bits in its arrays that a random one of its files is one of an array."""
    keys = jax.random.split(jax.random.key(step), 2)
    params = {"text": {"w": jax.random.normal(keys[0], (64, width))}, "embed": jnp.ones((300, 3))}
    return TrainState(jnp.int32(step), params, optax.adamw(1e-3).init(params))


def same(found, wanted):
    assert jax.tree.all(jax.tree.map(np.array_equal, found, wanted))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(folder, keep=2)
    for step in (2, 4):
        checkpoints.save(step, make_state(step), {"position": step})
    checkpoints.close()
    return folder


@pytest.fixture
def run_dir(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def resume(run_dir, like=None, step=None):
    checkpoints = Checkpoints(run_dir, keep=2)
    try:
        return checkpoints.resume(like or make_state(0), step)
    finally:
        checkpoints.close()


def test_what_is_whole_is_taken_as_it_was_saved(run_dir):
    found = resume(run_dir)
    same(found.state, make_state(4))
    assert (found.step, found.data, found.skipped) == (4, {"position": 4}, {})
    older = resume(run_dir, step=2)
    assert (older.step, older.data) == (2, {"position": 2})
    with pytest.raises(UserError, match=r"run.restore_step = 3: .* has 4, 2"):
        resume(run_dir, step=3)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_kind_of_damage_is_seen(run_dir, fault):
    FAULTS[fault](run_dir / "checkpoints/4")
    found = resume(run_dir)
    assert found.step == 2 and found.data == {"position": 2}
    assert "does not fit" not in found.skipped[4]
    same(found.state, make_state(2))


@pytest.mark.parametrize("seed", range(6))
def test_one_bit_is_seen(run_dir, seed):
    flip_any(run_dir / "checkpoints/4", np.random.default_rng(seed))
    found = resume(run_dir)
    assert found.step == 2, found
    same(found.state, make_state(2))


def test_a_folder_of_another_name_is_seen(run_dir):
    """Copied to a step that was never saved, or renamed to one."""
    shutil.copytree(run_dir / "checkpoints/4", run_dir / "checkpoints/7")
    found = resume(run_dir)
    assert found.step == 4 and "the checkpoint of step 4" in found.skipped[7]
    (run_dir / "checkpoints/4").rename(run_dir / "checkpoints/5")
    assert resume(run_dir).step == 2


def _say(folder, **other):
    """Its manifest with other fields (None: without it), as whole as it was."""
    (folder / manifest.FILES).unlink()
    file = folder / manifest.ITEM / "metadata"
    said = {**json.loads(file.read_text()), **other}
    said = {name: value for name, value in said.items() if value is not None and name != "sha256"}
    file.write_text(json.dumps({**said, "sha256": manifest.checksum(said)}))


def _position(folder, value):
    (folder / "data/metadata").write_text(json.dumps(value))
    _say(folder, data=manifest.checksum(value))


FORMS = {
    "leaves are a list": lambda f: _say(f, leaves=[1, 2]),
    "leaves are numbers": lambda f: _say(f, leaves={"params/embed": 5}),
    "a leaf without a digest": lambda f: _say(f, leaves={"params/embed": [[1], "float32"]}),
    "no leaves": lambda f: _say(f, leaves=None),
    "no position": lambda f: _say(f, data=None),
    "the position is a list": lambda f: _position(f, [1, 2]),
    "files.json is of a list": lambda f: (f / manifest.FILES).write_text(
        json.dumps({"files": [1], "sha256": manifest.checksum([1])})
    ),
    "files.json is too deep": lambda f: (f / manifest.FILES).write_text("[" * 100_000),
    "orbax's notes are too deep": lambda f: (f / "_CHECKPOINT_METADATA").write_text("[" * 100_000),
}


@pytest.mark.parametrize("form", FORMS)
def test_notes_of_another_form_are_damage(run_dir, form):
    """Also where their checksums are right."""
    FORMS[form](run_dir / "checkpoints/4")
    with pytest.raises(manifest.Damaged):
        manifest.read_item(run_dir / "checkpoints/4", "data")
        manifest.read(run_dir / "checkpoints/4")


def test_where_all_are_damaged_each_is_named(run_dir):
    for step, fault in ((2, "state missing"), (4, "4 KiB of zeros in the arrays")):
        FAULTS[fault](run_dir / f"checkpoints/{step}")
    with pytest.raises(UserError, match=r"(?s)no checkpoint in .* is whole:.* 4: .* 2: .*missing"):
        resume(run_dir)


@pytest.mark.parametrize(
    ("like", "words"),
    [
        (
            make_state(0, width=4),
            r"params/text/w: the checkpoint has float32\[64, 512\], the config",
        ),
        (
            TrainState(jnp.int32(0), make_state(0).params, ()),
            "opt_state/0/count: .*the config none",
        ),
        (make_state(0).params, "embed: the checkpoint has none"),
        (jax.tree.map(lambda x: x.astype(jnp.bfloat16), make_state(0)), r"the config bfloat16\["),
        (
            TrainState(jnp.int32(0), {"head": jnp.ones(3)}, make_state(0).opt_state),
            "params/embed: .*, the config none",
        ),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_another_model_is_no_damage(run_dir, like, words, old):
    """Nor is it where a checkpoint has no digests yet."""
    if old:
        forget_digests(run_dir / "checkpoints/4")
    with pytest.raises(UserError, match=f"(?s)/4: the checkpoint does not fit the config.*{words}"):
        resume(run_dir, like)


def forget_digests(folder):
    """As a checkpoint of a time without them is."""
    shutil.rmtree(folder / manifest.ITEM)
    (folder / manifest.FILES).unlink()
    notes = folder / "_CHECKPOINT_METADATA"
    notes.write_text(notes.read_text().replace(f'"{manifest.ITEM}":', '"other":'))


def test_a_checkpoint_of_a_time_without_digests_is_taken(run_dir, capsys):
    forget_digests(run_dir / "checkpoints/4")
    same(resume(run_dir).state, make_state(4))
    assert "checkpoints/4 has no digests" in capsys.readouterr().out


def test_parameters_alone_are_checked_too(run_dir):
    def shardings(shapes):
        mesh = make_mesh(devices=jax.devices()[:1])
        return jax.tree.map(lambda x: NamedSharding(mesh, Spec()), shapes)

    same(Checkpoints.newest_params(run_dir, shardings), make_state(4).params)
    FAULTS["4 KiB of noise in the arrays"](run_dir / "checkpoints/4")
    flip_any(run_dir / "checkpoints/4", np.random.default_rng(0))
    with pytest.raises(UserError, match=r"checkpoints/4 is damaged: .*move it away"):
        Checkpoints.newest_params(run_dir, shardings)


def test_what_was_passed_over_is_kept_and_its_step_saved_again(run_dir, tmp_path):
    FAULTS["the largest file cut in half"](run_dir / "checkpoints/4")
    (run_dir / "checkpoints/6").mkdir()  # of a save that was cut short
    checkpoints = Checkpoints(run_dir, keep=2)
    found = checkpoints.resume(make_state(0))
    checkpoints.set_aside(found.step, tmp_path / "aside", done=found.step + 9)
    assert [path.name for path in (tmp_path / "aside").iterdir()] == ["4"]
    checkpoints.save(4, make_state(4), {"position": 4})
    checkpoints.close()
    same(resume(run_dir).state, make_state(4))
