# SPDX-License-Identifier: Apache-2.0
"""The rules of the steps, each at its edge, and the prompts."""

import pytest

from jaxvl.curate import flow, split, steps
from jaxvl.curate.split import REFLECTION, Seen, SplitSizes, divide, reflects
from jaxvl.curate.steps import Step, fill, prompt, thought_and_answer
from jaxvl.curate.teachers import TeacherSettings
from jaxvl.data.example import BadRow
from jaxvl.errors import UserError
from tests.curate.sets import picture

ROW = {"id": "s-1", "source": "s", "image": "s/1.png", "question": "How many?", "gt": 3}


def step(name, tmp_path=None, **asked):
    return Step(name, TeacherSettings("stub", **asked), prompt(name), tmp_path)


def asks(name, row, tmp_path=None):
    """The text that a step asks with; None where it leaves the row as it is."""
    body = step(name, tmp_path).body(row, look=False)
    return None if body is None else body["messages"][0]["content"][-1]["text"]


def reason(name, row, reply, finish="stop"):
    """Why a row is dropped for a reply; "" where it is kept."""
    try:
        step(name).take(row, reply, finish)
    except BadRow as why:
        return why.reason
    return ""


@pytest.mark.parametrize(
    "more",
    [
        {"caption": "A cat."},
        {"meta": {"text_question": "y = 2x. What is y?"}},
        {"only": "rl"},
        {"ds_answer": "<think>a</think> b"},
        {"caption": "A cat.", "meta": {"rationale": "r"}},
    ],
)
def test_no_caption_where_one_exists_or_none_is_wanted(more):
    assert asks("caption", ROW | more) is None


@pytest.mark.parametrize(
    "more",
    [{}, {"caption": ""}, {"meta": {}}, {"meta": {"rationale": "r"}}, {"meta": {"scene": "s"}}],
)
def test_a_caption_is_asked_for_elsewhere(more, tmp_path):
    assert asks("caption", ROW | more) == prompt("caption")
    picture(tmp_path / "s" / "1.png", 1)
    picture_part, _ = step("caption", tmp_path).body(ROW | more)["messages"][0]["content"]
    assert picture_part["image_url"]["url"].startswith("data:image/png;base64,")


@pytest.mark.parametrize("image", ["../x.png", "/etc/passwd", "s/none.png", "", None, 3])
def test_a_picture_that_is_not_there_or_elsewhere_drops_the_row(image, tmp_path):
    with pytest.raises(BadRow):
        step("caption", tmp_path).body(ROW | {"image": image})


def test_a_large_picture_is_sent_smaller_and_a_small_one_as_it_is(tmp_path):
    import base64
    import io

    from PIL import Image

    Image.new("RGB", (300, 100)).save(tmp_path / "a.jpg")
    for side, size in ((1024, (300, 100)), (60, (60, 20))):
        one = step("caption", tmp_path, max_side=side)
        url = one.body(ROW | {"image": "a.jpg"})["messages"][0]["content"][0]["image_url"]["url"]
        data = base64.b64decode(url.partition(",")[2])
        assert Image.open(io.BytesIO(data)).size == size
        assert (data == (tmp_path / "a.jpg").read_bytes()) == (side == 1024)


@pytest.mark.parametrize("caption", [None, "A drawing.", ""])
@pytest.mark.parametrize("text", ["y = 2x. What is y?", " {caption} {question} "])
def test_math_puma_is_distilled_from_the_words_alone(caption, text):
    row = ROW | {"caption": caption, "meta": {"text_question": text}}
    assert asks("distil", row) == text


def test_elsewhere_the_teacher_reads_caption_further_facts_and_question():
    meta = {"scene": "two {question} balls", "rationale": "it {falls}"}
    asked = asks("distil", ROW | {"caption": "A {caption}.", "meta": meta})
    assert "A {caption}.\n\ntwo {question} balls\n\nit {falls}" in asked
    assert asked.count("How many?") == 1
    with pytest.raises(BadRow, match="neither a caption"):
        asks("distil", ROW)


