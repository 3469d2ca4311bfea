# SPDX-License-Identifier: Apache-2.0
"""`jaxvl rewards ..`: what a verdict rests on, and a run's reward audited by a person."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxvl.errors import UserError

if TYPE_CHECKING:
    from jaxvl.eval.reporting.agreement import Pair

app = typer.Typer(
    no_args_is_help=True, help="Try the verdict on a text; audit and compare rewards of a run."
)


@app.command("try")
def try_(
    text: Annotated[str, typer.Argument(help="A completion, or `-` to read it from the input.")],
    kind: Annotated[str, typer.Option(help="number, mcq, math, bbox or text.")],
    gold: Annotated[str, typer.Option(help="The right answer.")],
    choices: Annotated[str, typer.Option(help="Texts of the options, with | between them.")] = "",
    mode: Annotated[str, typer.Option(help="strict, lenient or visualthinker; both first.")] = "",
) -> None:
    """What is taken for the answer of TEXT, its normal form, and why it is right or not."""
    from jaxvl.rewards import gold_problem, verify

    options = [option.strip() for option in choices.split("|")] if choices else None
    text = typer.get_text_stream("stdin", errors="replace").read() if text == "-" else text
    problem = gold_problem(kind, gold, options)
    if problem:
        typer.echo(f"the gold does not verify against itself: {problem}")
    for name in (mode,) if mode else ("strict", "lenient"):
        verdict = verify(kind, text, gold, options, name)
        typer.echo(
            f"{name}\n  extracted  {verdict.extracted!r}\n  canonical  {verdict.canonical!r}\n"
            f"  reason     {verdict.reason}\n  reward     {verdict.reward:g}"
        )


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a GRPO run.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("audit.html"),
    marks: Annotated[
        Path | None, typer.Option(help="Marks that the page has saved: print what they say.")
    ] = None,
    reward: Annotated[str, typer.Option(help="Which of the run's rewards; the first.")] = "",
    count: Annotated[int, typer.Option(min=1, help="How many completions to draw.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Draw completions by stratum to a page where a person agrees or disagrees with each verdict;
    with --marks, print precision and recall of the verdict."""
    from jaxvl.eval.reporting import rewardaudit

    if marks is not None:
        found = rewardaudit.read_marks(marks)
        typer.echo(f"{len(found)} completions were marked")
        for name, estimate in rewardaudit.quality(found).items():
            typer.echo(f"  {name:10} {estimate}  of {estimate.count}")
        return
    if not run.is_dir():
        raise UserError(f"{run} is no directory; expected that of a run")
    every = rewardaudit.completions(run, reward)
    drawn = rewardaudit.draw(every, count, seed)
    out.write_text(rewardaudit.page(run, drawn), encoding="utf-8")
    strata = len({one["stratum"] for one in drawn})
    typer.echo(
        f"{out}: {len(drawn)} of {len(every)} completions in {strata} strata; mark them, save the "
        f"marks, then: jaxvl rewards audit {run} --marks marks.json"
    )


@app.command()
def agree(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a GRPO run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Fields of --with to change."),
    ] = None,
    config_file: Annotated[
        str,
        typer.Option("--with", metavar="CONFIG", help="A config of the same data: its reward."),
    ] = "",
    first: Annotated[str, typer.Option(help="A reward of the run; its first.")] = "",
    second: Annotated[
        str, typer.Option(help="The other: of --with, its first; without, of the run too.")
    ] = "",
    count: Annotated[int, typer.Option(min=1, help="About so many completions are drawn.")] = 400,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    credit: Annotated[float, typer.Option(help="So much or more is credited.")] = 0.5,
    shown: Annotated[int, typer.Option(min=0, help="Completions to print that differ.")] = 5,
    out: Annotated[
        Path | None, typer.Option(help="A file of JSON lines: all of them that differ.")
    ] = None,
) -> None:
    """Whether two rewards agree on the same completions of a run: which they credit, how they order
    those of a prompt, how one is calibrated against the other, and where they differ."""
    from jaxvl.eval.reporting import agreement, tables

    if not run.is_dir():
        raise UserError(f"{run} is no directory; expected that of a run")
    if not config_file and (overrides or not second):
        raise UserError("expected --with CONFIG, or --second NAME for another reward of the run")
    first, every, broken = agreement.completions(run, first, count, seed)
    if broken:
        typer.echo(f"{broken} lines of the rollouts could not be read")
    if config_file:
        second = _rescore(every, config_file, overrides or [], second)
        second += " of --with" if second == first else ""
    else:
        agreement.recorded(run, every, second, first, seed)
    pairs = [pair for pair in every if pair.judged]
    typer.echo(f"{len(pairs)} of {len(every)} completions have both rewards")
    if not pairs:
        raise UserError(f"{first} and {second} judge no completion both")
    tables.show(agreement.overview(pairs, first, second, credit))
    tables.show(agreement.calibration(pairs, first, second))
    apart = agreement.differing(pairs, credit)
    typer.echo(f"{len(apart)} completions are credited by one alone")
    for pair in apart[:shown]:
        typer.echo(
            f"\n{pair.key[1]} (answer {pair.answer}): {first} {pair.first:g}, "
            f"{second} {pair.second:g}\n{pair.text}"
        )
    if out:
        out.write_text(agreement.lines(apart, first, second), encoding="utf-8")
        typer.echo(f"\n{out}: {len(apart)} completions")


def _rescore(every: list[Pair], config_file: str, overrides: list[str], second: str) -> str:
    """Gives the completions the values of a reward of a config, and returns its name."""
    from jaxvl import config
    from jaxvl.data import templates
    from jaxvl.data.prompts import Processor
    from jaxvl.eval.reporting import agreement
    from jaxvl.models.io.find import checkpoint_dir
    from jaxvl.rewards import judge, pool

    cfg = config.load(config_file, overrides)
    named = {reward.name: reward for reward in cfg.rewards}
    second = second or next(iter(named))
    if second not in named:
        raise UserError(f"--second {second}: {config_file} has {', '.join(named)}")

    def logprobs(model: str) -> Callable[..., Any]:
        from jaxvl.cli.runtime import prepare_jax

        prepare_jax()
        from jaxvl.checkpoints.start import load

        return load(model, dtype=cfg.model.dtype).logprobs

    (reward,) = judge.with_models([named[second]], logprobs)
    template = templates.for_checkpoint(cfg.data.template, cfg.model.path)
    limits = cfg.model.min_pixels, cfg.model.max_pixels
    processor = Processor.from_pretrained(checkpoint_dir(cfg.model.path), *limits)
    processor = processor.with_pixels(cfg.data.min_pixels, cfg.data.max_pixels)
    pool.start(pool.WorkerLimits.of(cfg.verify))
    missing = agreement.rescore(every, reward, cfg.data.source.load(), template, processor)
    if missing:
        typer.echo(f"{missing} completions are to examples that {config_file} does not have")
    return second
