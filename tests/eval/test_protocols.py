# SPDX-License-Identifier: Apache-2.0
"""Prompts to the letter: a wording that differs is another experiment."""

import pytest

from tests.eval.benchmarks import published
from tests.eval.benchmarks.test_readers import read

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def asked(name, protocol, folder, place=0, layout=None):
    """The text of an item's prompt, `[]` where a picture stands; a system prompt in front."""
    layout = layout or next(iter(published.LAYOUTS[name]))
    items, _ = read(name, layout, folder, protocol)
    prompt = items[place].prompt
    if isinstance(prompt, str):
        return prompt
    system = "".join(turn["content"] + " | " for turn in prompt if turn["role"] == "system")
    assert prompt[-1]["role"] == "user"
    return system + "".join(part.get("text", "[]") for part in prompt[-1]["content"])


CV = "Question 1? Select from the following choices.\n(A) left\n(B) right"
BEGIN = (
    f"{IMAGE}<image>A conversation between User and Assistant. The user asks a question about the "
    "image, and the Assistant solves it."
)
CV_BENCH = {
    "vlmevalkit": f"[]{CV}",
    "vlmevalkit-qwen": "[]Question: Question 1?\nOptions:\nA. left\nB. right\n"
    "Please select the correct answer from the options above.",
    "lmms-eval": "[]Note: You only need to respond with A, B without providing any additional "
    f"information.\n\n{CV}",
    "vlaa": "You are VL-Thinking🤔, a helpful assistant with excellent reasoning ability. A user "
    "asks you a question, and you should try to solve it. You should first think about the "
    "reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
    "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>"
    f" | []{CV}",
    "visualthinker-base": f"{BEGIN} The assistant first thinks about the reasoning process in the "
    f"mind and then provides the user with the answer.\nUser: {CV} \nAssistant: Let me solve this "
    "step by step.\n<think>",
    "visualthinker-base-direct": f"{BEGIN}\nUser: {CV} \nAssistant: ",
    "visualthinker-instruct": f"[]{CV}\nOutput the thinking process in <think> </think> and final "
    "answer in <answer> </answer> tags.",
    "visualthinker-instruct-direct": f"[]{CV}",
}


@pytest.mark.parametrize("protocol", CV_BENCH)
@pytest.mark.parametrize("layout", published.LAYOUTS["cv_bench"])
def test_cv_bench(protocol, layout, tmp_path):
    assert asked("cv_bench", protocol, tmp_path, 1, layout) == CV_BENCH[protocol]


def test_sats_are_the_prompts_of_training(tmp_path):
    items, _ = read("sat", "hf", tmp_path, "visualthinker-base")
    assert [item.cluster for item in items] == ["test-0"] * 2 + ["test-1"] * 3
    first, second, *_ = items
    assert first.choices == second.choices[::-1] and first.gold == second.gold == "yes, it is"
    listed = " or ".join(first.choices)
    sentence = (
        "Answer in natural language. Is the lamp to the left of the bed? Choose between the "
        f"following options: {listed}"
    )
    assert first.prompt.startswith(f"{IMAGE}<image>A conversation")
    assert f"\nUser:  {sentence} \nAssistant: Let me" in first.prompt
    assert items[2].prompt.startswith(2 * IMAGE)
    assert asked("sat", "sat", tmp_path) == f"[]{sentence}"
    assert asked("sat", "visualthinker-instruct", tmp_path) == (
        f"[]<image> {sentence}  Output the thinking process in <think> </think> and final answer "
        "(option) in <answer> </answer> tags."
    )
    lettered, _ = read("sat", "hf", tmp_path, "lmms-eval")
    assert lettered[0].kind == "mcq"
    assert {(item.choices["ABC".index(item.gold)]) for item in lettered} == {"yes, it is", "right"}
    assert {item.gold for item in lettered if item.cluster == "test-1"} == {"A", "B", "C"}


