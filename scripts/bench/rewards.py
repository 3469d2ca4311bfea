# SPDX-License-Identifier: Apache-2.0
"""How long rewards take: one verdict on the fast path, a rollout full of traps, and one of texts of
a megabyte.

    python scripts/bench/rewards.py --out rewards.json
    taskset -c 0,1 python scripts/bench/rewards.py --completions 512

The rollout is scored as a step scores it, by `verified` with kind "math": a tenth of the
completions are power towers, huge factorials, 5,000 brackets, 60 kB texts and the like, the rest
answers of a model that is right about half of the time. The megabytes are pieces repeated up to a
million characters (`MEGABYTES`), of every kind, half of them scored in lenient mode.
"""

import argparse
import contextlib
import os
import random
import threading
import time
from pathlib import Path

import psutil
from pairs import positive, report

from jaxvl.cli.runtime import as_command
from jaxvl.rewards import pool, verified, verify

HOSTILE = (
    "9^{9^{9^{9}}}",
    "10^{10^{10}}",
    "((9^{99})^{99})^{99}",
    "99999999!",
    "(50!)!",
    "(" * 5000 + "1" + ")" * 5000,
    "{" * 5000 + "1" + "}" * 5000,
    "x" * 60_000,
    "1+" * 30_000 + "1",
    "\\sum_{i=1}^{10^9} i",
    "\\int_0^1 e^{x^2} dx",
    "[1, " + ", ".join(map(str, range(12_000))) + "]",
    "(x+y+z)^{50}-(x+y)^{49}",
    "\\sin(" * 9 + "x" + ")" * 9,
    "\\sqrt{" * 29 + "2" + "}" * 29,
    "1e999999999",
    "__import__('os').system('sleep 100')",
)
# Pieces that are repeated up to a megabyte, alone or in an answer block, and once with an answer.
MEGABYTES = (
    *("<|im_end|>", "</s>", "<answer>", "</answer>", "<answer></answer>", "<answer>3</answer>\n"),
    *(
        "<think>",
        "</think>",
        "<think></think>",
        "<|begin_of_box|>",
        "<|begin_of_box|>3<|end_of_box|>",
    ),
    *(
        "\\boxed{",
        "\\boxed{3}",
        "\\boxed",
        "\\fbox{{",
        "{",
        "[",
        "(",
        "[0,",
        "(0,0),",
        "$",
        "\\",
        "%",
    ),
    *(
        "9",
        "9 ",
        "1+",
        "1,",
        "3 000 ",
        "1.234,",
        "10^",
        "one ",
        "twenty-",
        "and ",
        "a ",
        "half of ",
    ),
    *("The answer is B. ", "the answer is ", "answer: ", "final answer ", "The answer is 3.\n"),
    *(
        "A. left ",
        "(B) ",
        "option ",
        "B is correct. ",
        "not ",
        "n't ",
        "because ",
        "that not ",
        "or ",
    ),
    *(
        "left ",
        "the right answer is left\n",
        '{"answer": ',
        '"',
        "```",
        "```json\n",
        "**",
        "`",
        "-",
        ".",
    ),
    *(
        " ",
        "\n",
        "\n\n",
        ". ",
        "? ",
        "?\n",
        " .",
        ", ",
        ": ",
        "\t",
        "\u200b",
        "\u202e",
        "½",
        "数",
        "答案是",
    ),
    *("选", "٣", "x", "x=", "=", "is ", "is the ", "of the ", "\x00", "\ud800", "e\u0301", "ﷺ"),
)
# A gold and answers to it, right and wrong; a and b differ from prompt to prompt.
GOLDS = (
    ("y={a}x+{b}", ("y={b}+{a}x", "{a}x+{b}", "y={a}x-{b}", "{b}")),
    (
        "{a}\\sqrt{{{b}}}",
        ("\\frac{{{a}\\cdot{b}}}{{\\sqrt{{{b}}}}}", "{a}√{b}", "{a}.46", "\\sqrt{{{b}}}"),
    ),
    ("\\{{{a}, {a}+{b}\\}}", ("x={a}+{b} or x={a}", "{a}, {a}+{b}", "{a}", "\\{{{a}, {b}\\}}")),
    ("{a}{b}", ("{a}{b}", "{a}{b}^\\circ", "{b}", "x={a}{b}")),
    (
        "\\frac{{{a}\\pi}}{{{b}}}",
        ("{a}π/{b}", "\\frac{{2\\cdot{a}\\pi}}{{2\\cdot{b}}}", "60", "1.05"),
    ),
)
GROUP = 8


