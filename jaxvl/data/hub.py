# SPDX-License-Identifier: Apache-2.0
"""Where a dataset's files of rows are: a file, a folder, or a dataset of the Hugging Face hub.

A hub dataset is written `hf://datasets/OWNER/NAME`, with `@REVISION` and a folder below it where
wanted. What is fetched lies in the hub's own cache and is fetched once.
"""

from __future__ import annotations

import fnmatch
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxvl.data.image import is_url
from jaxvl.data.strict_json import read_json
from jaxvl.errors import UserError

PREFIX = "hf://"
SUFFIXES = (".parquet", ".arrow", ".jsonl", ".json", ".tsv", ".csv")
_WHOLE = (".parquet", ".arrow", ".tsv")  # these hold their images: nothing else is needed
_NO_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_SPLITS = (
    {"train", "training"},
    {"validation", "valid", "val", "dev"},
    {"test", "testing", "eval"},
)
_BARE = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_ID = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([\w./-]+?))?(?:/(.+?))?/?")


def find(where: str | Path, split: str = "", subset: str = "") -> list[Path]:
    """The files of rows at `where`, ordered by name.

    In a folder, `split` chooses the files that have it as a word of their path below the folder
    (`data/train-00000-of-00004.parquet`, `train/a.jsonl`, `SAT_train.parquet`), unless the card's
    header (README.md) lists the files of each split. A folder whose files name no split at all is
    taken whole. `subset` is the name of a configuration in the card, or of a folder.
    """
    given, where = where, address(where)
    if where != given:
        print(f"data: there is no {given} here; {where} is looked for on the hub", file=sys.stderr)
    path = _fetch(str(where), split, subset) if str(where).startswith(PREFIX) else Path(where)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise UserError(f"{path}: expected a file of rows, one of {', '.join(SUFFIXES)}")
        return [path]
    if not path.is_dir():
        raise UserError(f"there is no file or folder {given}; {_expected(str(given))}")
    names = [str(p.relative_to(path)) for p in path.rglob("*") if p.suffix in SUFFIXES]
    card = path / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return [path / name for name in choose(names, text, split, subset, str(where))]


def _expected(given: str) -> str:
    """What to give instead of a path at which there is nothing."""
    if is_url(given):
        return "nothing is fetched from a URL: download it, or give hf://datasets/OWNER/NAME"
    return "expected a file of rows, a folder with such files, or a dataset of the hub (OWNER/NAME)"


def address(where: str | Path) -> str | Path:
    """`where`, but of what is no path here and has the form of a hub id (OWNER/NAME) the hub's
    dataset of that name."""
    text = str(where)
    if Path(where).exists() or Path(where).suffix in SUFFIXES or not _BARE.fullmatch(text):
        return where
    return f"{PREFIX}datasets/{text}"


def on_hub(where: str | Path) -> bool:
    """Whether `where` is looked for on the hub."""
    return str(address(where)).startswith(PREFIX)


def revision(where: str | Path, files: Sequence[Path]) -> str:
    """The commit that the files of a hub dataset are of, "" for files of this machine."""
    if not on_hub(where):
        return ""
    above = {folder.name for file in files for folder in file.parents if _in_cache(folder)}
    return min(above) if len(above) == 1 else ""


def _in_cache(folder: Path) -> bool:
    return folder.parent.name == "snapshots"


def root(where: str | Path, file: Path) -> Path:
    """The folder that the rows of a file may name files of: `where`, if it is one, else that of the
    file; of a hub dataset its copy in the cache."""
    where = address(where)
    if str(where).startswith(PREFIX):
        copies = [folder for folder in file.parents if _in_cache(folder)]
        return copies[0] if copies else file.parent
    return Path(where) if Path(where).is_dir() else file.parent


def choose(names: Sequence[str], card: str, split: str, subset: str, where: str) -> list[str]:
    """Those of `names` (paths below a folder) that hold the rows of a split, by `find`'s rules."""
    files = sorted(name for name in names if Path(name).suffix in SUFFIXES)
    files = [name for name in files if Path(name).name not in _NO_ROWS]
    chosen = _listed(card, files, split, subset)
    if not chosen:
        if subset:
            files = [name for name in files if subset in Path(name).parts[:-1]]
        chosen = _by_name(files, split)
    suffixes = [suffix for suffix in SUFFIXES if any(name.endswith(suffix) for name in chosen)]
    if not suffixes:
        wanted = f"the split `{split}`" + (f" of the subset `{subset}`" if subset else "")
        found = ", ".join(files[:5]) + (" .." if len(files) > 5 else "")
        raise UserError(f"{where} has no files of {wanted}; found {found or 'no files of rows'}")
    return [name for name in chosen if name.endswith(suffixes[0])]