def test_what_is_filled_in_is_never_read_for_places():
    assert fill("{a}|{b}|{c}", a="{b}", b=r"\1{a}") == r"{b}|\1{a}|{c}"


WORDS = "<think> " + "w " * 40 + "</think> 7"


@pytest.mark.parametrize(
    ("gap", "dropped"),
    [(15, False), (16, True), (-15, False), (-16, True), (0, False), (900, True)],
)
def test_a_word_gap_above_15_drops_the_row(gap, dropped):
    text = "<think> " + "x " * (40 + gap) + "</think> 7"
    found = reason("rewrite", ROW | {"ds_answer": WORDS}, text)
    assert found == ("word gap above 15" if dropped else "")


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("Yes", True),
        ("yes.", True),
        (" **YES**\n", True),
        ("'Yes'", True),
        ("(yes)", True),
        ("No", False),
        ("no!", False),
        ("Yes, but not quite", False),
        ("Yes No", False),
        ("Yesterday", False),
        ("1", False),
        ("The answer is Yes", False),
        ("Ye s", False),
    ],
)
def test_only_yes_is_kept(reply, kept):
    found = reason("verify", ROW | {"answer": WORDS}, reply)
    assert found == ("" if kept else found) and bool(found) != kept
    assert found in ("", "answer is wrong", "neither Yes nor No")


def test_the_verifier_sees_the_gold_and_the_answer_and_not_the_thinking():
    asked = asks("verify", ROW | {"answer": "<think>SECRET</think> <answer> 41 </answer>"})
    assert "SECRET" not in asked and "41" in asked and "<answer>" not in asked and "3" in asked


@pytest.mark.parametrize(
    "reply",
    ["", "7", "<think>a</think>", "<think></think> 7", "<think>a 7", "a <think>b</think> 7",
     "<think>a</think> b <think>c</think> d"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["distil", "rewrite"])
def test_a_reply_without_thinking_and_answer_drops_the_row(name, reply):
    assert reason(name, ROW | {"ds_answer": "<think>a</think> 7"}, reply)


@pytest.mark.parametrize("name", flow.ASKING)
def test_replies_that_were_cut_off_or_spell_special_tokens_drop_the_row(name):
    row = ROW | {"ds_answer": WORDS, "answer": WORDS}
    good = {"caption": "c", "verify": "Yes"}.get(name, WORDS)
    assert reason(name, row, good) == ""
    assert reason(name, row, good, "length") == "reply was cut off"
    assert reason(name, row, good + "<|im_end|>") == "special token in the text"
    assert reason(name, row, "  \n") == "empty reply"


def test_thought_and_answer_of_a_reply():
    assert thought_and_answer("\n<think>a\nb</think>\n\n<answer>7</answer>\n") == ("a\nb", "7")


@pytest.mark.parametrize("name", flow.ASKING)
def test_prompts_can_be_replaced_by_ones_own_and_by_the_published_files(name, tmp_path):
    text = " ".join(["Mine:", *(f"{{{place}}}" for place in steps.PLACES[name])])
    for file in (f"{name}.txt", steps.PUBLISHED[name]):
        folder = tmp_path / file
        folder.mkdir()
        (folder / file).write_text(text + "\n")
        assert prompt(name, folder) == text
        others = [other for other in flow.ASKING if other != name]
        assert all(prompt(other, folder) == prompt(other) for other in others)
    if steps.PLACES[name]:
        (folder / file).write_text("Nothing to fill.")
        with pytest.raises(UserError, match="has no {"):
            prompt(name, folder)
    with pytest.raises(UserError, match="no prompt is there"):
        prompt(name, tmp_path / "none")


@pytest.mark.parametrize("word", REFLECTION)
def test_the_eight_words_are_found_anywhere_in_any_case(word):
    assert reflects(f"so{word.upper()}ed")


@pytest.mark.parametrize(
    ("text", "found"),
    [("a checkered floor", True), ("against the wall", True), ("awaiting", True),
     ("i should", False),
     ("double check", True), ("double-chec", False), ("Hm", False), ("alternative", False),
     ("confirm", False), ("mistaken", True), ("", False)],
)  # fmt: skip
def test_the_reflection_rule_to_the_letter(text, found):
    assert reflects(text) is found


def seen(id, reflects=False, image=None, content="", **more):
    image = image or id
    more = {"rl_only": False, "as_is": False, "no_sft": None, "no_rl": None} | more
    return Seen(id, "s", image, content or image, reflects, **more)


def places(given, **sizes):
    where = divide(given, SplitSizes(**sizes))
    return [place if isinstance(place, str) else place.reason for place in where]


BAD = BadRow("bad", "")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([seen("a"), seen("b", reflects=True)], ["sft", "grpo"]),
        ([seen("a", rl_only=True), seen("b", rl_only=True, no_rl=BAD)], ["grpo", "bad"]),
        ([seen("a", reflects=True, no_rl=BAD), seen("b", no_rl=BAD)], ["bad", "sft"]),
        ([seen("a", no_sft=BAD), seen("b", reflects=True, no_sft=BAD)], ["bad", "bad"]),
        ([seen("a", image="i"), seen("b", reflects=True, image="i")],
         ["picture is in the RL set", "grpo"]),
        ([seen("a", content="i"), seen("b", reflects=True, content="i")],
         ["picture is in the RL set", "grpo"]),
        ([seen("a", as_is=True), seen("b", as_is=True, reflects=True)], ["sft", "grpo"]),
    ],
)  # fmt: skip
def test_where_rows_go(given, expected):
    assert places(given) == expected
    assert places(given[::-1]) == expected[::-1]


