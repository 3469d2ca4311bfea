# SPDX-License-Identifier: Apache-2.0
"""`jaxvl curate ..`: from images with questions to sets for SFT and for RL, in six steps."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxvl.cli import given
from jaxvl.errors import UserError

if TYPE_CHECKING:  # a command imports what it needs when it runs
    from jaxvl.curate.manifest import Manifest
    from jaxvl.curate.steps import Step
    from jaxvl.curate.teachers import Answer, Teacher

app = typer.Typer(
    no_args_is_help=True, help="Make reasoning data as VLAA-Thinking's pipeline does: six steps."
)

Rows = Annotated[Path, typer.Argument(metavar="ROWS", help="The rows of the step before.")]
OutFile = Annotated[Path, typer.Option("--out", help="The file of rows to write.")]
OutDir = Annotated[Path, typer.Option("--out", help="The folder to write into.")]
Sources = Annotated[
    list[str],
    typer.Option(
        "--source", help="NAME=PATH: a dataset, one of the paper's names or your own. Repeat it."
    ),
]
Take = Annotated[
    list[str] | None,
    typer.Option(help="NAME=N: so many rows of a source; `paper`: as many as the paper."),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind", help="NAME=KIND: how your own source is rewarded: digit, mcq, math, iou or open."
    ),
]
Captions = Annotated[
    list[str] | None, typer.Option(help="NAME=FILE: captions that a source has already.")
]
AllQuestions = Annotated[
    bool, typer.Option("--all-questions", help="Not one question an image, but all.")
]
Seed = Annotated[int, typer.Option(help="Seed of the draws.")]
Sft = Annotated[
    list[str] | None, typer.Option(help="NAME=N, or `paper`: rows of a source for SFT.")
]
Rl = Annotated[list[str] | None, typer.Option(help="NAME=N, or `paper`: rows of a source for RL.")]
Aha = Annotated[int, typer.Option(help="Rows with reflection, for SFT on them.", min=0)]
TeacherName = Annotated[
    str,
    typer.Option("--teacher", help="A chat endpoint's whole address, local:CHECKPOINT, or stub."),
]
ModelName = Annotated[str, typer.Option(help="The endpoint's name of the model.")]
Key = Annotated[str, typer.Option(help="The environment variable that holds the endpoint's key.")]
Prompts = Annotated[
    Path | None, typer.Option(help="A folder of prompts in place of ours; may hold some of them.")
]
Failed = Annotated[
    str, typer.Option(help="What a request that fails for good does: stop the step, or drop a row.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would ask and cost.")]
EngineName = Annotated[
    str, typer.Option("--engine", help="local: this process; ray: workers of Ray Data.")
]
Workers = Annotated[int, typer.Option(help="Ray's workers; 0: one for each core.", min=0)]
Settings = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")]


@app.command()
def metadata(
    source: Sources,
    out: OutFile,
    take: Take = None,
    kind: Kinds = None,
    captions: Captions = None,
    all_questions: AllQuestions = False,
    seed: Seed = 0,
) -> None:
    """Step 1: rows of (image, question, answer) from published datasets."""
    from jaxvl.curate.metadata import run

    chosen = given.chosen(take, kind, captions, all_questions, seed)
    done = run(given.pairs(source, "--source"), out, chosen)
    _say(done, out)
    _check_rows(done, out.parent)


def _asking(name: str, about: str) -> None:
    """Adds the command of a step that asks."""

    @app.command(name, help=about)
    def command(
        source: Rows,
        out: OutFile,
        settings: Settings = None,
        teacher: TeacherName = "",
        model: ModelName = "",
        key: Key = "",
        prompts: Prompts = None,
        failed: Failed = "stop",
        engine: EngineName = "local",
        workers: Workers = 0,
        dry_run: DryRun = False,
    ) -> None:
        from jaxvl.curate import flow, work
        from jaxvl.curate.rows import read
        from jaxvl.curate.steps import shared
        from jaxvl.data.engine import opened

        cfg = _flow(teacher, model, key, [f"{name}.{text}" for text in settings or []])
        steps = cfg.steps(source.parent / "images", prompts)
        step = next(step for step in steps if step.name == name)
        if dry_run:
            _say_estimate([step], read(source))
            return
        counts: Counter = Counter()
        cache = out.parent / flow.CACHE
        with opened(engine, workers) as mapped, _progress() as tell, _tries([step], {name: counts}):
            step = shared(step, mapped.workers)
            done = work.run(
                step,
                source,
                out,
                functools.partial(_open_teacher, step, cache),
                given.failed(failed),
                functools.partial(tell, name),
                mapped,
                counts.update,
            )
        _say(done, out)
        _say_asked(step, counts)
        _check_rows(done, out.parent)


_asking("caption", "Step 2: a caption of each image, where there is none.")
_asking("distil", "Step 3: reasoning and an answer, by a teacher that reads the caption.")
_asking("rewrite", "Step 4: the same without a word of captions; a gap of over 15 words drops it.")
_asking("verify", "Step 5: whether the answer agrees with the right one; only Yes is kept.")


@app.command()
def split(
    source: Rows, out: OutDir, sft: Sft = None, rl: Rl = None, aha: Aha = 55_000, seed: Seed = 0
) -> None:
    """Step 6: disjoint sets for SFT and RL, by words of reflection."""
    from jaxvl.curate.split import run

    done = run(source, out, given.sizes(sft, rl, aha, seed))
    _say(done, out)
    _check_rows(done, out)


@app.command()
def select(
    source: Rows,
    out: OutDir,
    scorer: Annotated[list[str], typer.Option(help="A checkpoint or hub id. Repeat it.")],
    sizes: Annotated[str, typer.Option(help="Rows to keep, with commas between.")] = (
        "5000,10000,25000"
    ),
    batch_size: Annotated[int, typer.Option(help="Rows at a time.", min=1)] = 16,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    engine: EngineName = "local",
    workers: Workers = 0,
) -> None:
    """Of an SFT set the rows of the highest perplexity under one's own models."""
    from jaxvl.curate.perplexity import PerplexityScorer
    from jaxvl.curate.perplexity import select as run
    from jaxvl.data.engine import opened

    numbers = [given.number(text, "--sizes") for text in sizes.split(",")]
    scorers = [
        PerplexityScorer(f"{_fingerprint(path)} {dtype}", functools.partial(_logprobs, path, dtype))
        for path in scorer
    ]
    with opened(engine, workers) as mapped, _progress() as tell:
        told = functools.partial(tell, "select")
        done = run(source, out, scorers, numbers, batch_size, told, mapped)
    _say(done, out)


