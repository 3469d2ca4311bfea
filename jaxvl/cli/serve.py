# SPDX-License-Identifier: Apache-2.0
"""`jaxvl serve`: a model that others ask over HTTP."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from jaxvl.errors import UserError


def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Checkpoint directory, hub id, run, or RUN/checkpoints/STEP.",
        ),
    ],
    host: Annotated[str, typer.Option(help="The address; another one needs --key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one.", min=0, max=65535)] = 8000,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    mesh: Annotated[
        str, typer.Option(help="Devices along data, fsdp and tensor; -1: all that remain.")
    ] = "-1,1,1",
    batch: Annotated[int, typer.Option(help="Requests at a time, at most.", min=1)] = 16,
    max_new_tokens: Annotated[int, typer.Option(help="The longest reply.", min=1)] = 2048,
    key: Annotated[
        str, typer.Option(help="The environment variable that holds the key to ask with.")
    ] = "",
    served_name: Annotated[
        str, typer.Option(help="The model's name in requests.", show_default="MODEL")
    ] = "",
) -> None:
    """Answer requests of OpenAI's chat interface with a model. Ends with Ctrl-C."""
    try:
        from jaxvl.serve import run as running
        from jaxvl.serve.app import Server, ServeSettings
    except ModuleNotFoundError as error:
        raise UserError(f"serve: {error}; pip install 'jaxvl[serve]'") from None
    from jaxvl.cli.runtime import parse_mesh, prepare_jax
    from jaxvl.distributed.mesh import make_mesh
    from jaxvl.distributed.preemption import PreemptionHandler

    running.check_host(host, key)
    if key and not os.environ.get(key):
        raise UserError(f"--key {key}: the environment has no such variable, or it is empty")
    at, sizes = running.bound(host, port), parse_mesh(mesh)
    prepare_jax()
    with PreemptionHandler():
        from jaxvl.checkpoints.start import load

        vlm = load(model, dtype, make_mesh(*sizes))
    name = served_name or model
    settings = ServeSettings(name, batch, max_new_tokens, os.environ.get(key, "") if key else "")
    typer.echo(f"serving {name} at http://{host}:{at.getsockname()[1]}/v1 (Ctrl-C ends)")
    running.run(Server(vlm, settings), at)
