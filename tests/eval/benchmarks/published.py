# SPDX-License-Identifier: Apache-2.0
"""Small benchmarks written in the formats in which the real ones are published.

LAYOUTS[benchmark][layout](folder) writes its files. Rows are as in Hugging Face's files; a picture
is given as a number, the seed of its pixels.
"""

import base64
import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.published import IMAGE, picture, write_sat, write_sat_v2

PICTURES = {"image", "decoded_image", "image_path", *(f"image_{n}" for n in range(1, 8))}


def parquet(path, rows, as_path=()):
    """Rows with pictures as the struct {bytes, path}, but for columns that hold their names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        if name in PICTURES - set(as_path):
            values = [v if v is None else {"bytes": picture(v), "path": None} for v in values]
            columns[name] = pa.array(values, IMAGE)
        else:
            columns[name] = pa.array(values)
    pq.write_table(pa.table(columns), path)


def tsv(path, rows):
    """VLMEvalKit's table: base64 pictures (a list of them as Python writes it), options in columns
    of their own, absent cells empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {name: cell(value) if name == "image" else value for name, value in row.items()}
        for row in rows
    ]
    with open(path, "w", newline="", encoding="utf-8") as file:
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = csv.DictWriter(file, names, delimiter="\t")
        table.writeheader()
        table.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)


def cell(image):
    if isinstance(image, list):
        return str([cell(one) for one in image])
    return base64.b64encode(picture(image)).decode() if isinstance(image, int) else image


def options(choices):
    return dict(zip("ABCDEFGH", choices, strict=False))


def with_files(folder, rows, name, where=""):
    """The rows with their pictures in files, named by `name(row)` below `where`."""
    out = []
    for row in rows:
        file = folder / where / name(row)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(row["image"], form="PNG" if file.suffix == ".png" else "JPEG"))
        out.append(row | {"image": name(row)})
    return out


def without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


def cv_row(idx, task, source, choices, answer):
    question = f"Question {idx}?"
    listed = "\n".join(f"({letter}) {text}" for letter, text in options(choices).items())
    return {
        "idx": idx,
        "type": "3D" if source == "Omni3D" else "2D",
        "task": task,
        "image": idx,
        "question": question,
        "choices": choices,
        "answer": f"({answer})",
        "prompt": f"{question} Select from the following choices.\n{listed}",
        "filename": f"img/{task.lower()}/{idx}.png",
        "source": source,
        "source_dataset": f"{source} Dataset",
    }


CV = [
    cv_row(0, "Count", "ADE20K", ["3", "5", "4", "1"], "B"),
    cv_row(1, "Relation", "COCO", ["left", "right"], "A"),
    cv_row(2, "Count", "COCO", ["0", "2", "1", "3", "5", "6"], "F"),
    cv_row(3, "Depth", "Omni3D", ["box", "desk"], "B"),
    cv_row(4, "Distance", "Omni3D", ["chair", "car"], "A"),
]


def cv_tsv(folder):
    for space in ("2D", "3D"):
        rows = [
            without(row, "idx", "type", "choices", "filename", "source_dataset")
            | {"index": row["idx"], "answer": row["answer"][1], "split": space}
            | options(row["choices"])
            for row in CV
            if row["type"] == space
        ]
        tsv(folder / f"CV-Bench-{space}.tsv", rows)


def cv_jsonl(folder):
    rows = [without(row, "image") for row in with_files(folder, CV, lambda row: row["filename"])]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))


def blink_row(subset, n, images, choices, answer, prompt=None):
    return {
        "idx": f"val_{subset}_{n}",
        "question": f"Which is so, {n}?",
        "sub_task": subset,
        **{f"image_{k + 1}": images[k] if k < len(images) else None for k in range(4)},
        "choices": choices,
        "answer": f"({answer})",
        "prompt": prompt or f"Look. Which is so, {n}?\nSelect from the following choices.\n(A) ..",
        "explanation": "",
    }


BLINK = [
    blink_row("Relative_Depth", 1, [1], ["A is closer", "B is closer"], "A"),
    blink_row("Relative_Depth", 2, [2], ["A is closer", "B is closer"], "B"),
    blink_row("Spatial_Relation", 1, [3], ["yes", "no"], "A"),
    blink_row("Multi-view_Reasoning", 1, [4, 5], ["left", "right"], "B"),
]


