# SPDX-License-Identifier: Apache-2.0
"""A run's export put on the Hugging Face hub, with a card written from the run."""

from __future__ import annotations

from pathlib import Path

from jaxvl.errors import UserError
from jaxvl.models.io.find import EXPORT, is_hub_id
from jaxvl.observe.card import CURVES, card


def push_to_hub(run_dir: str | Path, repo_id: str, private: bool = True, message: str = "") -> str:
    """The URL of the commit in `repo_id` (OWNER/NAME, made where it is not there) that holds the
    export of the run, its card and its curves.

    Who pushes is known by `hf auth login` or HF_TOKEN; no token is read from a file of the run.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = Path(run_dir) / EXPORT
    if not is_hub_id(repo_id):
        raise UserError(f"{repo_id}: expected a hub id, OWNER/NAME")
    if not (folder / "config.json").is_file():
        raise UserError(f"{run_dir} has no export ({folder}): a run writes one at its end")
    text, curves = card(Path(run_dir))
    files: list[tuple[str, Path | bytes]] = [
        (file.name, file) for file in sorted(folder.iterdir()) if file.is_file()
    ]
    files = [(name, file) for name, file in files if name != "README.md"]
    files.append(("README.md", text.encode()))
    if curves:
        files.append((CURVES, curves))
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files
    ]
    api, name = HfApi(), f"{Path(run_dir).name} by jaxvl"
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        done = api.create_commit(
            repo_id,
            operations=operations,
            commit_message=message or name,
        )
    except Exception as error:  # no connection: the classes differ between HTTP libraries
        raise UserError(
            f"{repo_id} could not be written ({type(error).__name__}: {error}); log in with "
            "`hf auth login`, or set HF_TOKEN"
        ) from error
    return str(done.commit_url)
