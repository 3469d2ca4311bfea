# SPDX-License-Identifier: Apache-2.0
"""An evaluation's replies by jaxvl against transformers in a loop of batches, interleaved.

    python scripts/bench/eval.py --out eval.json
    python scripts/bench/eval.py --shapes 29m --prompts 200 --out eval_29m.json

Both read the same prompts and image files, reply greedily with the same number of tokens (nothing
ends a reply early), decode the texts and write a line each. Each side has the batch size that was
fastest for it on the first prompts. Reported are seconds, their ratio (above 1: jaxvl is faster),
the ratio of processor seconds (which other jobs on the machine hardly change), the share of replies
that are equal, and jaxvl's share of the speed of a large matrix product.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from checkpoint import SHAPES, write_checkpoint
from pairs import Worker, interleave, positive, report, serve

HERE = Path(__file__).resolve()


def write_prompts(folder: Path, count: int, rotations: int = 1, side: int | None = None) -> None:
    """`count` prompts about rendered scenes, a line of prompts.jsonl each: a question is put with
    up to so many rotations of its choices. Images have `side` pixels a side (None: their own)."""
    from jaxvl.data.scenes import Scenes
    from jaxvl.data.templates import with_choices

    lines: list[str] = []
    for number, example in enumerate(Scenes(count, "test").load()):
        image, file = example.images[0], f"{folder}/{number}.png"
        (image.resize((side, side)) if side else image).save(file)
        for turn in range(min(rotations, len(example.choices))):
            choices = example.choices[turn:] + example.choices[:turn]
            text = with_choices(example.question, choices)
            lines.append(json.dumps({"image": file, "text": text}) + "\n")
        if len(lines) >= count:
            break
    (folder / "prompts.jsonl").write_text("".join(lines[:count]))


def read_prompts(folder: str, count: int) -> list[dict]:
    lines = Path(folder, "prompts.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines][: count or None]


def messages(text: str) -> list[dict]:
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


class Ours:
    """`jaxvl eval run` on the prompts, with its files and its engine."""

    def __init__(self, path: str, folder: str, new_tokens: int, dtype: str):
        import jax

        import jaxvl
        from jaxvl.distributed.mesh import make_mesh
        from jaxvl.eval.engines.local import Local
        from jaxvl.eval.engines.replies import ReplySampling

        vlm = jaxvl.load(path, dtype, make_mesh(data=-1, devices=jax.devices()))
        processor = dataclasses.replace(vlm.processor, stop_ids=())
        self.vlm = dataclasses.replace(vlm, processor=processor)
        self.path, self.folder = path, folder
        self.how = ReplySampling(max_new_tokens=new_tokens)
        self.make, self.engines = Local, {}

    def replies(self, batch: int, count: int = 0, alone: bool = False) -> dict:
        """With `alone` every prompt has a row of its own, whatever others are about its picture."""
        from jaxvl.eval import tasks
        from jaxvl.eval.benchmark import Item
        from jaxvl.eval.engines.predictions import read
        from jaxvl.eval.engines.run import run

        if (batch, alone) not in self.engines:
            engine = self.engines[batch, alone] = self.make(self.vlm, self.how, batch)
            engine.most = 1 if alone else engine.most
        out = Path(tempfile.mkdtemp(prefix="jaxvl-bench-"))
        start, cpu = time.perf_counter(), time.process_time()
        items = [
            Item(str(i), messages(row["text"]), (row["image"],), "")
            for i, row in enumerate(read_prompts(self.folder, count))
        ]
        task = tasks.Task(tasks.find("smoke"), "", "plain", "", items, [])
        run(task, self.engines[batch, alone], self.how, out, decides={"model": self.path}, about={})
        took = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
        found, _ = read(out / "smoke")
        shutil.rmtree(out)
        return took | {"texts": [found[item.id, 0]["text"] for item in items]}

    def work(self, batch: int, count: int = 0) -> dict:
        """FLOP that the replies cannot do without, FLOP/s of a product, programs compiled."""
        from ours import matmul_peak, step_flops

        rows = read_prompts(self.folder, count)
        encoded = self.vlm.encode([messages(r["text"]) for r in rows], [[r["image"]] for r in rows])
        flops = step_flops(
            self.vlm.config,
            prompt_tokens=sum(len(e.tokens) for e in encoded),
            patches=sum(len(e.segments) for e in encoded),
            completion_tokens=len(rows) * self.how.max_new_tokens,
            passes=1,
        )
        engine = self.engines[batch, False]
        sizes = [size for size in (1, 2, 4, 8) if size <= engine.most]
        programs = sum(engine.sampler(size)._cache_size() for size in sizes)
        return {"flops": flops, "peak": matmul_peak(self.vlm.dtype), "programs": programs}


class Theirs:
    """transformers' `generate` in a loop of batches."""

    def __init__(self, path: str, folder: str, new_tokens: int, dtype: str):
        import hf_processor
        import torch
        from transformers import GenerationConfig, Qwen2VLForConditionalGeneration

        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.torch, self.folder = torch, folder
        self.processor = hf_processor.load(path)
        self.model = Qwen2VLForConditionalGeneration.from_pretrained(
            path, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        ).to(device)
        self.model.eval()
        self.how = GenerationConfig(
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=self.processor.tokenizer.convert_tokens_to_ids("<|im_end|>"),
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )

    def replies(self, batch: int, count: int = 0) -> dict:
        from PIL import Image

        start, cpu = time.perf_counter(), time.process_time()
        rows, texts = read_prompts(self.folder, count), []
        with tempfile.NamedTemporaryFile("w") as out, self.torch.inference_mode():
            for at in range(0, len(rows), batch):
                part = rows[at : at + batch]
                inputs = self.processor(
                    text=[
                        self.processor.apply_chat_template(
                            messages(row["text"]), add_generation_prompt=True
                        )
                        for row in part
                    ],
                    images=[Image.open(row["image"]).convert("RGB") for row in part],
                    padding=True,
                    return_tensors="pt",
                ).to(self.model.device)
                ids = self.model.generate(**inputs, generation_config=self.how)
                new = ids[:, inputs.input_ids.shape[1] :]
                said = self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
                out.writelines(json.dumps({"text": text}) + "\n" for text in said)
                out.flush()
                texts += said
        took = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
        return took | {"texts": texts}


