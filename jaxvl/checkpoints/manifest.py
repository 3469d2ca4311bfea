# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says of itself, so that damage is seen: its step, and digests of all it holds.

The manifest is made from what is in memory when a save begins, and compared with what is in memory
after a restore: a fault on the way there, in between or on the way back shows, in whichever file.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxvl.checkpoints.digests import digests
from jaxvl.errors import UserError

ITEM = "manifest"  # its name in a checkpoint
FILES = "files.json"  # of a checkpoint: the size of every file
_NOTES = "_CHECKPOINT_METADATA"  # orbax's own, which it writes again after all others
_SMALL = 2**20  # bytes up to which a file's own checksum is noted: the digests do not cover notes


# The machine's doing, and no damage: the same file can be read another time, or by another user.
_PASSING = {
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ETIMEDOUT,
}


class Damaged(UserError):
    """A checkpoint that is not what was saved; the message says what of it."""


def begin(step: int, state: Any, data_state: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a checkpoint, its digests under way on the devices: nobody waits for them
    here, and what changes `state` afterwards comes after them. All processes call it."""
    found, shapes = named(digests(state)), named(state)
    leaves = {
        name: [list(shapes[name].shape), str(shapes[name].dtype), found[name]] for name in shapes
    }
    return {"step": step, "data": checksum(data_state), "leaves": leaves}


def write(folder: Path, begun: Mapping[str, Any]) -> None:
    """What was begun, in the folder of its checkpoint, once the digests are there."""
    found = jax.device_get({name: leaf[2] for name, leaf in begun["leaves"].items()})
    leaves = {name: [*leaf[:2], _hex(found[name])] for name, leaf in begun["leaves"].items()}
    said = {**begun, "leaves": leaves}
    text = json.dumps({**said, "sha256": checksum(said)})
    (folder / ITEM / "metadata").write_text(text, encoding="utf-8")


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest in the folder of a checkpoint, None where it is of a time without.

    Raises `Damaged` where it is not whole, or is another step's.
    """
    check_files(folder)
    item, items = folder / ITEM, _items(folder)
    if not item.is_dir():
        if ITEM in items:
            raise Damaged(f"{item} is missing")
        return None
    said = read_item(folder, ITEM)
    try:
        whole = said.pop("sha256") == checksum(said)
        step, data, leaves = said["step"], said["data"], said["leaves"]
        whole = whole and all(map(_is_leaf, leaves.values()))
    except (KeyError, AttributeError, TypeError, ValueError):
        whole = False
    if not whole:
        raise Damaged(f"{item} has changed since it was written")
    if str(step) != folder.name:
        raise Damaged(f"it is the checkpoint of step {step}, in a folder of another name")
    return {"data": data, "leaves": leaves, "run": said.get("run")}


def _is_leaf(leaf: Any) -> bool:
    """Whether it is the shape, dtype and digest of an array."""
    shape, dtype, digest = leaf
    return isinstance(shape, list) and isinstance(dtype, str) and isinstance(digest, str)


def read_item(folder: Path, name: str) -> dict[str, Any]:
    """What a JSON item of a checkpoint holds."""
    file = folder / name / "metadata"
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise Damaged(f"{file} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        _passing(error)
        raise Damaged(f"{file} cannot be read ({type(error).__name__}: {error})") from None
    if not isinstance(found, dict):
        raise Damaged(f"{file} holds a {type(found).__name__}; expected an object")
    return found


def list_files(folder: Path) -> None:
    """Note what files a checkpoint has, when all but the word that it is whole are written."""
    files = {str(file.relative_to(folder)): _seen(file) for file in sorted(folder.rglob("*"))}
    said = {name: seen for name, seen in files.items() if seen and name != _NOTES}
    (folder / FILES).write_text(json.dumps({"files": said, "sha256": checksum(said)}))


def check_files(folder: Path) -> None:
    """`Damaged` unless all files that were noted are there, as long as they were."""
    if not (folder / FILES).exists():
        return  # of a time without, or gone: the manifest is checked all the same
    try:
        noted = json.loads((folder / FILES).read_bytes())
        files = noted["files"]
        whole = noted["sha256"] == checksum(files) and isinstance(files, dict)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        _passing(error)
        whole = False
    if not whole:
        raise Damaged(f"{folder / FILES} has changed since it was written")
    for name, seen in files.items():
        found = _seen(folder / name)
        if not found:
            raise Damaged(f"{folder / name} is missing")
        if found != seen:
            sizes = f"{found[0]} bytes, {seen[0]} were written"
            raise Damaged(f"{folder / name} has {sizes if found[0] != seen[0] else 'changed'}")


def _seen(file: Path) -> list[Any]:
    """Size, and of a small file the checksum; empty where there is none."""
    if not file.is_file():
        return []
    size = file.stat().st_size
    return [size, hashlib.sha256(file.read_bytes()).hexdigest()] if size <= _SMALL else [size]


def check_data(manifest: Mapping[str, Any], data_state: Any) -> None:
    """`Damaged` unless the position in the data is the one that was saved."""
    if manifest["data"] != checksum(data_state):
        raise Damaged("the position in the data is not the one that was saved")


def check_arrays(manifest: Mapping[str, Any], tree: Any) -> None:
    """`Damaged` unless the arrays of `tree`, all of a checkpoint or some, are what was saved."""
    found = named(jax.device_get(digests(tree)))
    wrong = [name for name in found if _hex(found[name]) != manifest["leaves"][name][2]]
    if wrong:
        more = f" and {len(wrong) - 1} more arrays are" if len(wrong) > 1 else " is"
        raise Damaged(f"{wrong[0]}{more} not what was saved (digests differ)")


def check_run(manifest: Mapping[str, Any], run: str) -> None:
    """`Damaged` where it is another run's than the one whose word is `run`, if both have one."""
    if run and manifest["run"] not in (None, run):
        raise Damaged("it is the checkpoint of another run, put beside those of this one")


def misfits(manifest: Mapping[str, Any], wanted: Any) -> list[str]:
    """In what the arrays of a checkpoint are not those `wanted`, a line each."""
    leaves = {name: (tuple(leaf[0]), leaf[1]) for name, leaf in manifest["leaves"].items()}
    return differences(leaves, wanted)


def differences(found: Mapping[str, tuple[tuple[int, ...], str]], wanted: Any) -> list[str]:
    """As `misfits`, of (shape, dtype) by name."""
    expected = {name: (tuple(x.shape), str(x.dtype)) for name, x in named(wanted).items()}
    lines = []
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            is_, want = (_text(of.get(name)) for of in (found, expected))
            lines.append(f"{name}: the checkpoint has {is_}, the config {want}")
    return lines


def does_not_fit(folder: Path, wrong: Sequence[str]) -> str:
    """What to tell of misfits."""
    shown = "\n  ".join(wrong[:4])
    more = f"\n  and {len(wrong) - 4} more" if len(wrong) > 4 else ""
    return (
        f"{folder}: the checkpoint does not fit the config:\n  {shown}{more}\n"
        "resume with the model and optimizer that the run was started with"
    )


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their names, as "params/text/embed"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def checksum(value: Any) -> str:
    """The sha256 of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _items(folder: Path) -> set[str]:
    """The names of the items that were saved, as orbax has noted them."""
    file = folder / _NOTES
    try:
        return set(json.loads(file.read_bytes())["item_handlers"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        _passing(error)
        raise Damaged(f"{file} cannot be read ({type(error).__name__}: {error})") from None


def _passing(error: Exception) -> None:
    """Raises it again where it is the machine's."""
    if isinstance(error, OSError) and error.errno in _PASSING:
        raise error


def _hex(digest: Any) -> str:
    return "".join(f"{int(word):08x}" for word in digest)


def _text(leaf: tuple[tuple[int, ...], str] | None) -> str:
    return f"{leaf[1]}{list(leaf[0])}" if leaf else "none"
