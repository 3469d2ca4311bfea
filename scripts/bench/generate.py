# SPDX-License-Identifier: Apache-2.0
"""jaxvl's sampler against transformers' `generate`: same checkpoint, same prompts, interleaved.

    python scripts/bench/generate.py --peer-python ENV/bin/python --out generate.json
    python scripts/bench/generate.py --gpu --peer-python ENV/bin/python --out generate.json

Every completion runs to its full length on both sides. On a GPU transformers may keep its default
cache or a static one, which it compiles: its faster is taken. Without TRL in the peer's environment
jaxvl is timed alone.
"""

import contextlib
import os
from statistics import median

from checkpoint import SHAPES
from grpo_step import arguments, checkpoint, has_trl, ours, parse, theirs
from pairs import Worker, interleave, positive, report


def measure(jaxvl: Worker, peer: Worker | None, pairs: int, caches: list[str | None]) -> dict:
    """Tokens a second of both, and the ratios of their pairs, after a warm-up."""
    first = jaxvl("generate")
    tokens = first["tokens"]
    row = {"jaxvl first, s": first["seconds"]}
    if peer is None:
        seconds = [jaxvl("generate")["seconds"] for _ in range(pairs)]
        none = dict.fromkeys(("transformers tok/s", "cache", "ratio", "min", "max"), "-")
        return row | {"jaxvl tok/s": tokens / median(seconds)} | none

    def warm(cache: str | None) -> float:
        return [peer("generate", cache=cache)["seconds"] for _ in range(2)][-1]

    best = min(caches, key=warm)
    paired = interleave(
        lambda: jaxvl("generate")["seconds"],
        lambda: peer("generate", cache=best)["seconds"],
        pairs,
    )
    return row | {
        "jaxvl tok/s": tokens / paired["ours"],
        "transformers tok/s": tokens / paired["theirs"],
        "cache": best or "default",
        "ratio": paired["ratio"],
        "min": paired["ratio_min"],
        "max": paired["ratio_max"],
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], pairs=7)
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, help="default 1m 9m 29m, on a GPU 2b"
    )
    parser.add_argument(
        "--completions", type=positive, nargs="+", help="default 32, on a GPU 64 and 512"
    )
    args = parse(parser)
    for completions in args.completions or []:
        if completions % args.group:
            parser.error(f"--completions {completions} is no multiple of --group {args.group}")
    caches = [None, "static"] if args.gpu else [None]
    rows = []
    with_peer = has_trl(args.peer_python)
    for shape in args.shapes or (["2b"] if args.gpu else ["1m", "9m", "29m"]):
        for count in args.completions or ([64, 512] if args.gpu else [32]):
            print(f"{shape}: {count} completions of {args.new_tokens} tokens", flush=True)
            work = {
                "prompts": count // args.group,
                "group": args.group,
                "new_tokens": args.new_tokens,
                "image_size": args.image_size,
                "beta": 0.0,
            }
            with contextlib.ExitStack() as stack:
                path = stack.enter_context(checkpoint(shape, args))
                jaxvl = stack.enter_context(ours(path, args, **work))
                peer = stack.enter_context(theirs(path, args, **work)) if with_peer else None
                found = measure(jaxvl, peer, args.pairs, caches)
            what = {"shape": shape, "completions": count, "tokens": args.new_tokens}
            rows.append(what | found | {"load": os.getloadavg()[0]})
    report(rows, args.out)


if __name__ == "__main__":
    from jaxvl.cli.runtime import as_command

    as_command(main)
