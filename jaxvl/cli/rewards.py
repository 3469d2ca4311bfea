# SPDX-License-Identifier: Apache-2.0
"""`jaxvl rewards ..`: what a verdict rests on, and a run's reward audited by a person."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jaxvl.errors import UserError

app = typer.Typer(no_args_is_help=True, help="Try the verdict on a text, and audit a run's reward.")


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