@app.command()
def run(
    source: Sources,
    out: OutDir,
    settings: Settings = None,
    teacher: TeacherName = "",
    model: ModelName = "",
    key: Key = "",
    take: Take = None,
    kind: Kinds = None,
    captions: Captions = None,
    all_questions: AllQuestions = False,
    sft: Sft = None,
    rl: Rl = None,
    aha: Aha = 55_000,
    seed: Seed = 0,
    prompts: Prompts = None,
    failed: Failed = "stop",
    engine: EngineName = "local",
    workers: Workers = 0,
    dry_run: DryRun = False,
) -> None:
    """All six steps in one folder; goes on where it was stopped. A step's settings are
    STEP.FIELD=VALUE: distil.model=NAME, caption.teacher=https://.., verify.key=VARIABLE."""
    from jaxvl.curate import flow

    paths = given.pairs(source, "--source")
    chosen = given.chosen(take, kind, captions, all_questions, seed)
    steps = _flow(teacher, model, key, settings or []).steps(out / "images", prompts)
    if dry_run:
        from jaxvl.curate.metadata import collect

        _say_estimate(steps, collect(paths, None, chosen)[0])
        return
    from jaxvl.curate.steps import shared
    from jaxvl.data.engine import opened

    counts: dict[str, Counter] = {step.name: Counter() for step in steps}
    manifests = {}
    sizes, stop_or_drop = given.sizes(sft, rl, aha, seed), given.failed(failed)

    def count(step: str, found: Counter) -> None:
        counts[step].update(found)

    with opened(engine, workers) as mapped, _progress() as tell, _tries(steps, counts):
        steps = [shared(step, mapped.workers) for step in steps]
        for done in flow.run(
            paths, out, steps, _open_teacher, chosen, sizes, stop_or_drop, tell, mapped, count
        ):
            manifests[done["step"]] = done
            _say(done, out)
            for step in steps:
                if step.name == done["step"]:
                    _say_asked(step, counts.pop(step.name))
            _check_rows(done, out)
    for line in flow.table(manifests):
        typer.echo("  ".join(f"{cell:>18}" for cell in line))