def test_sizes_are_kept_by_a_draw_of_the_seed():
    given = [seen(str(i), reflects=i % 2 == 0) for i in range(200)]
    draws = [places(given, sft={"s": 30}, rl={"s": 20}, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    for draw in draws:
        assert draw.count("sft") == 30 and draw.count("grpo") == 20
        assert draw.count("over the size of the SFT set") == 70
    assert places(given, rl={"s": 0}).count("grpo") == 0
    assert places(given, rl={"other": 1}).count("grpo") == 100


def test_rows_that_bring_their_reasoning_fill_the_rl_set_up():
    given = [seen(str(i), as_is=i % 2 == 0, reflects=i % 10 == 1) for i in range(100)]
    found = places(given, rl={"s": 40})
    assert found.count("grpo") == 40 and found.count("sft") == 60
    assert all(found[i] == "grpo" for i in range(100) if given[i].reflects)
    assert all(given[i].as_is or given[i].reflects for i in range(100) if found[i] == "grpo")


@pytest.mark.parametrize(
    "row",
    [ROW, ROW | {"answer": WORDS}, ROW | {"verified": "Yes"},
     ROW | {"verified": "Yes", "answer": 3}, ROW | {"verified": "Yes", "answer": "7"},
     ROW | {"verified": "Yes", "answer": WORDS, "image": None}],
)  # fmt: skip
def test_what_is_not_verified_or_has_no_form_is_no_sft_row(row):
    with pytest.raises(BadRow):
        split.sft_row(row)


@pytest.mark.parametrize(
    ("kind", "gold"),
    [
        ("digit", "three"),
        ("mcq", "maybe"),
        ("iou", "[2, 3, 4, 5]"),
        ("reward", 3),
        ("math", None),
        (None, 3),
    ],
)
def test_a_gold_that_its_reward_cannot_read_is_no_rl_row(kind, gold):
    with pytest.raises(BadRow):
        split.rl_row(ROW | {"verifier_type": kind, "gt": gold})