def blink_hf(folder):
    for subset in {row["sub_task"] for row in BLINK}:
        rows = [row for row in BLINK if row["sub_task"] == subset]
        parquet(folder / subset / "val-00000-of-00001.parquet", rows)
        hidden = [row | {"answer": "hidden"} for row in rows]
        parquet(folder / subset / "test-00000-of-00001.parquet", hidden)
    parquet(folder / "Art_Style" / "val-00000-of-00001.parquet", [BLINK[0] | {"idx": "val_Art_1"}])


def blink_tsv(folder):
    more = [BLINK[0] | {"sub_task": "Art_Style", "idx": "art"}]
    rows = []
    for row in BLINK + more:
        images = [row[f"image_{k}"] for k in range(1, 5) if row[f"image_{k}"] is not None]
        cells = {"index": row["idx"], "image": images if len(images) > 1 else images[0]}
        cells |= {"question": row["question"], "answer": row["answer"][1]}
        rows.append(cells | options(row["choices"]) | {"category": row["sub_task"], "split": "val"})
    tsv(folder / "BLINK.tsv", rows)


SAT = [
    {
        "question": "Is the lamp to the left of the bed?",
        "answers": ["yes, it is", "no"],
        "correct_answer": "yes, it is",
        "question_type": "obj_movement",
        "pictures": 1,
    },
    {
        "question": "Where did it go?",
        "answers": ["left", "right", "it stayed"],
        "correct_answer": "right",
        "question_type": "ego_movement",
        "pictures": 2,
    },
]


def vsr_jsonl(folder):
    rows = [
        ("000000017697.jpg", "The car is behind the suitcase.", 1, "behind"),
        ("000000199940.jpg", "The cat is under the backpack.", 0, "under"),
    ]
    lines = []
    for n, (image, caption, label, relation) in enumerate(rows):
        file = folder / "data" / "images" / image
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(n))
        link = f"http://images.cocodataset.org/train2017/{image}"
        lines.append({"image": image, "image_link": link, "caption": caption, "label": label})
        lines[-1] |= {"relation": relation, "annotator_id": 2, "vote_true_validator_id": "[18]"}
    for split, kept in (("random", lines[:1]), ("zeroshot", lines)):
        file = folder / "data" / "splits" / split / "test.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text("\n".join(map(json.dumps, kept)))


GQA = {
    "201307251": ("n161313", "Is it overcast?", "no", "verify", "global"),
    "201640614": ("n235859", "Who is wearing the dress?", "woman", "query", "rel"),
    "202225914": (
        "n161313",
        "Is the bag on the right or on the left?",
        "right",
        "choose",
        "obj",
    ),
}


def gqa_rows():
    for id, (image, question, answer, structural, semantic) in GQA.items():
        types = {"structural": structural, "semantic": semantic, "detailed": "x"}
        row = {"imageId": image, "question": question, "answer": answer, "types": types}
        yield id, row | {"isBalanced": True, "fullAnswer": f"It is {answer}."}


def gqa_json(folder):
    for n, image in enumerate(("n161313", "n235859")):
        file = folder / "images" / f"{image}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(n))
    (folder / "testdev_balanced_questions.json").write_text(json.dumps(dict(gqa_rows())))


def gqa_hf(folder):
    rows = [{"id": id, **row} for id, row in gqa_rows()]
    parquet(folder / "testdev_balanced_instructions" / "testdev-00000-of-00001.parquet", rows)
    images = [{"id": id, "image": n} for n, id in enumerate(("n161313", "n235859"))]
    parquet(folder / "testdev_balanced_images" / "testdev-00000-of-00001.parquet", images)


def vista_row(pid, kind, answer, *, choices=None, precision=None, unit=None, skills=("geometry",)):
    return {
        "pid": str(pid),
        "question": f"What is it, {pid}?",
        "image": f"images/{pid}.jpg",
        "decoded_image": pid,
        "choices": choices,
        "unit": unit,
        "precision": precision,
        "answer": answer,
        "question_type": "multi_choice" if choices else "free_form",
        "answer_type": kind,
        "metadata": {
            "category": "math-targeted-vqa",
            "skills": [f"{skill} reasoning" for skill in skills],
            "task": "geometry problem solving" if choices else "figure question answering",
        },
    }


