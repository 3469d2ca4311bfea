# SPDX-License-Identifier: Apache-2.0
"""`jaxvl data ..`: datasets as they are published, made ready for training and looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxvl.errors import UserError

app = typer.Typer(
    no_args_is_help=True, help="Prepare datasets for training, and look at what was prepared."
)

Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields of the dataset.")
]
SourceOption = Annotated[str, typer.Option(help="A file, a folder, or hf://datasets/OWNER/NAME.")]


def _datasets() -> dict[str, tuple[Callable[[str], Any], str]]:
    """What can be prepared: how the source is made from its path, and a line about it."""
    from jaxvl.data.tasks import sat, vlaa
    from jaxvl.data.tasks.records import Records

    return {
        "sat": (
            sat.paper,
            "SAT as VisualThinker-R1-Zero used it: the first 15,000 rows, one image each (MIT)",
        ),
        "sat-static": (sat.static, "SAT's static split, about 127,000 rows (MIT)"),
        "vlaa-grpo": (
            lambda path: vlaa.VLAA(path, "grpo"),
            "VLAA-Thinking-GRPO-25K, for reinforcement learning (Apache-2.0)",
        ),
        "vlaa-sft": (
            lambda path: vlaa.VLAA(path, "sft"),
            "VLAA-Thinking-SFT-126K, for fine-tuning (Apache-2.0)",
        ),
        "records": (
            Records,
            "your own: JSON lines, JSON, parquet, arrow, CSV, TSV, or a dataset of the hub",
        ),
    }


@app.command("list")
def list_() -> None:
    """What can be prepared, and the settings of each."""
    import dataclasses

    for name, (make, about) in _datasets().items():
        source = make("PATH")
        settings = [f.name for f in dataclasses.fields(source) if f.name != "path"]
        typer.echo(f"{name:12}{about}\n{'':12}settings: {', '.join(settings)}")


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="A name that `jaxvl data list` shows.")],
    source: SourceOption,
    out: Annotated[Path, typer.Option(help="The folder to write; goes on where it was stopped.")],
    settings: Settings = None,
    trial: Annotated[
        bool, typer.Option("--trial", help="Take test sets in: for trials, which are marked.")
    ] = False,
    digests: Annotated[
        list[str] | None, typer.Option(help="A file of digests of rows to keep out.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local: this process; ray: workers of Ray Data.")
    ] = "local",
    workers: Annotated[int, typer.Option(help="Ray's workers; 0: one for each core.", min=0)] = 0,
) -> None:
    """Check a dataset row by row and write it as ArrayRecord shards with a manifest."""
    from rich.progress import Progress

    # Loads tensorflow-datasets, which replaces `import` for all threads while it is loaded: not
    # beside the progress bar's, which imports as it draws.
    import jaxvl.data.builder.examples  # noqa: F401
    from jaxvl.data.engine import opened
    from jaxvl.data.prepare import prepare as run
    from jaxvl.rewards.golds import gold_check

    dataset = _make(name, source, settings)
    columns = Progress.get_default_columns()[:1]
    with opened(engine, workers) as mapped, Progress(*columns) as progress:
        task = progress.add_task("0 rows", total=None)
        manifest = run(
            name,
            dataset,
            out,
            check=gold_check,
            trial=trial,
            digests=digests or (),
            on_rows=lambda rows: progress.update(task, description=f"{rows:,} rows"),
            engine=mapped,
        )
    typer.echo(f"{manifest['rows_out']:,} of {manifest['rows_in']:,} rows are in {out}")
    for reason, found in manifest["dropped"].items():
        by = ", by setting" if found["setting"] else ""
        typer.echo(f"  left out: {found['count']:,} {reason}{by}")
    typer.echo(f"train on it with source=Prepared({str(out)!r}); look at it: jaxvl data show {out}")


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A prepared set.")],
    template: Annotated[
        str,
        typer.Option(help="As data.template: chat, as-given, vlaa, visualthinker-base, .."),
    ] = "chat",
    model: Annotated[
        str, typer.Option(help="A checkpoint whose chat template renders the prompts.")
    ] = "",
    samples: Annotated[int, typer.Option(help="Examples on the page.")] = 24,
    out: Annotated[Path | None, typer.Option(help="The page; default: DIR/samples.html.")] = None,
) -> None:
    """Print the table of a prepared set and write a page of samples."""
    from rich.console import Console
    from rich.table import Table

    from jaxvl.data import show as shown

    render = _renderer(template, model)
    console = Console()
    for title, rows in shown.tables(folder):
        table = Table(title=title, title_justify="left", show_header=False)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    typer.echo(shown.write_page(folder, out or folder / "samples.html", render, samples))


@app.command()
def digest(
    name: Annotated[str, typer.Argument(help="The name of the benchmark.")],
    source: SourceOption,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    settings: Settings = None,
) -> None:
    """Digests of a test set's questions and images, by which its rows are kept out of training."""
    from jaxvl.data import test_sets
    from jaxvl.data.example import BadRow
    from jaxvl.data.image import load_image
    from jaxvl.data.tasks.records import questions_and_images

    rows = list(questions_and_images(_make("records", source, settings)))
    images, missing = [], 0
    for _, found in rows:
        try:
            if isinstance(found, BadRow):
                raise found
            images += [test_sets.image_digest(load_image(image)) for image in found]
        except BadRow:
            missing += 1
    count = test_sets.write(out, name, [question for question, _ in rows], images)
    typer.echo(f"{count} digests of {len(rows)} rows are in {out}")
    if missing:
        typer.echo(f"the images of {missing} rows could not be read and are not in it", err=True)


def _make(name: str, path: str, settings: list[str] | None) -> Any:
    """The source of a name in `jaxvl data list`, with `field=value` settings."""
    import difflib

    from jaxvl.config.fields import check_fields
    from jaxvl.config.overrides import set_field

    known = _datasets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"expected one of {', '.join(known)}"
        raise UserError(f"no dataset `{name}`; {hint}")
    source = known[name][0](path)
    for setting in settings or []:
        source = set_field(source, setting)
    check_fields(source)
    return source


def _renderer(template: str, model: str) -> Callable[[Any], str]:
    """What makes the text of a prompt: through a checkpoint's chat template, where one is given."""
    from jaxvl.data import templates

    known = templates.FUNCTIONS
    if template not in known:
        raise UserError(f"no template `{template}`; expected one of {', '.join(known)}")
    make = known[template]
    if model:
        from jaxvl.checkpoints.start import locate
        from jaxvl.data.prompts import Processor

        processor = Processor.from_pretrained(locate(model).files)
        return lambda example: processor.render(make(example))

    def plain(example: Any) -> str:
        prompt = make(example)
        return prompt if isinstance(prompt, str) else "\n\n".join(map(_turn, prompt))

    return plain


def _turn(turn: dict[str, Any]) -> str:
    """A turn of a conversation, for people."""
    content = turn["content"]
    if not isinstance(content, str):
        content = "".join(part.get("text", "[image]\n") for part in content)
    return f"{turn['role']}: {content}"
