# SPDX-License-Identifier: Apache-2.0
"""`jaxvl eval ..`: benchmarks answered, scored, reported and compared, each step on its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from jaxvl.errors import UserError

if TYPE_CHECKING:  # a command imports what it needs when it runs
    from jaxvl.eval.engines.recorded import Recorded
    from jaxvl.eval.engines.remote import Remote
    from jaxvl.eval.engines.replies import ReplySampling
    from jaxvl.eval.engines.run import EngineSpec
    from jaxvl.eval.tasks import Task

app = typer.Typer(no_args_is_help=True, help="Evaluate models on benchmarks.")

ResultsFolder = Annotated[
    Path, typer.Argument(metavar="RESULTS", help="A directory of `eval run`.")
]
Sources = Annotated[
    list[str] | None,
    typer.Option("--source", help="NAME=PATH: where a benchmark's files are. May be repeated."),
]
Pixels = dict[str, int | None]  # min_pixels, max_pixels
Mode = Annotated[str, typer.Option(help="lenient, strict, or another mode.")]
TableFile = Annotated[Path | None, typer.Option(help="A file, .md or .json.")]
Forced = Annotated[bool, typer.Option("--force", help="Go on though questions or rules differ.")]
Key = Annotated[str, typer.Option(help="The environment variable that holds the endpoint's key.")]


@app.command("list")
def list_() -> None:
    """The benchmarks, and the protocols of each."""
    from jaxvl.eval.tasks import known

    for benchmark in known().values():
        typer.echo(f"{benchmark.name:20}{benchmark.title}")
        for name, about in benchmark.protocols.items():
            typer.echo(f"{'':20}  {name}: {about}")


@app.command()
def run(
    model: Annotated[
        str, typer.Option(help="Checkpoint directory, hub id, run directory; with --url its name.")
    ],
    tasks: Annotated[str, typer.Option(help="Benchmarks, with commas between.")],
    out: Annotated[Path, typer.Option(help="The directory of results; goes on where it was.")],
    source: Sources = None,
    protocol: Annotated[str, typer.Option(help="How to ask; default: each one's own.")] = "",
    system_prompt: Annotated[
        str, typer.Option(help="A text, `vlaa`, or `none`; default: the protocol's.")
    ] = "",
    url: Annotated[
        str, typer.Option(help="An endpoint with OpenAI's chat interface: its whole address.")
    ] = "",
    key: Key = "",
    replies: Annotated[
        Path | None,
        typer.Option(help="A file of replies that are made already; --model names who made them."),
    ] = None,
    n: Annotated[int, typer.Option(help="Replies to each item.", min=1)] = 1,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0)] = 0.0,
    top_p: Annotated[float, typer.Option(help="The mass that is drawn from.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="The tokens that are drawn from; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the draws.", min=0)] = 0,
    limit: Annotated[int, typer.Option(help="About so many items; marked partial.", min=0)] = 0,
    batch_size: Annotated[int, typer.Option(help="Sequences at a time.", min=1)] = 32,
    max_new_tokens: Annotated[
        int, typer.Option(help="The longest reply.", show_default="the benchmark's", min=0)
    ] = 0,
    min_pixels: Annotated[int | None, typer.Option(help="Smaller pictures are enlarged.")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Larger pictures are shrunk.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    mesh: Annotated[
        str, typer.Option(help="Devices along data, fsdp and tensor; -1: all that remain.")
    ] = "-1,1,1",
    shard: Annotated[str, typer.Option(help="I/N: the I-th of N shares, N runs in all.")] = "1/1",
    force: Annotated[
        bool, typer.Option("--force", help="Begin again where the settings are others.")
    ] = False,
) -> None:
    """Ask a model, and write its replies down as they come. Scores nothing."""
    from jaxvl.eval.engines import run as running
    from jaxvl.eval.engines.replies import ReplySampling

    if replies and url:
        raise UserError("--replies and --url: expected one; what is there is not asked for")
    made = _made(replies) if replies else None
    how, part = ReplySampling(n, temperature, top_p, top_k, seed), running.parse_part(shard)
    opened = _open(tasks, source or [], protocol, system_prompt)
    pixels = {"min_pixels": min_pixels, "max_pixels": max_pixels}

    def ask(asked: EngineSpec) -> int:
        sizes = batch_size, max_new_tokens
        return running.run_all(opened, asked, how, out, *sizes, limit=limit, part=part, force=force)

    if made:
        if ask(_recorded(made, model, pixels)):
            raise UserError(made.what_is_missing({i.id for task in opened for i in task.items}))
        missing = 0
    elif url:
        missing = ask(_remote(url, key, model, pixels))
    else:
        missing = _here(lambda: ask(_local(model, dtype, mesh, pixels)))
    if missing:
        raise UserError(f"{missing} replies are missing; the same command asks for them again")
    typer.echo(f"done: jaxvl eval score {out}")


def _here(act: Callable[[], int]) -> int:
    """`act()`, which uses this machine's devices: a signal, or an error of one process, ends it."""
    from jaxvl.distributed import multihost
    from jaxvl.distributed.preemption import PreemptionHandler

    with multihost.abort_all_on_error(), PreemptionHandler():
        return act()