VISTA = [
    vista_row(
        1, "text", "2:30", choices=["2:15", "2:30", "3:00"], skills=("arithmetic", "logical")
    ),
    vista_row(2, "integer", "4", unit="$"),
    vista_row(3, "float", "1.2", precision=1.0),
    vista_row(4, "float", "0.5", precision=2.0),
    vista_row(5, "list", "[0, 4]"),
]
VISTA_QUERIES = {
    "1": "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, "
    "D, at the end.\nQuestion: What is it, 1?\nChoices:\n(A) 2:15\n(B) 2:30\n(C) 3:00",
    "2": "Hint: Please answer the question requiring an integer answer and provide the final value,"
    " e.g., 1, 2, 3, at the end.\nQuestion: What is it, 2? (Unit: $)",
    "3": "Hint: Please answer the question requiring a floating-point number with one decimal place"
    " and provide the final value, e.g., 1.2, 1.3, 1.4, at the end.\nQuestion: What is it, 3?",
    "4": "Hint: Please answer the question requiring a floating-point number with two decimal "
    "places and provide the final value, e.g., 1.23, 1.34, 1.45, at the end.\nQuestion: What is "
    "it, 4?",
    "5": "Hint: Please answer the question requiring a Python list as an answer and provide the "
    "final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the end.\nQuestion: What is it, 5?",
}


def vista_hf(folder):
    rows = [row | {"query": VISTA_QUERIES[row["pid"]]} for row in VISTA]
    parquet(folder / "data" / "testmini-00000-of-00001.parquet", rows, as_path=("image",))


def vista_json(folder):
    rows = [row | {"image": row["decoded_image"]} for row in VISTA]
    rows = with_files(folder, rows, lambda row: f"images/{row['pid']}.jpg")
    rows = {row["pid"]: without(row, "decoded_image") for row in rows}
    (folder / "data").mkdir()
    (folder / "data" / "testmini.json").write_text(json.dumps(rows, indent=1))


def vista_tsv(folder):
    rows = []
    for row in VISTA:
        kept = without(row, "pid", "metadata", "decoded_image", "unit")
        kept |= {"index": row["pid"], "image": row["decoded_image"], **row["metadata"]}
        rows.append(kept | {"question": VISTA_QUERIES[row["pid"]]} | options(row["choices"] or []))
    tsv(folder / "MathVista_MINI.tsv", rows)


def vision_row(n, answer, choices=(), subject="arithmetic"):
    return {
        "id": str(n),
        "question": f"How many are there, {n}?\n<image1>",
        "options": list(choices),
        "image": f"images/{n}.jpg",
        "decoded_image": n,
        "answer": answer,
        "solution": None,
        "level": 1 + n % 5,
        "subject": subject,
    }


VISION = [
    vision_row(1, "60"),
    vision_row(2, "A", list("ABCDE"), "logic"),
    vision_row(3, "C", ["$2+4$", "$\\frac{1}{2}$", "$2 \\cdot 3$", "7", "8"]),
    vision_row(4, "\\frac{5}{2}", (), "algebra"),
    vision_row(5, "(3,4)", (), "algebra"),
]


def vision_hf(split):
    def write(folder):
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        parquet(path, VISION, as_path=("image",))

    return write


def vision_jsonl(split):
    def write(folder):
        rows = [without(row, "decoded_image") | {"image": int(row["id"])} for row in VISION]
        rows = with_files(folder, rows, lambda row: f"images/{row['id']}.jpg")
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))

    return write


def vision_tsv(name):
    def write(folder):
        kept = [without(row, "id", "options", "decoded_image", "subject") for row in VISION]
        rows = [
            new | {"index": row["id"], "image": int(row["id"]), "choices": str(row["options"])}
            for new, row in zip(kept, VISION, strict=True)
        ]
        rows = [new | {"category": row["subject"]} for new, row in zip(rows, VISION, strict=True)]
        tsv(folder / name, rows)

    return write


