# SPDX-License-Identifier: Apache-2.0
"""`jaxvl eval compare A B`: the same questions answered twice, and what may be said of it.

An item's value is the mean over its samples. With one sample and marks of 0 and 1 the test is
McNemar's, exact; else Wilcoxon's signed ranks. Both take items for independent: where some are kin
there is a p from the standard error between clusters, too. The interval of the difference is a
paired cluster bootstrap's. Holm's correction is over the tasks that are compared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxvl.errors import UserError
from jaxvl.eval.engines.predictions import folders
from jaxvl.eval.reporting import stats, tables
from jaxvl.eval.reporting.tables import Table, percent
from jaxvl.eval.scoring.score import plain, read_results, read_scores
from jaxvl.eval.tasks import find

_LISTED = 20
# Of the settings these say who replied; the others are in what is compared.
_WHO = {"model", "weights", "url", "replies", "dataset", "protocol", "system_prompt"}


def compare(first: Path, second: Path, mode: str = "lenient", force: bool = False) -> list[dict]:
    """What B is against A, a dict a task that both have.

    UserError where the data, the prompts or the rules differ, unless `force`.
    """
    ours = {folder.name: folder for folder in folders(first)}
    others = {folder.name: folder for folder in folders(second)}
    names = [name for name in ours if name in others]
    if not names:
        raise UserError(
            f"{first} has {', '.join(ours)}, {second} has {', '.join(others)}: no benchmark in "
            "common; ask both models the same"
        )
    found = [_task(name, ours[name], others[name], mode, force) for name in names]
    counted = [one["p"] if one["p, clusters"] is None else one["p, clusters"] for one in found]
    for one, p in zip(found, stats.holm(counted), strict=True):
        one["p, Holm"] = p
    return plain(found)


def paired(
    name: str, a: Path, b: Path, mode: str, force: bool
) -> tuple[tuple[dict, dict], list[dict[str, list[dict]]], list[str]]:
    """results.json of two folders, the rows of their scores by id, and why they are not of the same
    questions by the same rules: UserError for that, unless `force`.

    Where a reply that nobody can judge is not wrong, but in no rate, it is not among the rows.
    """
    results = read_results(a), read_results(b)
    for one in results:
        if mode not in one["modes"]:
            raise UserError(f"{name} is not scored as {mode!r}, but as {', '.join(one['modes'])}")
    every = find(name).none_is_wrong
    rows = [
        _by_item([row for row in read_scores(of) if every or row[mode]["value"] is not None])
        for of in (a, b)
    ]
    shared = [id for id in rows[0] if id in rows[1]]
    if not shared:
        nobody = [str(of) for of, found in zip((a, b), rows, strict=True) if not found]
        if nobody:
            raise UserError(
                f"{name}: no reply of {' or of '.join(nobody)} could be judged (thoughts without "
                "an end, broken answer tags), so there is nothing to compare; look at its unparsed "
                "share, and ask again with more --max-new-tokens"
            )
        raise UserError(f"{name}: {a} and {b} have no item in common")
    problems = _differences(results, rows, shared)
    if problems and not force:
        raise UserError(
            f"{name}: {a} and {b} cannot be compared: {'; '.join(problems)}. --force compares all "
            "the same"
        )
    return results, rows, problems


def _task(name: str, a: Path, b: Path, mode: str, force: bool) -> dict[str, Any]:
    results, rows, problems = paired(name, a, b, mode, force)
    shared = [id for id in rows[0] if id in rows[1]]
    values = [
        [_mean([row[mode]["value"] or 0.0 for row in of[id]]) for id in shared] for of in rows
    ]
    clusters = [rows[0][id][0]["cluster"] for id in shared]
    differences = [y - x for x, y in zip(*values, strict=True)]
    wins = [id for id, d in zip(shared, differences, strict=True) if d > 0]
    losses = [id for id, d in zip(shared, differences, strict=True) if d < 0]
    binary = all(value in (0.0, 1.0) for of in values for value in of)
    error = stats.standard_error(differences, clusters)
    apart = len(set(clusters))
    p_of_clusters = None
    if apart < len(clusters):
        p_of_clusters = stats.of_mean(_mean(differences), error, apart)
    return {
        "task": name,
        "mode": mode,
        "partial": any(one["partial"] for one in results),
        "problems": problems,
        "settings": _settings(*results),
        "items": len(shared),
        "only": [[id for id in of if id not in other] for of, other in (rows, rows[::-1])],
        "a": stats.proportion(values[0], clusters),
        "b": stats.proportion(values[1], clusters),
        "difference": stats.mean(differences, clusters),
        "wins": wins,
        "losses": losses,
        "ties": len(shared) - len(wins) - len(losses),
        "test": "McNemar, exact" if binary else "Wilcoxon, Pratt",
        "p": stats.mcnemar(len(wins), len(losses)) if binary else stats.wilcoxon(differences),
        "p, clusters": p_of_clusters,
        "detectable": stats.detectable(error),
    }


def _settings(first: dict, second: dict) -> dict[str, list[Any]]:
    """What else differs in how replies were made, besides the model: [A's, B's] by name."""
    of = first["settings"], second["settings"]
    names = [name for name in dict.fromkeys([*of[0], *of[1]]) if name not in _WHO]
    both = {name: [one.get(name) for one in of] for name in names}
    return {name: values for name, values in both.items() if values[0] != values[1]}


def _differences(
    results: Sequence[dict], rows: Sequence[dict[str, list[dict]]], shared: Sequence[str]
) -> list[str]:
    """Why two sets of scores are not of the same questions by the same rules."""
    first, second = results
    problems = [
        f"{what} {first[name]} against {second[name]}"
        for name, what in (("dataset", "dataset"), ("verifier", "version of the rules"))
        if first[name] != second[name]
    ]
    for name, what in (("prompt_digest", "prompts"), ("row", "questions or golds")):
        other = [id for id in shared if rows[0][id][0][name] != rows[1][id][0][name]]
        if other:
            problems.append(f"the {what} of {len(other)} items differ, first {other[0]}")
    return problems


def _by_item(scores: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in scores:
        found.setdefault(row["id"], []).append(row)
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def overview(found: Sequence[dict[str, Any]]) -> Table:
    """A row a task, differences in points."""
    columns = ["task", "items", "A", "B", "B - A", "wins", "losses", "ties", "test", "p"]
    columns += ["p, clusters", "p, Holm", "detectable"]
    rows = []
    for one in found:
        seen = "-" if one["detectable"] is None else f"{100 * one['detectable']:.1f}"
        row = [("PARTIAL " if one["partial"] else "") + one["task"], one["items"]]
        row += [percent(one[name]) for name in ("a", "b", "difference")]
        row += [len(one["wins"]), len(one["losses"]), one["ties"], one["test"]]
        clustered = "-" if one["p, clusters"] is None else f"{one['p, clusters']:.4f}"
        rows.append(row + [f"{one['p']:.4f}", clustered, f"{one['p, Holm']:.4f}", seen])
    return {"title": f"B against A, {found[0]['mode']}", "columns": columns, "rows": rows}


def to_markdown(found: Sequence[dict[str, Any]]) -> str:
    """The table, with what has to be said of it and the items that flipped."""
    lines = [tables.markdown(overview(found))]
    lines += [
        "Detectable: the difference that a test at 5% sees with 80% power. The test named takes "
        "items for independent. Where some are kin `p, clusters` knows it, as the intervals do, "
        "and Holm's correction is of that.",
        "",
    ]
    for one in found:
        lines += [f"### {one['task']}", ""]
        lines += [f"Compared by force: {problem}." for problem in one["problems"]]
        lines += [
            f"Not the same in both: {name}, {first!r} in A and {second!r} in B."
            for name, (first, second) in one["settings"].items()
        ]
        for name, ids in (
            ("wins of B", one["wins"]),
            ("losses of B", one["losses"]),
            ("left out, only in A", one["only"][0]),
            ("left out, only in B", one["only"][1]),
        ):
            more = f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else ""
            lines.append(f"- {name}: {', '.join(ids[:_LISTED]) or 'none'}{more}")
        lines.append("")
    return "\n".join(lines)


def to_json(found: Sequence[dict[str, Any]]) -> str:
    """Everything, all ids included."""
    return json.dumps(found, indent=1) + "\n"
