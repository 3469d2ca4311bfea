# SPDX-License-Identifier: Apache-2.0
"""Which part of a completion counts: the block after thinking, or nothing."""

import pytest

from jaxvl.rewards import extract, verify

THINK = "<think>The answer is <answer>9</answer>, or B.</think>"
# (completion, gold, reward) for a number
STRICT = [
    (f"{THINK}<answer>3</answer>", "3", 1),
    (f"{THINK}\n\n<answer>\n3\n</answer>\n", "3", 1),
    (f"{THINK} So it is 9. <answer>3</answer> And 4.", "3", 1),
    ("so it is three</think><answer>3</answer>", "3", 1),  # the prompt had opened the tag
    ("<answer>3</answer>", "3", 1),
    ("<think>a</think><think>b</think><answer>3</answer>", "3", 1),
    (f"{THINK}<answer>3</answer><|im_end|>", "3", 1),
    (f"{THINK}<answer>3</answer><|im_end|>\n<|endoftext|>", "3", 1),
    (f"{THINK}<answer>3</answer></s>", "3", 1),
    # several blocks
    (f"{THINK}<answer>3</answer><answer>3</answer>", "3", 1),
    (f"{THINK}<answer>3</answer><answer>3.0</answer>", "3", 1),
    (f"{THINK}<answer>3</answer><answer>4</answer>", "3", 0),
    (f"{THINK}<answer>3</answer><answer>x</answer>", "3", 0),
    (f"{THINK}<answer>3</answer><answer></answer>", "3", 0),
    (THINK + "".join(f"<answer>{n}</answer>" for n in range(5000)), "3", 0),
    # no valid block
    ("3", "3", 0),
    (THINK, "9", 0),
    (f"{THINK}3", "3", 0),
    (f"{THINK}<answer>3", "3", 0),
    (f"{THINK}3</answer>", "3", 0),
    (f"{THINK}<answer></answer>", "3", 0),
    (f"{THINK}<answer>  \n </answer>", "3", 0),
    (f"{THINK}<answer><answer>3</answer></answer>", "3", 0),
    (f"{THINK}<answer>3</answer><answer>", "3", 0),
    (f"{THINK}</answer><answer>3</answer>", "3", 0),
    ("<answer>3</answer></think>", "3", 0),
    ("<answer>3</think></answer>", "3", 0),
    (f"{THINK}<Answer>3</Answer>", "3", 0),
    (f"{THINK}< answer>3</ answer>", "3", 0),
    ("", "3", 0),
    # too long for an answer
    (f"{THINK}<answer>{'so ' * 700}3</answer>", "3", 0),
]
# (kind, completion, gold, choices, reward) where tags are missing or broken
LENIENT = [
    ("number", "It is \\boxed{3}.", "3", None, 1),
    ("number", "First \\boxed{4}, no, \\boxed{3}", "3", None, 1),
    ("number", "\\boxed{3} and then 4 more", "3", None, 1),
    ("number", "\\boxed{\\frac{1}{2}}", "0.5", None, 1),
    ("number", "\\boxed{3", "3", None, 0),  # it never closes
    ("number", "The answer is 3. Because of 4.", "3", None, 1),
    ("number", "The answer is 4.\nSo the final answer is: 3", "3", None, 1),
    ("number", "There were 5. Two left. Now there are 3.", "3", None, 1),
    ("number", "There were 5 and 2 left, so 3 or 4.", "3", None, 0),
    ("number", "3", "3", None, 1),
    ("number", "<think>9</think> 3", "3", None, 1),
    ("number", "<answer>3", "3", None, 1),
    ("number", "<answer>4</answer> \\boxed{3}", "3", None, 0),  # a valid block wins
    ("number", "no idea", "3", None, 0),
    ("mcq", "The answer is (B).", "B", None, 1),
    ("mcq", "As in figure (C).", "C", None, 1),
    ("mcq", "(A) is red. (B) is blue.\nSo \\boxed{\\text{(B)}}", "B", None, 1),
    ("mcq", "The answer is (E) C or D.", "E", ["A", "B", "C", "D", "C or D"], 1),
    ("mcq", "\\boxed{left}", "A", ["left", "right"], 1),
    ("mcq", "left", "A", ["left", "right"], 1),
    ("mcq", "It could be (A) or (B).", "A", None, 0),
    ("mcq", "A person stands there.", "A", None, 0),
    ("math", "so $\\boxed{2\\sqrt{3}}$", "\\sqrt{12}", None, 1),
    ("text", "It is there.\nleft", "left", None, 1),
]


@pytest.mark.parametrize(("text", "gold", "reward"), STRICT)
def test_strict(text, gold, reward):
    assert verify("number", text, gold).reward == reward


@pytest.mark.parametrize(("kind", "text", "gold", "choices", "reward"), LENIENT)
def test_lenient(kind, text, gold, choices, reward):
    assert verify(kind, text, gold, choices, mode="lenient").reward == reward


@pytest.mark.parametrize(("kind", "text", "gold", "choices", "reward"), LENIENT)
def test_strict_gives_nothing_where_lenient_guesses(kind, text, gold, choices, reward):
    valid = "</answer>" in text
    assert valid or verify(kind, text, gold, choices).reason == "no_answer"


def test_visualthinker_compares_as_its_code_does():
    for text, reward in (("3", 1), ("<answer>3</answer>", 1), ("<answer>3.0</answer>", 0)):
        assert verify("number", text, "3", mode="visualthinker").reward == reward
    assert verify("mcq", "<answer>(B)</answer>", "B", mode="visualthinker").reward == 1


def test_normalize_keeps_what_has_another_meaning():
    assert extract.normalize("x² ½ 3½ １ Ａ \u2212") == "x²  1/2 3 1/2 1 A -"
    assert extract.normalize("a\u200b\u202eb\ufeff") == "ab"


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("<|im_start|>a<|im_end|> </s>\n", "a"),
        ("<s> (B) no", "(B) no"),
        ("<bos>a<eos><pad><pad>", "a"),
        ("a <|im_end|> b", "a <|im_end|> b"),  # in the middle they are text
        ("<think>t</think> a", "a"),
        ("t</think>a<think>b", "a<think>b"),
        ("<think>a", "<think>a"),
        ("<|begin_of_box|>a<|end_of_box|><|im_end|>", "<|begin_of_box|>a<|end_of_box|>"),
        ("<|im_end|>", ""),
        ("", ""),
    ],
)
def test_a_reply_is_what_follows_the_thinking_without_special_tokens(text, reply):
    assert extract.reply(text) == reply


def test_thinking_that_is_never_closed_is_no_answer():
    for text in ("<think><answer>3</answer>", "</think><think><answer>3</answer>", "<think>3"):
        assert verify("number", text, "3").reason == "no_answer"
        assert extract.single(text) == ""
    assert verify("number", "<think>It is 3.\nThe answer is 3", "3", mode="lenient").reward == 1


def test_bytes_are_text():
    assert verify("number", b"<answer>3</answer>\xff", b"3").reward == 1