def verse_row(n, answer, choices=(), version="Vision Only", problem=0):
    many = bool(choices)
    ask = "the correct option letter, e.g., A, B, C, D" if many else "the final value, e.g., 1, 2.5"
    listed = "\n".join(f"{letter}:{text}" for letter, text in options(choices).items())
    return {
        "sample_index": str(n),
        "problem_index": str(problem or n),
        "problem_version": version,
        "question": "" if version == "Vision Only" else "Find it.",
        "image": n,
        "answer": answer,
        "question_type": "multi-choice" if many else "free-form",
        "metadata": {
            "split": "testmini",
            "source": "GeoQA",
            "subject": "Plane Geometry",
            "subfield": "Angle" if many else "Length",
        },
        "query_wo": f"According to the question shown in the image, please directly answer the "
        f"question and provide {ask}.",
        "query_cot": "According to the question shown in the image, please first conduct "
        f"reasoning, and then answer the question and provide {ask}, at the end.",
        "question_for_eval": "Find it." + f"\nChoices:\n{listed}" * many,
    }


VERSE = [
    verse_row(1, "D", ["40°", "60°", "120°", "140°"]),
    verse_row(2, "D", ["40°", "60°", "120°", "140°"], "Text Lite", 1),
    verse_row(3, "14"),
    verse_row(4, "$\\frac{1}{2}$"),
    verse_row(5, "y=-3x+2"),
]


def verse_json(folder):
    rows = with_files(
        folder, VERSE, lambda row: f"images_version_6/{row['sample_index']}.png", "images"
    )
    (folder / "testmini.json").write_text(json.dumps(rows, indent=1))


def verse_tsv(folder):
    rows = []
    for row in VERSE:
        if row["problem_version"] == "Vision Only":
            new = without(row, "sample_index", "metadata") | {"index": row["sample_index"]}
            rows.append(new | row["metadata"] | {"question": row["query_wo"]})
    tsv(folder / "MathVerse_MINIVOnly.tsv", rows)


def dyna_row(n, variant, kind, answer, question):
    return {
        "id": str(n),
        "question": question,
        "image": f"images/variant_{variant}/{n}.png",
        "decoded_image": 20 * n + variant,
        "ground_truth": answer,
        "answer_type": kind,
        "subject": "analytic geometry",
        "knowledge_level": "high school",
    }


DYNA = [
    dyna_row(n, variant, kind, answer, question)
    for variant in (1, 2)
    for n, kind, answer, question in (
        (1, "float", "2.0944" if variant == 1 else "12", "What is the period of this function?"),
        (2, "text", "Sep", "Which month is the hottest?"),
        (3, "multiple choice", "C", "It is ____. Choices: (A) larger (B) equal to (C) smaller"),
    )
]


def of_variant(variant):
    return [row for row in DYNA if row["decoded_image"] % 20 == variant]


def dyna_hf(folder):
    for variant in (1, 2):
        name = f"sample_variant{variant}-00000-of-00001.parquet"
        parquet(folder / "data" / name, of_variant(variant), as_path=("image",))


def dyna_json(folder):
    for variant in (1, 2):
        rows = [
            without(row, "decoded_image", "ground_truth", "knowledge_level")
            | {"answer": row["ground_truth"], "level": row["knowledge_level"]}
            | {"image": row["decoded_image"]}
            for row in of_variant(variant)
        ]
        trial = folder / f"trial{variant}"
        rows = with_files(trial, rows, lambda row: f"image/image{row['id']}.png")
        objects = {row["id"]: without(row, "id") for row in rows}
        (trial / "dataset.json").write_text(json.dumps(objects, indent=1))


def dyna_tsv(folder):
    rows = []
    for index, row in enumerate(DYNA):
        new = without(row, "id", "decoded_image", "ground_truth")
        new |= {"index": index, "qid": row["id"], "varid": row["decoded_image"] % 20}
        rows.append(new | {"answer": row["ground_truth"], "image": row["decoded_image"]})
    tsv(folder / "DynaMath.tsv", rows)


WE_OPTION = "A. 8;B. ∠AB;E.; C. 4; D. No correct answer"
WE = [
    {
        "ID": f"{steps}steps_{number}",
        "split": "testmini",
        "knowledge concept": "Area of Triangles",
        "question": f"What is the area, {part}?",
        "option": WE_OPTION,
        "answer": "ABCD"[(number + place) % 4],
        "image_path": 100 * number + 10 * steps + place,
        "key": f"{steps}steps_{part}",
        "question number": place,
        "knowledge concept description": "Area of Triangles: ..",
    }
    for steps, number in ((2, 1), (2, 2), (3, 1))
    for place, part in enumerate([*map(str, range(1, steps + 1)), "multi"])
]


