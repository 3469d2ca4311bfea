# SPDX-License-Identifier: Apache-2.0
"""The command line. What a command needs is imported when it runs, so that help is instant."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxvl import __version__
from jaxvl.cli import configs, curate, data, eval, rewards, serve
from jaxvl.cli.runtime import as_command, prepare_jax
from jaxvl.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.add_typer(data.app, name="data")
app.add_typer(eval.app, name="eval")
app.add_typer(curate.app, name="curate")
app.add_typer(rewards.app, name="rewards")

app.command("config")(configs.show)
app.command()(configs.convert_config)
app.command()(configs.init)
app.command()(serve.serve)


@app.command()
def quickstart(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields to change.")
    ] = None,
) -> None:
    """Train the small model that comes with jaxvl, in runs/ of this folder: minutes on a CPU."""
    folder = Path("runs/quickstart")
    number = 2
    while folder.exists():
        folder, number = Path(f"runs/quickstart-{number}"), number + 1
    grpo(str(configs.folder() / "quickstart.py"), [f"run.dir={folder}", *(overrides or [])])


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jaxvl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which it is.")
    ] = False,
) -> None:
    """Reinforcement learning for vision-language models in JAX."""


ConfigFile = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A Python file with config(), or YAML.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields to change.")
]


@app.command(cls=configs.helped("Config"))
def grpo(config_file: ConfigFile, overrides: Overrides = None) -> None:
    """Train with GRPO."""
    from jaxvl import config

    cfg = config.load(config_file, overrides or [])
    prepare_jax()
    from jaxvl.train.grpo import train

    train(cfg)
    _done(cfg.run.dir, cfg.run.export)


@app.command(cls=configs.helped("SFTConfig"))
def sft(config_file: ConfigFile, overrides: Overrides = None) -> None:
    """Fine-tune on given answers."""
    from jaxvl import config

    cfg = config.load(config_file, overrides or [], config.SFTConfig)
    prepare_jax()
    from jaxvl.train.sft import train

    train(cfg)
    _done(cfg.run.dir, cfg.run.export)


def _done(run_dir: str, exported: bool) -> None:
    import jax

    if jax.process_index() == 0:
        made = [(f"{run_dir}/report.html", "shows the run"), (f"{run_dir}/hf", "is the model")]
        for path, what in made[: 1 + exported]:
            there = what if Path(path).exists() else "is not there"
            typer.echo(f"done: {path} {there}")


@app.command()
def generate(
    model: Annotated[str, typer.Option(help="Checkpoint directory, hub id, or a run.")],
    prompt: Annotated[str, typer.Option(help="What to ask.")],
    image: Annotated[list[str] | None, typer.Option(help="An image; may be repeated.")] = None,
    system: Annotated[str, typer.Option(help="A system prompt, instead of the model's own.")] = "",
    plain: Annotated[bool, typer.Option("--plain", help="Without the chat template.")] = False,
    n: Annotated[int, typer.Option(help="How many answers.", min=1)] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer.")] = 256,
    temperature: Annotated[
        float | None, typer.Option(help="0 is greedy.", show_default="0, for several answers 1")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
) -> None:
    """Ask a model about images, and see the answer as it comes."""
    prepare_jax()
    from jaxvl.checkpoints.start import load
    from jaxvl.data.templates import IMAGE
    from jaxvl.distributed.preemption import PreemptionHandler

    images = list(image or [])
    asked: Any = IMAGE * len(images) + prompt
    if not plain:
        parts = [*({"type": "image"} for _ in images), {"type": "text", "text": prompt}]
        asked = [{"role": "system", "content": system}] if system else []
        asked.append({"role": "user", "content": parts})
    elif system:
        raise UserError("--plain has no chat template, and so no place for --system")
    if temperature is None:
        temperature = float(n > 1)
    with PreemptionHandler():
        vlm = load(model, dtype=dtype)
        for number in range(n):
            typer.echo(f"[{number + 1}] " if n > 1 else "", nl=False)
            how: dict[str, Any] = {"temperature": temperature, "seed": seed, "number": number}
            for piece in vlm.stream(asked, images, max_new_tokens=max_new_tokens, **how):
                typer.echo(piece, nl=False)
            typer.echo()


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="Checkpoint directory, hub id, run, or RUN/checkpoints/STEP."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new directory.")],
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 or bfloat16.", show_default="the narrower that loses nothing"),
    ] = None,
) -> None:
    """Write a model, or a run's newest checkpoint, in the form that transformers loads."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # read when jax is first imported: no accelerator is needed
    from jaxvl.checkpoints.convert import convert

    typer.echo(convert(source, out, dtype))


@app.command()
def push(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")],
    repo_id: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Made where it is not.")],
    public: Annotated[bool, typer.Option("--public", help="A new repository is public.")] = False,
) -> None:
    """Put a run's export on the Hugging Face hub, with a card written from the run."""
    from jaxvl.checkpoints.push import push_to_hub

    typer.echo(push_to_hub(run_dir, repo_id, private=not public))