def fastest(worker: Worker, batches: list[int], count: int) -> int:
    """The batch size with which `count` prompts take least processor time, compiled before."""
    if len(batches) == 1:
        worker("replies", batch=batches[0], count=count)
        return batches[0]

    def cpu(batch: int) -> float:
        return [worker("replies", batch=batch, count=count)["cpu"] for _ in range(2)][-1]

    return min(batches, key=cpu)


def measure(ours: Worker, theirs: Worker, args: argparse.Namespace) -> dict:
    """A row of the table."""
    count = min(args.prompts, 4 * max(args.batches))
    best = [fastest(worker, args.batches, count) for worker in (ours, theirs)]
    first = ours("replies", batch=best[0])  # every shape of prompt is compiled now
    texts, cpu = {"ours": first["texts"], "theirs": []}, {"ours": [], "theirs": []}

    def timed(name: str, worker: Worker, batch: int) -> float:
        found = worker("replies", batch=batch)
        texts[name] = found["texts"]
        cpu[name].append(found["cpu"])
        print(f"{name}: {found['seconds']:.2f} s, processor {found['cpu']:.2f} s", flush=True)
        return found["seconds"]

    paired = interleave(
        lambda: timed("ours", ours, best[0]), lambda: timed("theirs", theirs, best[1]), args.pairs
    )
    alone: dict = {}
    if args.rotations > 1:
        apart = ours("replies", batch=best[0], alone=True)["texts"]
        found = interleave(
            lambda: ours("replies", batch=best[0])["seconds"],
            lambda: ours("replies", batch=best[0], alone=True)["seconds"],
            args.pairs,
        )
        same = sum(x == y for x, y in zip(texts["ours"], apart, strict=True)) / args.prompts
        names = {"then s": "ours", "alone s": "theirs", "to alone": "ratio"}
        names |= {"from": "ratio_min", "to": "ratio_max"}
        alone = {name: found[key] for name, key in names.items()} | {"equal to alone": same}
    work = ours("work", batch=best[0])
    equal = sum(x == y for x, y in zip(texts["ours"], texts["theirs"], strict=True))
    return {
        "jaxvl s": paired["ours"],
        "transformers s": paired["theirs"],
        "ratio": paired["ratio"],
        "min": paired["ratio_min"],
        "max": paired["ratio_max"],
        "cpu ratio": median(cpu["theirs"]) / median(cpu["ours"]),
        "batches": f"{best[0]}, {best[1]}",
        "equal": equal / args.prompts,
        "programs": work["programs"],
        "of matmul peak": work["flops"] / paired["ours"] / work["peak"],
        **alone,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["1m", "29m"])
    parser.add_argument("--prompts", type=positive, default=1000)
    parser.add_argument("--new-tokens", type=positive, default=64)
    parser.add_argument("--rotations", type=positive, default=1, help="of a question's choices")
    parser.add_argument("--side", type=positive, help="of pictures in pixels, else as drawn")
    parser.add_argument("--batches", type=positive, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--pairs", type=positive, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--peer-python", default=sys.executable, help="one with transformers")
    parser.add_argument("--out", type=Path, help="JSON file for the table")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="jaxvl-bench-") as folder:
        write_prompts(Path(folder), args.prompts, args.rotations, args.side)
        for shape in args.shapes:
            path = Path(folder, shape)
            count = write_checkpoint(path, shape, args.dtype)
            print(f"{shape}: {count:,} parameters, {args.prompts} prompts", flush=True)
            with contextlib.ExitStack() as stack:
                ours, theirs = (
                    stack.enter_context(
                        Worker([python, HERE, side, path, folder, args.new_tokens, args.dtype])
                    )
                    for side, python in (("ours", sys.executable), ("theirs", args.peer_python))
                )
                what = {"shape": shape, "prompts": args.prompts, "tokens": args.new_tokens}
                rows.append(what | measure(ours, theirs, args) | {"load": os.getloadavg()[0]})
    report(rows, args.out)


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["theirs"]):
        side = {"ours": Ours, "theirs": Theirs}[sys.argv[1]]
        serve(lambda: side(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]))
    else:
        from jaxvl.cli.runtime import as_command

        as_command(main)
