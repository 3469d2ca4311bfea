# SPDX-License-Identifier: Apache-2.0
"""The data pipeline against plain decoding: images a second, and a second of one core.

    python scripts/bench/pipeline.py --out pipeline.json

JPEG files of 448 x 448 pixels, prepared as a dataset is, go through four things: Pillow decoding
the same bytes and nothing else; decoding to the patches of the tower; the pipeline as a run has it
(ArrayRecord, decoding, digests of test sets, template, tokens, patches, batches) in the caller's
thread; and the same with reading threads. "Of one core" counts seconds of processor time over all
threads, which other jobs on the machine do not use up.
"""

import argparse
import functools
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pairs import positive, report
from PIL import Image

from jaxvl.cli.runtime import as_command
from jaxvl.data import made_up, pipeline
from jaxvl.data.image import ImageSettings, load_image, pixel_patches
from jaxvl.data.intake import ExampleFilter
from jaxvl.data.prepared import Prepared
from jaxvl.data.prompts import Processor
from jaxvl.data.templates import chat_question

BASE = Path(__file__).parents[2] / "configs/quickstart_base"
SIDE, BATCH = 448, 8


def write(folder: Path, count: int) -> Prepared:
    """A prepared set of `count` images with a question each."""
    asked = "Which of the two things is nearer to number {}?"
    rows = [{"question": asked.format(number), "answer": "a"} for number in range(count)]
    return made_up.prepared(folder, rows, SIDE, photos=count)


def decode(files: list[bytes]) -> None:
    for data in files:
        Image.open(io.BytesIO(data)).convert("RGB")


def patches(files: list[bytes], settings: ImageSettings) -> None:
    for data in files:
        pixel_patches(load_image(data), settings)


def draw(prepared: Prepared, processor: Processor, workers: int) -> None:
    """Every image once, as `jaxvl.train.prompts.PromptStream` draws it."""
    examples, gate = prepared.load(), ExampleFilter()

    def make(position: int, candidates):
        example = gate.open(next(candidates))
        return processor.encode(chat_question(example), list(example.images))

    stream = pipeline.batches(examples, make, prompts=BATCH, seed=0, shuffle=True, workers=workers)
    for _ in range(len(examples) // BATCH):
        next(stream)


def measure(work: Callable[[], None], count: int, repeats: int) -> dict[str, float]:
    """The best of some repeats: images a second, and a second of processor time."""
    walls, cores = [], []
    for _ in range(repeats):
        wall, core = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cores.append(time.process_time() - core)
    return {"images/s": count / min(walls), "images/s of one core": count / min(cores)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=positive, default=256)
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    count = args.images // BATCH * BATCH
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prepared = write(Path(folder), count)
        files = [example.images[0] for example in prepared.load()]
        processor = Processor.from_pretrained(BASE, max_pixels=512 * 28 * 28)
        tasks = {
            "Pillow decodes": functools.partial(decode, files),
            "to patches": functools.partial(patches, files, processor.image),
        }
        for workers in args.workers:
            name = f"pipeline, {workers} threads" if workers else "pipeline, no threads"
            tasks[name] = functools.partial(draw, prepared, processor, workers)
        for name, work in tasks.items():
            print(name, flush=True)
            work()
            found = measure(work, count, args.repeats)
            share = found["images/s of one core"]
            rows.append({"what": name, "KiB an image": sum(map(len, files)) / count / 1024} | found)
            rows[-1]["share of Pillow's"] = share / rows[0]["images/s of one core"]
            rows[-1]["load"] = os.getloadavg()[0]
    report(rows, args.out)


if __name__ == "__main__":
    as_command(main)