def _flow(teacher: str, model: str, key: str, settings: Sequence[str]) -> Any:
    from jaxvl.config.fields import check_fields
    from jaxvl.config.overrides import set_field
    from jaxvl.curate.flow import ASKING, Flow

    cfg = Flow()
    common = {"teacher": teacher, "model": model, "key": key}
    steps = {name: dataclasses.replace(getattr(cfg, name), **common) for name in ASKING}
    cfg = dataclasses.replace(cfg, **steps)
    for setting in settings:
        try:
            cfg = set_field(cfg, setting)
        except UserError as error:  # of a value alone, without its step
            path = setting.partition("=")[0]
            raise error if path in str(error) else UserError(f"{path}: {error}") from error
    check_fields(cfg)
    for name in ASKING:  # of a checkpoint what it is counts, not where
        asked = getattr(cfg, name)
        if asked.teacher.startswith("local:"):
            model = _fingerprint(asked.teacher.removeprefix("local:"))
            cfg = dataclasses.replace(cfg, **{name: dataclasses.replace(asked, model=model)})
    return cfg


def _open_teacher(step: Step, cache: Path) -> Teacher:
    from jaxvl.curate.teachers import open_teacher

    return open_teacher(step.asked, step.name, cache, _local_answers)


def _local_answers(path: str) -> Answer:
    from jaxvl.cli.runtime import prepare_jax

    prepare_jax()
    from jaxvl.cli import teacher

    return teacher.answers(path)


def _logprobs(path: str, dtype: str) -> Any:
    from jaxvl.cli.runtime import prepare_jax

    prepare_jax()
    from jaxvl.cli import teacher

    return teacher.load(path, dtype).logprobs


def _fingerprint(path: str) -> str:
    """What a checkpoint is, wherever it lies; a hub id is one already. UserError for neither."""
    from jaxvl.eval.engines.replies import fingerprint
    from jaxvl.models.io.find import is_hub_id

    folder = Path(path).expanduser()
    if not path or not (folder.is_dir() or is_hub_id(path)):
        raise UserError(
            f"{path or 'a checkpoint without a name'}: neither a directory nor a hub id such as "
            "Qwen/Qwen2-VL-2B-Instruct"
        )
    return f"{folder.name} {fingerprint(folder)}" if folder.is_dir() else path


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int], None]]:
    """Shows how many rows a step has done."""
    from rich.progress import Progress

    with Progress(*Progress.get_default_columns()[:1], transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda step, count: progress.update(task, description=f"{step}: {count:,} rows")


def _say(done: Manifest, out: Path) -> None:
    folder = out if out.is_dir() else out.parent
    for found in done["out"].values():
        typer.echo(f"{done['step']}: {found['rows']:,} rows in {folder / found['file']}")
    for reason, count in done["dropped"].items():
        typer.echo(f"  left out: {count:,} {reason}")


def _check_rows(done: Manifest, folder: Path) -> None:
    """UserError of a step through which no row came."""
    if not any(found["rows"] for found in done["out"].values()):
        raise UserError(
            f"{done['step']}: none of {done['rows_in']:,} rows came through; *.dropped.jsonl in "
            f"{folder} has each with its reason; there is nothing to go on with"
        )


@contextlib.contextmanager
def _tries(steps: Sequence[Step], counts: Mapping[str, Counter]) -> Iterator[None]:
    """Of a step that ends before its time, says what its teachers were asked all the same."""
    try:
        yield
    except (UserError, SystemExit):
        for step in steps:
            if counts.get(step.name):
                typer.echo(f"{step.name}: not finished")
                _say_asked(step, counts[step.name])
        raise


def _say_asked(step: Step, counts: Counter) -> None:
    """What the step's teachers were asked, where they were."""
    if counts:
        asked = step.asked
        cost = (
            counts["prompt_tokens"] * asked.price_in + counts["completion_tokens"] * asked.price_out
        )
        said = f", cost {cost / 1e6:.2f}" if cost else ""
        typer.echo(f"  asked {counts['requests']:,} times, {counts['cached']:,} known{said}")
    if step.asked.teacher == "stub":
        typer.echo(
            "  the stub made these replies up: they are for trying the flow, not to train on"
        )


def _say_estimate(steps: Sequence[Step], rows: Any) -> None:
    from jaxvl.curate.estimate import estimate

    found = estimate(steps, rows)
    typer.echo("at most, if every row comes through and nothing is known yet:")
    for one in found:
        typer.echo(
            f"{one.step:>8}: {one.calls:,} calls, about {one.tokens_in:,} tokens in and "
            f"{one.tokens_out:,} out, cost {one.cost:,.2f}"
        )
    typer.echo(
        f"{'all':>8}: {sum(one.calls for one in found):,} calls, cost "
        f"{sum(one.cost for one in found):,.2f}"
    )