def latency(count: int) -> dict[str, float]:
    """Milliseconds of processor time a verdict on the fast path takes: median, p99, largest."""
    thinking = f"<think>{'so the chair is left of the lamp, or B, or 3. ' * 100}</think>"
    rows = (
        ("number", "12 cm", "12"),
        ("number", "The answer is 3.14159", "3.14"),
        ("mcq", "D: 27°", "D"),
        ("mcq", "A person is standing on the left", "A"),
        ("bbox", '```json\n{"bbox_2d": [0.1, 0.2, 0.7, 0.5]}\n```', "[0.1, 0.2, 0.4, 0.5]"),
        ("text", "To the left.", "to the left"),
        ("math", "0.5", "\\frac{1}{2}"),
    )
    times = []
    for number in range(count):
        kind, answer, gold = rows[number % len(rows)]
        start = time.thread_time()
        verify(kind, f"{thinking}<answer>{answer}</answer>", gold)
        times.append(1000 * (time.thread_time() - start))
    times.sort()
    return {
        "median ms": times[count // 2],
        "p99 ms": times[int(count * 0.99)],
        "largest ms": times[-1],
    }


def rollout(count: int, workers: int) -> dict[str, float]:
    """Seconds to score `count` completions, a tenth of them hostile, and what it leaves behind."""
    draw = random.Random(0)
    texts, golds = [], []
    for number in range(count):
        if number % GROUP == 0:
            gold, answers = draw.choice(GOLDS)
            values = {"a": draw.randint(2, 99), "b": draw.randint(2, 99)}
        answer = draw.choice(answers).format(**values)
        if number % 10 == 0:
            answer = f"{HOSTILE[number // 10 % len(HOSTILE)]}+{number}"  # no two are the same
        texts.append(f"<think>so</think>\n<answer>{answer}</answer>")
        golds.append(gold.format(**values))
    pool.start(pool.WorkerLimits(workers=workers))
    watch = _Memory()
    logged: dict[str, float] = {}
    start, cpu = time.perf_counter(), _processor_time()
    blank = [""] * count
    scored = verified(blank, texts, blank, kind="math", answer=golds, log_metric=logged.__setitem__)
    seconds, cpu = time.perf_counter() - start, _processor_time() - cpu
    alive = [child for child in psutil.Process().children() if child.is_running()]
    shared = pool._pool
    return {
        "completions": count,
        "workers": shared.count,
        "seconds": seconds,
        "processor seconds": cpu,
        "mean reward": sum(scored) / count,
        "compared by workers": shared.counts["asked"] - shared.counts["remembered"],
        "timeouts": shared.counts["timeout"],
        "crashes": shared.counts["crash"],
        "workers alive after": len(alive),
        "workers started": shared.counts["started"],
        "peak MiB of all processes": watch.stop() / 2**20,
        **logged,
    }


def megabytes(count: int, workers: int) -> dict[str, float | str]:
    """Seconds to score `count` hostile completions of up to a million characters."""
    golds = (("number", "3", None), ("mcq", "B", ("left", "right")), ("math", "2\\sqrt{3}", None))
    golds += (("bbox", "[0, 0, 3, 3]", None), ("text", "left", None))
    pool.start(pool.WorkerLimits(workers=workers))
    rows = []
    for number in range(count):
        piece, draw = MEGABYTES[number % len(MEGABYTES)], random.Random(number)
        text = piece * (draw.choice((1_000_000, 1_000_000, 100_000, 2_000)) // len(piece))
        form = ("{}", "<answer>{}</answer>", "{}\n<answer>3</answer>{}", "x{}y")[number // 7 % 4]
        rows.append((form.format(text, text[:100]), *golds[number % 5], number % 2))
    slowest = {}

    def one(text, kind, gold, choices, lenient):
        start = time.thread_time()
        value = verify(kind, text, gold, choices, "lenient" if lenient else "strict").reward
        key = f"{kind} {'lenient' if lenient else 'strict'} {text[:24]!r}"
        slowest[key] = max(slowest.get(key, 0), time.thread_time() - start)
        return value

    start = time.perf_counter()
    scored = pool.map_threads(one, *zip(*rows, strict=True))
    seconds = time.perf_counter() - start
    worst = max(slowest, key=slowest.get)
    return {
        "completions": count,
        "megabytes": sum(len(row[0]) for row in rows) / 1e6,
        "seconds": seconds,
        "largest ms": 1000 * slowest[worst],
        "which is": worst,
        "mean reward": sum(scored) / count,
    }


def _processor_time() -> float:
    processes = [psutil.Process(), *psutil.Process().children()]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


class _Memory:
    """The largest resident size of this process and its workers together, looked at often."""

    def __init__(self):
        self.peak, self.running = 0, True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def _watch(self) -> None:
        while self.running:
            total = 0
            for process in [psutil.Process(), *psutil.Process().children()]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
            self.peak = max(self.peak, total)
            time.sleep(0.02)

    def stop(self) -> int:
        self.running = False
        self.thread.join()
        return self.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verdicts", type=positive, default=5000)
    parser.add_argument("--completions", type=positive, default=512)
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    before = os.getloadavg()[0]
    parts = {
        "fast path": latency(args.verdicts),
        "rollout": rollout(args.completions, args.workers),
        "megabytes": megabytes(args.completions, args.workers),
    }
    rows = [
        {"part": part, "measure": measure, "value": value}
        for part, values in parts.items()
        for measure, value in values.items()
    ]
    report([*rows, {"part": "machine", "measure": "load before", "value": before}], args.out)


if __name__ == "__main__":
    as_command(main)