def _open(tasks: str, source: list[str], protocol: str, system_prompt: str) -> list[Task]:
    from jaxvl.eval.engines.run import parse_sources
    from jaxvl.eval.tasks import find, open_task

    names = list(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    if not names:
        raise UserError(f"--tasks {tasks!r} names no benchmark; `jaxvl eval list` shows them")
    for name in names:
        find(name)  # else a source would be said to have a wrong name
    sources = parse_sources(source, names)
    return [open_task(name, sources.get(name, ""), protocol, system_prompt) for name in names]


def _made(replies: Path) -> Recorded:
    """A file of `--replies`."""
    from jaxvl.eval.engines.recorded import Recorded

    if not replies.is_file():
        raise UserError(
            f"--replies {replies}: no such file; expected a file of replies that are made already "
            "(predictions.jsonl of another `eval run`, or another toolkit's)"
        )
    return Recorded(replies)


def _recorded(made: Recorded, model: str, pixels: Pixels) -> EngineSpec:
    from jaxvl.data.files import sha256
    from jaxvl.eval.engines.run import EngineSpec

    decides = {"model": model, "replies": sha256(made.file), **pixels}
    return EngineSpec(lambda how, batch: made, decides, {"device": "none"})


def _remote(url: str, key: str, model: str, pixels: Pixels) -> EngineSpec:
    from jaxvl.eval.engines.remote import Remote
    from jaxvl.eval.engines.run import EngineSpec
    from jaxvl.rewards.endpoint import Endpoint

    endpoint = Endpoint(url, key, timeout=600.0)

    def make(how: ReplySampling, batch: int) -> Remote:
        endpoint.concurrency = batch
        return Remote(endpoint, model, how, batch, pixels["max_pixels"])

    return EngineSpec(make, {"model": model, "url": url, **pixels}, {"device": "endpoint"})


def _local(model: str, dtype: str, mesh: str, pixels: Pixels) -> EngineSpec:
    from jaxvl.cli.runtime import parse_mesh, prepare_jax

    prepare_jax()
    import jax

    from jaxvl.distributed import multihost
    from jaxvl.distributed.mesh import make_mesh
    from jaxvl.eval.engines.local import Local, open_model
    from jaxvl.eval.engines.run import EngineSpec, Processes

    multihost.start()
    devices = make_mesh(*parse_mesh(mesh))
    vlm, weights = open_model(model, dtype, devices, **pixels)
    device = jax.devices()[0]
    about = {
        "device": f"{device.platform} {device.device_kind}",
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "mesh": dict(devices.shape),
    }
    return EngineSpec(
        lambda how, batch: Local(vlm, how, batch),
        {"model": model, "weights": weights, "dtype": dtype, **pixels},
        about,
        Processes(jax.process_index(), jax.process_count()),
    )


@app.command()
def score(
    results: ResultsFolder,
    source: Sources = None,
    judge_url: Annotated[
        str, typer.Option(help="A judge with OpenAI's chat interface, asked beside the rules.")
    ] = "",
    judge_model: Annotated[str, typer.Option(help="The judge's name there.")] = "",
    key: Key = "",
    judged: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE: verdicts of others, taken over.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Score though the files have changed.")
    ] = False,
) -> None:
    """Mark the replies by rules. Needs no device; the same replies give the same bytes."""
    from jaxvl.eval.engines.predictions import folders
    from jaxvl.eval.engines.run import parse_sources
    from jaxvl.eval.reporting import report as reports
    from jaxvl.eval.reporting import tables
    from jaxvl.eval.scoring import judged as verdicts
    from jaxvl.eval.scoring import score as scoring
    from jaxvl.rewards.endpoint import Endpoint

    if bool(judge_url) != bool(judge_model):
        raise UserError("a judge needs both --judge-url and --judge-model")
    found = folders(results)
    names = [folder.name for folder in found]
    sources = parse_sources(source or [], names)
    files = parse_sources(judged or [], names, "--judged")
    scored = []
    for folder in found:
        where = sources.get(folder.name, "")
        if folder.name in files:
            count = verdicts.take(folder, Path(files[folder.name]))
            typer.echo(f"{folder.name}: {count} verdicts taken over")
        if judge_url:
            count = verdicts.ask(folder, Endpoint(judge_url, key), judge_model, where)
            typer.echo(f"{folder.name}: {judge_model} was asked about {count} replies")
        one, notes = scoring.score(folder, where, force)
        scored.append(scoring.plain(one))
        for note in notes:
            typer.echo(f"{folder.name}: {note}")
    tables.show(reports.overview(scored, columns=9))
    if (several := reports.of_samples(scored))["rows"]:
        tables.show(several)