MATHVISTA = "What is it, 1?\nA. 2:15\nB. 2:30\nC. 3:00\n"
EXACT = [
    ("mathvista", "vlmevalkit", 0, "[]" + published.VISTA_QUERIES["1"]),
    ("mathvista", "vlmevalkit", 3, "[]" + published.VISTA_QUERIES["4"]),
    (
        "mathvista",
        "vlmevalkit-qwen",
        1,
        "[]"
        + published.VISTA_QUERIES["2"]
        + "\nPlease try to answer the question with short words "
        "or phrases if possible.",
    ),
    (
        "mathvista",
        "lmms-eval",
        0,
        f"[]{MATHVISTA}Answer with the option's letter from the given choices directly.",
    ),
    (
        "mathvista",
        "lmms-eval",
        1,
        "[]What is it, 2? (Unit: $)\nAnswer the question using a single integer number.",
    ),
    (
        "mathvision",
        "lmms-eval",
        2,
        '[]Please solve the problem step by step and put your answer in one "\\boxed{}".How many '
        "are there, 3?\n<image1>\nChoices: A. $2+4$\nB. $\\frac{1}{2}$\nC. $2 \\cdot 3$\nD. 7\nE. 8"
        "\nAnswer the question with the option's letter from the given choices directly.",
    ),
    ("mathvision", "vlmevalkit", 0, "[]How many are there, 1?\n<image1>"),
    (
        "mathverse",
        "vlmevalkit-cot",
        0,
        "[]According to the question shown in the image, please first conduct reasoning, and then "
        "answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.",
    ),
    (
        "dynamath",
        "vlmevalkit",
        2,
        "[]## Question\n It is ____. Choices: (A) larger (B) equal to (C) smaller\n## Answer "
        "Instruction Please provide an answer to the question outlined above. Your response should "
        "adhere to the following JSON format, which includes two keys: 'solution' and 'short "
        "answer'. The 'solution' key can contain detailed steps needed to solve the question, and "
        "the 'short answer' key should provide a concise response. Provide the corresponing choice "
        "option in the 'short answer' key, such as 'A', 'B', 'C', or 'D'.\n\nExample of expected "
        'JSON response format:\n\n{\n    "solution": "[Detailed step-by-step explanation]",\n    '
        '"short answer": "[Concise Answer]"\n}',
    ),
    (
        "wemath",
        "vlmevalkit",
        0,
        "[]Question: What is the area, 1?\nOptions:\nA. 8\nB. ∠AB;E.\nC. 4\nD. No correct answer\n",
    ),
    (
        "wemath",
        "lmms-eval-reasoning",
        0,
        "You are a helpful assistant. When the user asks a question, your response must include "
        "two parts: first, the reasoning process enclosed in <think>...</think> tags, then the "
        "final answer enclosed in <answer>...</answer> tags.Please provide a clear, concise "
        "response within <answer> </answer> tags that directly addresses the question. | []What is "
        f"the area, 1?\n{published.WE_OPTION}",
    ),
    (
        "mmmu",
        "vlmevalkit",
        0,
        "Question: Look at []. What is it?\nOptions:\nA. $6\nB. $7\nC. None\nD. nan\nPlease select "
        "the correct answer from the options above. \n",
    ),
    (
        "mmmu",
        "vlmevalkit-qwen",
        0,
        "[]Question: Look at <image 1>. What is it?\nOptions:\nA. $6\nB. $7\nC. None\nD. nan\n"
        "Please select the correct answer from the options above.",
    ),
    (
        "mmmu",
        "lmms-eval",
        2,
        "Look at []. What is it?\n\nAnswer the question using a single word or phrase.",
    ),
    (
        "scienceqa",
        "lmms-eval",
        0,
        "[]Context: Two magnets.\nWhich one, grade6?\nA. weaker\nB. stronger\nAnswer with the "
        "option's letter from the given choices directly.",
    ),
    (
        "scienceqa",
        "vlmevalkit",
        2,
        "Question: Which one, grade3?\nOptions:\nA. yes\nB. no\nPlease select the correct answer "
        "from the options above. \n",
    ),
    (
        "blink_spatial",
        "lmms-eval",
        2,
        "[]Note: You only need to respond with A, B without providing any additional information.\n"
        "Look. Which is so, 2?\nSelect from the following choices.\n(A) ..",
    ),
    (
        "vsr",
        "vsr",
        0,
        "[]Answer in natural language. Is the following statement about the image true or false? "
        "The car is behind the suitcase. Choose between the following options: true or false",
    ),
    (
        "gqa",
        "gqa",
        0,
        "[]Is it overcast?\nAnswer the question using a single word or phrase.",
    ),
    ("logicvista", "vlmevalkit", 0, "[]Which choice (A, B, C, or D) completes the series?"),
]


@pytest.mark.parametrize(("name", "protocol", "place", "text"), EXACT, ids=lambda x: str(x)[:20])
def test_wordings(name, protocol, place, text, tmp_path):
    assert asked(name, protocol, tmp_path, place) == text


def test_mmmus_pictures_stand_where_they_are_named(tmp_path):
    items, _ = read("mmmu", "hf", tmp_path, "vlmevalkit")
    (many,) = [item for item in items if len(item.images) > 1]
    assert many.images == tuple(map(published.picture, (3, 2, 1)))  # as the text names them
    together, _ = read("mmmu", "hf", tmp_path, "vlmevalkit-qwen")
    (many,) = [item for item in together if len(item.images) > 1]
    assert many.images == tuple(map(published.picture, (1, 2, 3)))
    flat, _ = read("mmmu", "hf", tmp_path, "visualthinker-base")
    assert "Which fits <image 3>?" in next(item.prompt for item in flat if len(item.images) > 1)


def test_a_chinese_question_is_asked_in_chinese(tmp_path):
    row = published.CV[1] | {"question": "哪个?"}
    published.parquet(tmp_path / "test.parquet", [row])
    from jaxvl.eval.benchmarks.cv_bench import BENCHMARK

    (item,), _ = BENCHMARK.read(tmp_path, "vlmevalkit-qwen")
    assert item.prompt[-1]["content"][-1]["text"].endswith("B. right\n请直接回答选项字母。")
