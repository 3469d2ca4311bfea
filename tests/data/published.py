# SPDX-License-Identifier: Apache-2.0
"""Small datasets written in the forms in which the real ones are published."""

import base64
import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(seed=0, size=(56, 56), form="JPEG"):
    """The bytes of a picture that no other seed has."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


SAT_ROWS = [
    {
        "question": "Is the lamp to the left of the bed?",
        "answers": ["yes, it is", "no"],
        "correct_answer": "yes, it is",
        "question_type": "obj_rel",
        "pictures": 1,
    },
    {
        "question": "Did the camera move left or right?",
        "answers": ["left", "right"],
        "correct_answer": "right",
        "question_type": "ego_movement",
        "pictures": 2,
    },
    {
        "question": "Which is nearer?",
        "answers": ["the red chair", "the sofa", "a table or a desk, both"],
        "correct_answer": "the sofa",
        "question_type": "depth",
        "pictures": 1,
    },
]


def write_sat(folder, split="train", copies=1, wrapped=False, rows=None):
    """SAT_<split>.parquet of array/SAT: pictures are a list of bytes (`wrapped`: of {"bytes"})."""
    rows = (rows or SAT_ROWS) * copies
    images = [[picture(n * 10 + k) for k in range(r["pictures"])] for n, r in enumerate(rows)]
    kind = IMAGE if wrapped else pa.binary()
    if wrapped:
        images = [[{"bytes": data, "path": None} for data in row] for row in images]
    _write_sat(folder / f"SAT_{split}.parquet", "image_bytes", kind, images, rows)
    return folder


def write_sat_v2(folder, split="train", copies=1):
    """data/<split>-0000n-of-00002.parquet of array/SAT-v2, with a card."""
    rows = SAT_ROWS * copies
    (folder / "data").mkdir(parents=True)
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        images = [
            [
                {"bytes": picture(n * 10 + k, form="PNG"), "path": f"{n}.png"}
                for k in range(r["pictures"])
            ]
            for n, r in enumerate(part)
        ]
        name = f"{split}-0000{number}-of-00002.parquet"
        _write_sat(folder / "data" / name, "images", IMAGE, images, part)
    header = {
        "configs": [
            {"config_name": "default", "data_files": [{"split": split, "path": f"data/{split}-*"}]}
        ]
    }
    (folder / "README.md").write_text(f"---\n{json.dumps(header)}\n---\n# SAT\n")
    return folder


def _write_sat(path, column, kind, images, rows):
    table = pa.table(
        {
            column: pa.array(images, pa.list_(kind)),
            "question": [row["question"] for row in rows],
            "answers": pa.array([row["answers"] for row in rows], pa.list_(pa.string())),
            "question_type": [row["question_type"] for row in rows],
            "correct_answer": [row["correct_answer"] for row in rows],
        }
    )
    pq.write_table(table, path, row_group_size=2)


GRPO_ROWS = [
    {
        "id": "clevr_math-CLEVR_train_027977.png",
        "image": "clevr_math/CLEVR_train_027977.png",
        "question": "Subtract all balls. How many objects are left?",
        "gt": 3,
        "verifier_type": "digit",
    },
    {
        "id": "geoqa170k-geoqa_plus-2905-63590",
        "image": "geoqa170k/geoqa_plus-2905.png",
        "question": "Find tan(angle ADC).\nChoices:\nA: \\frac{1}{2}\nB: 2\nC: \\frac{√{3}}{3}",
        "gt": "C",
        "verifier_type": "mcq",
    },
    {
        "id": "synthesis-2",
        "image": "synthesis/gen_func-func_sine.png",
        "question": "What is the function's equation?",
        "gt": "Step 1: Substitute.\n\n†Answer: y = -5 * sin(-5 * x).",
        "verifier_type": "math",
    },
    {
        "id": "arxivqa-cond-mat-23815",
        "image": "arxivqa/1907.10497_1.jpg",
        "question": "How? Choose from the following options\nA) It increases.\nB) It decreases.",
        "gt": "(b)",
        "verifier_type": "mcq",
    },
    {"id": "docvqa-1", "image": "docvqa/a.png", "question": "What date?", "gt": ["May 1", "1 May"]},
    {"id": "vizwiz-1", "image": "vizwiz/a.jpg", "question": "What is it?", "gt": "a can"},
    {
        "id": "allava-allava_laion_100760552",
        "image": "/allava_laion/images/100760552.jpeg",
        "question": "What could be its significance?",
        "gt": "It is central.",
    },
    {
        "id": "coco-1",
        "image": "coco/train2017/000000000009.jpg",
        "question": "Where is the cup?",
        "gt": "[0.1,0.2,0.7,0.5]",
    },
    {"id": "vg-1", "image": "vg/VG_100K/2.jpg", "question": "Where?", "gt": [0, 0.25, 0.5, 1.0]},
]


def write_vlaa(folder, part="grpo", rows=None, more=()):
    """VLAA-Thinking: JSON lines named .json beside `images`."""
    if rows is None:
        rows = GRPO_ROWS if part == "grpo" else [sft_row(row) for row in GRPO_ROWS]
    for number, row in enumerate(rows):
        file = folder / "images" / row["image"].lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number, form="PNG" if file.suffix == ".png" else "JPEG"))
    name = {"grpo": "VLAA-Thinking-GRPO-25K.json", "sft": "VLAA-Thinking-SFT-126K.json"}[part]
    lines = [json.dumps(row, ensure_ascii=False) for row in [*rows, *more]]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def sft_row(row):
    reply = f"<think>\nI look.\n</think>\n\nIt is so.\n<answer> {row['gt']} </answer>"
    return {"image": row["image"], "question": row["question"], "answer": reply}


def write_tsv(path, count=4):
    """VLMEvalKit's form: base64 pictures, a column for each option."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        names = ["index", "image", "question", "hint", "A", "B", "C", "answer", "category"]
        table = csv.DictWriter(file, names, delimiter="\t")
        table.writeheader()
        for index in range(count):
            row = {"index": index, "question": f"Which\tshape is number {index}?", "answer": "B"}
            row |= {"image": base64.b64encode(picture(index)).decode(), "category": "shapes"}
            table.writerow(
                row | {"A": "a circle", "B": "a square", "C": "None" if index % 2 else ""}
            )
    return path