@app.command()
def report(
    results: ResultsFolder,
    form: Annotated[str, typer.Option("--format", help="md, json, csv or html.")] = "md",
    by: Annotated[str, typer.Option(help="The only breakdown to show.")] = "",
    paper: Annotated[
        bool, typer.Option("--paper", help="With the papers' published figures, marked so.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The file; default: RESULTS/report.<format>.")
    ] = None,
    export: Annotated[
        str, typer.Option(help="vlmevalkit, lmms or mossbench: the replies in that form instead.")
    ] = "",
    source: Sources = None,
    items: Annotated[int, typer.Option(help="Items of each benchmark on the page.", min=0)] = 40,
) -> None:
    """Write what the scores say: tables, or a page with charts and items."""
    from jaxvl.eval.engines.predictions import folders
    from jaxvl.eval.engines.run import parse_sources
    from jaxvl.eval.reporting import export as exporting
    from jaxvl.eval.reporting import page
    from jaxvl.eval.reporting import report as reports

    sources = parse_sources(source or [], [folder.name for folder in folders(results)])
    if export:
        for path in exporting.export(results, export, out or results / "export", sources):
            typer.echo(path)
        return
    found = reports.load(results, by)
    make = {
        "md": lambda: reports.to_markdown(found, paper),
        "json": lambda: reports.to_json(found, paper),
        "csv": lambda: reports.to_csv(found),
        "html": lambda: page.render(results, found, sources, paper, items),
    }
    if form not in make:
        raise UserError(f"--format {form!r}: expected {', '.join(make)}")
    _write(out or results / f"report.{form}", make[form]())


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Results of one model, scored.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Results of another.")],
    mode: Mode = "lenient",
    out: TableFile = None,
    force: Forced = False,
) -> None:
    """What B is against A, item by item, with tests and intervals."""
    from jaxvl.eval.reporting import compare as comparing

    found = comparing.compare(a, b, mode, force)
    _show(comparing, found, out)


@app.command()
def seeds(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Results of each, scored.")],
    mode: Mode = "lenient",
    out: TableFile = None,
    force: Forced = False,
) -> None:
    """How far trainings of one method are apart that differ by their seed."""
    from jaxvl.eval.reporting import seeds as between

    _show(between, between.spread(runs, mode, force), out)


@app.command()
def tradeoff(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Results of each model, scored.")
    ],
    judge: Annotated[str, typer.Option(help="By this judge's verdicts; default: the rule's.")] = "",
    out: TableFile = None,
    force: Forced = False,
) -> None:
    """MOSSBench: refusals of benign requests against those of harmful ones, over models."""
    from jaxvl.eval.mossbench import tradeoff as against

    _show(against, against.tradeoff(runs, judge, force), out)


def _show(made: ModuleType, found: list[dict], out: Path | None) -> None:
    """The table that a module has for what it found, and the file that was asked for."""
    from jaxvl.eval.reporting import tables

    tables.show(made.overview(found))
    if out:
        write = made.to_json if out.suffix == ".json" else made.to_markdown
        _write(out, write(found))


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None
    typer.echo(path)