def _by_name(files: Sequence[str], split: str) -> list[str]:
    if not split:
        return list(files)
    wanted = next((group for group in _SPLITS if split in group), {split})
    words = {name: set(re.split(r"[^a-z0-9]+", name.lower())) for name in files}
    chosen = [name for name in files if words[name] & wanted]
    if (
        not chosen
        and split == "train"
        and not any(words[name] & group for name in files for group in _SPLITS)
    ):
        return list(files)
    return chosen


def _listed(card: str, files: Sequence[str], split: str, subset: str) -> list[str]:
    """What the card's header says of a split: `configs: [{config_name, data_files: ..}]`."""
    from jaxvl.data import strict_yaml  # loads yaml, which local files do without

    header = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
    try:
        configs = (strict_yaml.loads(header[1]) or {}).get("configs") or [] if header else []
        chosen = [c for c in configs if c.get("config_name", "default") == (subset or "default")]
        listed = [item for c in chosen or configs[:1] for item in _patterns(c.get("data_files"))]
    except (ValueError, AttributeError, TypeError):
        return []  # a header of another form says nothing about files
    patterns = [pattern for name, pattern in listed if not split or name == split]
    return [name for name in files if any(fnmatch.fnmatch(name, p) for p in patterns)]


def _patterns(data_files: Any) -> list[tuple[str, str]]:
    """(split, pattern) pairs of a card's `data_files`, which comes in several forms."""
    if isinstance(data_files, str):
        return [("train", data_files)]
    pairs = []
    for item in data_files or []:
        if isinstance(item, str):
            pairs.append(("train", item))
        else:
            paths = item["path"] if isinstance(item["path"], list) else [item["path"]]
            pairs += [(item.get("split", "train"), path) for path in paths]
    return pairs


def _fetch(uri: str, split: str, subset: str) -> Path:
    """The folder of a hub dataset in the cache, with all the files that `find` will want.

    Files that hold their own images come alone, others with the whole of the dataset. Without a
    connection it is what the cache has.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    match = _ID.fullmatch(uri)
    if not match:
        raise UserError(f"{uri}: expected hf://datasets/OWNER/NAME[@REVISION][/FOLDER]")
    repo, revision, folder = match.groups(default="")
    place: dict[str, Any] = {"repo_id": repo, "repo_type": "dataset", "revision": revision or None}
    try:
        names = huggingface_hub.HfApi().list_repo_files(**place)
        card = ""
        if "README.md" in names and not folder:
            file = huggingface_hub.hf_hub_download(filename="README.md", **place)
            card = Path(file).read_text(encoding="utf-8", errors="replace")
        below = [name[len(folder) :].lstrip("/") for name in names if name.startswith(folder)]
        chosen = choose(below, card, split, subset, uri)
        alone = [str(Path(folder, name)) for name in chosen] + ["README.md"]
        wanted = alone if Path(chosen[0]).suffix in _WHOLE else None
        return Path(huggingface_hub.snapshot_download(**place, allow_patterns=wanted), folder)
    except UserError:
        raise
    except HfHubHTTPError as error:
        raise UserError(f"cannot fetch {uri}: {error}") from error
    except Exception as error:  # no connection: the classes differ between HTTP libraries
        return Path(_cached(place, uri, error), folder)


def _cached(place: dict[str, Any], uri: str, error: Exception) -> str:
    """The dataset's folder in the cache, which may have only some of its files."""
    import huggingface_hub

    try:
        return huggingface_hub.snapshot_download(**place, local_files_only=True)
    except OSError as missing:
        path = getattr(missing, "snapshot_path", "")
        if path:
            return path
        raise UserError(
            f"cannot fetch {uri} ({error}), and it is not in the cache; check the connection"
        ) from error


def pinned(source: Any, run_dir: Path) -> list[str]:
    """The revision of a hub dataset, in words and in the run's data.json. UserError where the run
    was begun with another."""
    path = getattr(source, "path", "")
    if not isinstance(path, str) or not str(address(path)).startswith(PREFIX):
        return []
    commit, file = revision(path, source.files()), run_dir / "data.json"
    before = read_json(file).get("revision")
    if commit and before not in (None, commit):
        raise UserError(
            f"{run_dir} was begun with {path} at {before}, and the hub now has {commit}: go on "
            f"with data.source.path={address(path)}@{before}, or choose another run.dir"
        )
    file.write_text(json.dumps({"path": path, "revision": commit}) + "\n", encoding="utf-8")
    return [f"{path} is at {commit}"]