@app.command()
def report(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write.",
            show_default="RUN_DIR/report.html; of several compare.html; of a paper PAPER.html",
        ),
    ] = None,
    paper: Annotated[
        str,
        typer.Option(
            help="visualthinker, vlaa or mossbench: its figures and tables, from runs and results "
            "of `jaxvl eval` given as DIR or ROW=DIR."
        ),
    ] = "",
) -> None:
    """Write the page of a run again, one page of several runs side by side, or a paper's figures
    and tables with ours beside them."""
    from jaxvl.observe.report import write_report

    if paper:
        from jaxvl.eval.papers import page

        path, notes = page.write(paper, run_dirs, out)
        for note in notes:
            typer.echo(note)
        typer.echo(path)
        return

    several = Path("compare.html") if len(run_dirs) > 1 else None
    typer.echo(write_report(*run_dirs, out=out or several))


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run's, or one with runs in it.")],
    port: Annotated[int, typer.Option(help="0: a free one.", min=0, max=65535)] = 0,
) -> None:
    """Show runs in a browser on this machine, while they go on. Ends with Ctrl-C."""
    from jaxvl.observe.watch import HOST, serve

    server = serve(folder, port)
    typer.echo(f"watching {folder} at http://{HOST}:{server.server_port}/ (Ctrl-C ends)")
    sys.stdout.flush()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


@app.command()
def replay(run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")]) -> None:
    """Make the update again for which a run has ended, and see what in it was not finite."""
    prepare_jax()
    from jaxvl.train.replay import replay

    typer.echo(replay(run_dir).text())


@app.command()
def doctor(
    config_file: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="A Python file with config(), or YAML.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """See whether this machine, and a config on it, can train: exit code 1 if not. Trains
    nothing."""
    from jaxvl import config

    cfg = None
    if config_file:
        cfg = config.load(config_file, overrides or [], config.Config, config.SFTConfig)
    prepare_jax()
    from jaxvl.cli.doctor import examine

    findings = []
    for finding in examine(cfg, config_file or ""):
        typer.echo(str(finding))
        findings.append(finding)
    if any(finding.status == "error" for finding in findings):
        raise typer.Exit(1)


@app.command()
def plan(
    config_file: ConfigFile,
    overrides: Overrides = None,
    topology: Annotated[
        str, typer.Option(help="A TPU slice: v5e:4x4, v4:2x2x2, v5p:2x2x2, v6e:2x4, ..")
    ] = "",
    slices: Annotated[
        int, typer.Option(help="So many of them, joined by the data centre's network.", min=1)
    ] = 1,
    gpu: Annotated[str, typer.Option(help="GPUs to compile for: a100, h100 or h200.")] = "",
    gpus: Annotated[
        int | None,
        typer.Option(help="How many (1); without --gpu, of 80 GB, by counting.", min=1),
    ] = None,
    host: Annotated[
        bool, typer.Option("--host", help="This machine's own seconds of a step, measured.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, for programs.")] = False,
) -> None:
    """See whether a run fits chips that are not there: exit code 1 if it does not.

    The run's programs are compiled by the compiler of the TPU slice or GPU. Neither weights nor
    data are read.
    """
    if bool(topology) + bool(gpu or gpus) + host != 1:
        raise UserError(
            "plan: expected --topology (as in --topology v5e:4x4), --gpu (as in --gpu h100) or "
            "--gpus, or --host"
        )
    if not topology and slices > 1:
        raise UserError("plan: --slices are of a --topology")
    # Read when jax is first imported and first used: chips that are there are left alone.
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(gpus or 1)}
    from jaxvl import config
    from jaxvl.plan import show
    from jaxvl.plan.chips import GpuNode, Topology
    from jaxvl.plan.host import plan_host
    from jaxvl.plan.plan import plan_gpus, plan_node, plan_tpu

    cfg = config.load(config_file, overrides or [], config.Config, config.SFTConfig)
    say = functools.partial(typer.echo, err=True)
    if host:
        ours = plan_host(cfg, config_file, configs.folder() / "quickstart_base")
        typer.echo(json.dumps(ours.to_json(), indent=2) if as_json else show.host_text(ours))
        return
    if topology:
        found = plan_tpu(cfg, Topology.parse(topology, slices), config_file, say)
    elif gpu:
        found = plan_node(cfg, GpuNode.of(gpu, gpus or 1), config_file, say)
    else:
        found = plan_gpus(cfg, gpus or 1, config_file)
    typer.echo(json.dumps(found.to_json(), indent=2) if as_json else show.text(found))
    if not found.fits:
        raise typer.Exit(1)


def main() -> None:
    """Entry point."""
    as_command(app)


if __name__ == "__main__":
    main()
