# SPDX-License-Identifier: Apache-2.0
"""SAT as it is published: its rows, the paper's choice of them, its prompts to the letter."""

import json
from collections import Counter

import pytest

from jaxvl.data import templates
from jaxvl.data.image import load_image
from jaxvl.data.tasks import sat
from tests.data.published import SAT_ROWS, picture, write_sat, write_sat_v2

VISION = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_published_parquet_is_read_with_its_bytes(tmp_path, wrapped):
    write_sat(tmp_path, wrapped=wrapped)
    write_sat(tmp_path, "test", rows=SAT_ROWS[:1])
    examples = sat.paper(str(tmp_path)).load()
    assert [example.id for example in examples] == ["train-0", "train-2"]
    first, last = examples
    assert first.images == (picture(0),) and load_image(first.images[0]).size == (56, 56)
    assert (first.question, first.answer) == ("Is the lamp to the left of the bed?", "yes, it is")
    assert sorted(first.choices) == ["no", "yes, it is"]
    assert sorted(last.choices) == ["a table or a desk, both", "the red chair", "the sofa"]
    assert (first.task, first.columns) == ("sat", {"question_type": "obj_rel"})
    (out,) = examples.dropped
    assert (out.id, out.reason, out.setting) == ("train-1", "several images", True)


def test_the_second_version_is_the_same_data(tmp_path):
    (tmp_path / "v1").mkdir()
    paths = write_sat(tmp_path / "v1", copies=2), write_sat_v2(tmp_path / "v2", copies=2)
    old, new = (sat.SAT(str(path), single_image=False).load() for path in paths)
    assert [(e.id, e.question, e.answer, e.choices, len(e.images)) for e in old] == [
        (e.id, e.question, e.answer, e.choices, len(e.images)) for e in new
    ]
    assert new.dropped == () and [len(e.images) for e in new] == [1, 2, 1, 1, 2, 1]


def test_the_papers_rows_are_the_first_of_the_file(tmp_path):
    source = sat.paper(str(write_sat(tmp_path, copies=4)))
    assert (source.split, source.within, source.single_image) == ("train", 15_000, True)
    few = sat.SAT(str(tmp_path), within=5)
    assert [id for id, _ in few.rows()] == [f"train-{n}" for n in range(5)]
    assert [id for id, _ in few.rows(start=3)] == ["train-3", "train-4"]
    assert [e.id for e in few.load()] == ["train-0", "train-2", "train-3"]
    usable = [e.id for e in source.load()]
    assert usable[:2] == ["train-0", "train-2"]  # row 1 has two images
    exact = sat.paper(str(tmp_path), first=4)
    assert [e.id for e in exact.load()] == usable[:4]
    assert [id for id, _ in exact.rows(2)] == [id for id, _ in exact.rows()][2:]
    static = sat.static(str(write_sat(tmp_path, "static", rows=[SAT_ROWS[0], SAT_ROWS[2]])))
    assert [e.id for e in static.load()] == ["static-0", "static-1"]


def test_choices_are_shuffled_by_seed_and_row(tmp_path):
    write_sat(tmp_path, rows=SAT_ROWS[:1], copies=400)
    places = [e.choices.index(e.answer) for e in sat.SAT(str(tmp_path)).load()]
    # each of two places 200 times of 400: five deviations of 10
    assert abs(Counter(places)[0] - 200) < 50
    assert places == [e.choices.index(e.answer) for e in sat.SAT(str(tmp_path)).load()]
    assert places != [e.choices.index(e.answer) for e in sat.SAT(str(tmp_path), seed=1).load()]
    later = [row.choices.index(row.answer) for _, row in sat.SAT(str(tmp_path)).rows(start=300)]
    assert later == places[300:]


ASKED = "Is the lamp to the left of the bed? Choose between the following options: "


def test_the_prompts_are_the_papers_to_the_letter(tmp_path):
    example = next(iter(sat.paper(str(write_sat(tmp_path))).load()))
    listed = " or ".join(example.choices)
    base = (
        f"{VISION}<image>A conversation between User and Assistant. The user asks a question about "
        "the image, and the Assistant solves it. The assistant first thinks about the reasoning "
        "process in the mind and then provides the user with the answer.\nUser:  Answer in natural "
        f"language. {ASKED}{listed} \nAssistant: Let me solve this step by step.\n<think>"
    )
    assert templates.VisualThinker(base=True, literal=True)(example) == base
    assert templates.VisualThinker(base=True)(example) == base.replace("<image>", "")
    ((part, text),) = [
        turn["content"] for turn in templates.VisualThinker(base=False, literal=True)(example)
    ]
    assert part == {"type": "image"} and text["text"] == (
        f"<image> Answer in natural language. {ASKED}{listed}  Output the thinking process in "
        "<think> </think> and final answer (option) in <answer> </answer> tags."
    )


def spoken(example_listing, answer, images):
    """An item of the JSON that VisualThinker's own script makes."""
    content = f"<image> Answer in natural language. {ASKED}{example_listing}"
    return {
        "messages": [
            {"role": "user", "content": content},
            {"role": "assistant", "content": answer},
        ],
        "images": images,
    }


@pytest.mark.parametrize(
    ("listing", "answer", "choices"),
    [
        ("yes or no", "no", ("yes", "no")),
        ("left, right or ahead", "ahead", ("left", "right", "ahead")),
        ("no or yes, it is", "yes, it is", ("no", "yes, it is")),
        ("yes, it is or no", "yes, it is", ("yes, it is", "no")),
        ("a, yes, it is, b or c", "yes, it is", ("a", "yes, it is", "b", "c")),
        ("a chair or a table or a desk", "a table or a desk", ("a chair", "a table or a desk")),
    ],
)
def test_the_scripts_json_is_read_and_says_the_same_again(tmp_path, listing, answer, choices):
    (tmp_path / "SAT_images_train").mkdir()
    (tmp_path / "SAT_images_train" / "0_0.png").write_bytes(picture(0, form="PNG"))
    row = spoken(listing, answer, ["SAT_images_train/0_0.png"])
    (tmp_path / "SAT_train_15000.json").write_text(json.dumps([row], indent=4))
    (example,) = sat.paper(str(tmp_path / "SAT_train_15000.json")).load()
    assert (example.answer, example.choices) == (answer, choices)
    assert example.images == (str(tmp_path / "SAT_images_train" / "0_0.png"),)
    content = row["messages"][0]["content"].replace("<image>", "")
    assert f"\nUser: {content} \nAssistant" in templates.VisualThinker(base=True)(example)


BAD = [
    ({"correct_answer": "maybe"}, "answer is none of the choices"),
    ({"answers": None}, "choices of a wrong type"),
    ({"question": None}, "no question"),
    ({"correct_answer": None}, "no answer"),
    ({"question": "<|image_pad|>?"}, "special token in the text"),
    ({"answers": ["yes, it is", "<|im_end|>"]}, "special token in the text"),
    ({"pictures": 0}, "no image"),
]


@pytest.mark.parametrize(("change", "reason"), BAD, ids=range(len(BAD)))
def test_a_row_that_cannot_be_used_is_listed(tmp_path, change, reason):
    write_sat(tmp_path, rows=[SAT_ROWS[0], {**SAT_ROWS[0], **change}])
    loaded = sat.paper(str(tmp_path)).load()
    assert len(loaded) == 1
    assert [(row.id, row.reason) for row in loaded.dropped] == [("train-1", reason)]
