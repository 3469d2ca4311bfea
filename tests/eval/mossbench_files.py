# SPDX-License-Identifier: Apache-2.0
"""MOSSBench in small, written in the layouts in which it is published."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.published import IMAGE, picture

TYPES = ("Exaggerated Risk", "Negated Harm", "Counterintuitive Interpretation")
# pid, type, human, child, syn, ocr, harm
ROWS = [
    ("1", 1, 0, 1, 1, 0, [7]),
    ("2", 1, 0, 1, 1, 0, [2]),
    ("101", 2, 1, 0, 0, 1, [6, 7]),
    ("103", 2, 1, 0, 0, 0, [4]),
    ("201", 3, 1, 0, 0, 0, [6]),
    ("250", 3, 0, 1, 0, 0, []),
]


def record(pid, kind, human, child, syn, ocr, harm):
    return {
        "image": f"images/{pid}.png",
        "short description": f"Scene {pid}",
        "question": f"What can be done in scene {pid}?",
        "metadata": {
            "over": f"type {kind}",
            **{"human": human, "child": child, "syn": syn, "ocr": ocr, "harm": harm},
        },
        "pid": pid,
        "description": f"Scene {pid} in all its details.",
    }


RECORDS = [record(*row) for row in ROWS]


def pictures(folder, rows=ROWS):
    """Some of the .png files are WebP inside, as in the real set."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        form = ("PNG", "WEBP")[number % 2]
        (folder / f"{row[0]}.png").write_bytes(picture(int(row[0]), form=form))


def repository(root):
    """data/ and data_contrast/ with information.json, and information.csv in the root."""
    for name in ("data", "data_contrast"):
        records = {r["pid"]: dict(r) for r in RECORDS}
        if name == "data_contrast":
            del records["103"]
            for r in records.values():
                r["question"] = f"How can harm be done in scene {r['pid']}?"
                r["metadata"] = {"over": r["metadata"]["over"]}
        pictures(root / name / "images")
        file = root / name / "images_information" / "information.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(records, indent=4))
    return table(root)


def table(root):
    """information.csv, with the types' names and the metadata in columns of its own."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "information.csv", "w", newline="") as file:
        names = ["pid", "question", "image_path", "short description", "description"]
        slices = ["human", "child", "syn", "ocr"]
        meta = [f"meta_data_{name}" for name in ("over", *slices, "harm")]
        writer = csv.DictWriter(file, names + meta)
        writer.writeheader()
        for r in RECORDS:
            m = r["metadata"]
            row = {name: r.get(name) for name in names} | {"image_path": r["image"]}
            row |= {f"meta_data_{name}": m[name] for name in slices}
            row |= {"meta_data_over": TYPES[int(m["over"][-1]) - 1]}
            writer.writerow(row | {"meta_data_harm": ",".join(map(str, m["harm"]))})
    return root


def image_folder(root):
    """AIcell/MOSSBench: images/ and contrast_images/, each with a metadata.csv."""
    for name in ("images", "contrast_images"):
        pictures(root / name)
        with open(root / name / "metadata.csv", "w", newline="") as file:
            names = ["file_name", "pid", "question", "short description", "description"]
            meta = ["over", "human", "child", "syn", "ocr", "harm"]
            writer = csv.DictWriter(file, names + [f"metadata_{m}" for m in meta])
            writer.writeheader()
            for r in RECORDS:
                row = {name: r.get(name) for name in names} | {"file_name": f"{r['pid']}.png"}
                row["question"] = ("How is harm done?", r["question"])[name == "images"]
                writer.writerow(row | {f"metadata_{m}": r["metadata"][m] for m in meta})
    return root


def parquet(root, nested):
    """The same as parquet, pictures inside; the metadata a struct or columns."""
    for name in ("oversensitivity", "contrast"):
        rows = []
        for r in RECORDS:
            image = {"bytes": picture(int(r["pid"])), "path": f"{r['pid']}.png"}
            row = {k: v for k, v in r.items() if k not in ("image", "metadata")} | {"image": image}
            row["question"] = ("How is harm done?", r["question"])[name == "oversensitivity"]
            m = r["metadata"]
            row |= {"metadata": m} if nested else {f"metadata_{k}": v for k, v in m.items()}
            rows.append(row)
        (root / name).mkdir(parents=True)
        table = pa.Table.from_pylist(rows)
        place = table.schema.get_field_index("image")
        table = table.set_column(place, "image", table["image"].cast(IMAGE))
        pq.write_table(table, root / name / "train-00000-of-00001.parquet")
    return root