def we_json(folder):
    rows = [without(row, "image_path") | {"image": row["image_path"]} for row in WE]
    rows = with_files(
        folder, rows, lambda row: f"{row['key'][:6]}/image/{row['ID']}-{row['key']}.png"
    )
    rows = [without(row, "image") | {"image_path": row["image"]} for row in rows]
    (folder / "testmini.json").write_text(json.dumps(rows, indent=1))


def we_tsv(folder):
    choices = ["8", "∠AB;E.", "4", "No correct answer"]
    rows = [
        without(row, "image_path", "option")
        | {"index": index, "image": row["image_path"], "requirement": "Answer so."}
        | options(choices)
        for index, row in enumerate(WE)
    ]
    tsv(folder / "WeMath.tsv", rows)


def logic_row(n, question, answer, skill="inductive"):
    return {"id": f"v1_{n}", "image": n, "question": question, "answer": answer, "skill": [skill]}


LOGIC = [
    logic_row(0, "Which choice (A, B, C, or D) completes the series?", "C"),
    logic_row(1, "Which choices in the image (A-D) belong to the green category?", "A, C"),
    logic_row(20, "Which is the correct answer? Select from 1-5", "3", "deductive"),
    logic_row(19, "How many triangles? Select from A-D. \n A) 10 B) 12 C) 14 D) 16", "C"),
    logic_row(373, "Which shape can be made from the net?", "A", "spatial"),
    logic_row(382, "", ""),
]


def logic_json(folder):
    rows = with_files(folder, LOGIC, lambda row: f"{row['id']}.png", "data/images")
    rows = {
        row["id"]: without(row, "id", "image") | {"imagename": row["image"], "capability": ["ocr"]}
        for row in rows
    }
    (folder / "data" / "dataset.json").write_text(json.dumps(rows, indent=4))


def logic_tsv(folder):
    rows = [without(row, "id") | {"index": row["id"], "skill": str(row["skill"])} for row in LOGIC]
    tsv(folder / "LogicVista.tsv", rows)


def mmmu_row(
    subject, n, answer, choices=(), question="Look at <image 1>. What is it?", images=(7,)
):
    return {
        "id": f"validation_{subject}_{n}",
        "question": question,
        "options": str(list(choices)),
        "explanation": "",
        **{f"image_{k + 1}": images[k] if k < len(images) else None for k in range(7)},
        "img_type": "['Tables']",
        "answer": answer,
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice" if choices else "open",
        "subfield": "Some",
    }


MMMU = [
    mmmu_row("Accounting", 1, "B", ["$6", "$7", "None", "nan"]),
    mmmu_row("Art_Theory", 2, "A", ["<image 2>", "<image 1>"], "Which fits <image 3>?", (1, 2, 3)),
    mmmu_row("Math", 3, "13.5"),
    mmmu_row("Math", 4, "['Hamlet', 'Prince Hamlet']"),
]


def mmmu_hf(folder):
    for row in MMMU:
        subject = row["id"].removeprefix("validation_")[:-2]
        file = folder / subject / f"validation-0000{row['id'][-1]}-of-00005.parquet"
        parquet(file, [row])


def mmmu_tsv(folder):
    rows = []
    for index, row in enumerate(MMMU):
        images = [row[f"image_{k}"] for k in range(1, 8) if row[f"image_{k}"] is not None]
        new = {"index": index, "id": row["id"], "split": "validation", "answer": row["answer"]}
        new |= {"image": images if len(images) > 1 else images[0], "question": row["question"]}
        new |= options([text.strip("'") for text in row["options"][1:-1].split(", ") if text])
        rows.append(new | {"category": row["id"].removeprefix("validation_")[:-2]})
    tsv(folder / "MMMU_DEV_VAL.tsv", [*rows, rows[0] | {"id": "dev_Math_1", "split": "dev"}])


def science_row(image, answer, choices, subject, grade, hint=""):
    return {
        "image": image,
        "question": f"Which one, {grade}?",
        "choices": choices,
        "answer": answer,
        "hint": hint,
        "task": "closed choice",
        "grade": grade,
        "subject": subject,
        "topic": "physics",
        "category": "Magnets",
        "skill": "Compare",
        "lecture": "",
        "solution": "",
    }


SCIENCE = [
    science_row(1, 0, ["weaker", "stronger"], "natural science", "grade6", "Two magnets."),
    science_row(2, 2, ["a", "b", "c", "d"], "social science", "grade8"),
    science_row(None, 1, ["yes", "no"], "language science", "grade3"),
]


def science_hf(folder):
    with_images = [row for row in SCIENCE if row["image"] is not None]
    parquet(folder / "ScienceQA-FULL" / "test-00000-of-00001.parquet", SCIENCE)
    parquet(folder / "ScienceQA-IMG" / "test-00000-of-00001.parquet", with_images)


def science_json(folder):
    problems = {}
    for n, row in enumerate(SCIENCE, 1):
        problems[str(n)] = row | {"split": "test", "image": row["image"] and "image.png"}
        if row["image"] is not None:
            file = folder / "images" / "test" / str(n) / "image.png"
            file.parent.mkdir(parents=True)
            file.write_bytes(picture(row["image"], form="PNG"))
    problems["9"] = problems["3"] | {"split": "train"}
    (folder / "problems.json").write_text(json.dumps(problems))


def science_tsv(folder):
    rows = [
        {"index": n, "image": row["image"], "question": row["question"], "hint": row["hint"]}
        | options(row["choices"])
        | {"answer": "ABCD"[row["answer"]], "category": row["topic"], "l2-category": row["subject"]}
        for n, row in enumerate(SCIENCE)
        if row["image"] is not None
    ]
    tsv(folder / "ScienceQA_TEST.tsv", rows)


OWN = [
    {"id": "a", "question": "Where is it?", "answer": "left", "choices": ["left", "right"]},
    {"id": "b", "question": "How many?", "answer": 3, "task": "count"},
    {"id": "c", "question": "What is it?", "answer": "a red hat"},
    {"id": "d", "question": "How long is it?", "answer": "$2\\sqrt{3}$", "kind": "math"},
    {"id": "e", "question": "How old is it?", "answer": "3", "kind": "age"},
]


def own(folder, name):
    folder.mkdir(exist_ok=True)
    (folder / "1.jpg").write_bytes(picture(1))
    rows = [row | {"image": "1.jpg"} for row in OWN]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(lines if name.endswith(".jsonl") else json.dumps(rows))


LAYOUTS = {
    "own": {
        "jsonl": lambda folder: own(folder, "questions.jsonl"),
        "json": lambda folder: own(folder, "questions.json"),
    },
    "cv_bench": {
        "hf": lambda folder: parquet(folder / "test.parquet", CV),
        "hf parts": lambda folder: [
            parquet(folder / f"test_{n}d.parquet", [r for r in CV if r["type"] == f"{n}D"])
            for n in (2, 3)
        ],
        "jsonl": cv_jsonl,
        "tsv": cv_tsv,
    },
    "sat": {
        "hf": lambda folder: write_sat(folder, "test", rows=SAT),
        "v2": lambda folder: write_sat_v2(folder / "v2", "test"),
    },
    "blink_spatial": {"hf": blink_hf, "tsv": blink_tsv},
    "vsr": {"jsonl": vsr_jsonl},
    "gqa": {"json": gqa_json, "hf": gqa_hf},
    "mathvista": {"hf": vista_hf, "json": vista_json, "tsv": vista_tsv},
    "mathvision": {
        "hf": vision_hf("test"),
        "jsonl": vision_jsonl("test"),
        "tsv": vision_tsv("MathVision.tsv"),
    },
    "mathvision_mini": {
        "hf": vision_hf("testmini"),
        "jsonl": vision_jsonl("testmini"),
        "tsv": vision_tsv("MathVision_MINI.tsv"),
    },
    "mathverse": {
        "hf": lambda folder: parquet(folder / "testmini.parquet", VERSE),
        "json": verse_json,
        "tsv": verse_tsv,
    },
    "dynamath": {"hf": dyna_hf, "json": dyna_json, "tsv": dyna_tsv},
    "wemath": {
        "hf": lambda folder: parquet(folder / "data" / "testmini-00000-of-00001.parquet", WE),
        "json": we_json,
        "tsv": we_tsv,
    },
    "logicvista": {
        "hf": lambda folder: parquet(folder / "data" / "test-00000-of-00001.parquet", LOGIC),
        "json": logic_json,
        "tsv": logic_tsv,
    },
    "mmmu": {"hf": mmmu_hf, "tsv": mmmu_tsv},
    "scienceqa": {"hf": science_hf, "json": science_json, "tsv": science_tsv},
}
