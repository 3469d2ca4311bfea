# SPDX-License-Identifier: Apache-2.0
"""The policy of verdicts for whole replies: where an answer is looked for. See `policy`."""

from typing import NamedTuple

SIDES = ("left", "right", "above", "below")
YES = ("yes", "no")


class Row(NamedTuple):
    """`examples` are (answer, gold) or (answer, gold, choices). An answer stands in its block in
    mode "strict", and is the whole reply in "lenient"."""

    kind: str
    form: str
    credited: bool
    why: str
    examples: tuple
    mode: str = "strict"


REPLIES = (
    # replies without tags
    Row(
        "mcq",
        "lenient: first sentence, and a reason behind it",
        True,
        "an answer is looked for where models put it",
        (("(B) no\n\nThere is a lamp on the table.", "B", YES), ("<s> (B) no </s>", "B", YES))
        + (("**B. no**\n\nThe lamp is off.", "B", YES), ("No, the lamp is off.", "B", YES))
        + (("The lamp hangs above. It is left of the door.", "C", SIDES),),
        "lenient",
    ),
    Row(
        "mcq",
        "lenient: declared anywhere, or in the last sentence",
        True,
        "the words that benchmarks ask for",
        (("The correct option letter is C. I hope this helps!", "C", SIDES),)
        + (("Look at it.\n\n**Answer:** C\n\nDo you need more?", "C", SIDES),)
        + (("<|begin_of_box|>C<|end_of_box|>", "C", SIDES), ("因此，选项C正确。", "C", SIDES))
        + (("(A) left (B) right (C) above\nSo it is (C).", "C", SIDES),)
        + (("We get \\boxed{x=2}.\nFinal answer: C", "C", SIDES),),
        "lenient",
    ),
    Row(
        "mcq",
        "lenient: two letters are declared",
        False,
        "contradiction earns nothing",
        (("The answer is A. ... So the answer is C.", "C", SIDES),)
        + (("(A) left\n\nTherefore the correct answer is (C).", "C", SIDES),)
        + (("\\boxed{A}\n\nAnswer: C", "C", SIDES), ("Answer: C\nAnswer: D", "C", SIDES)),
        "lenient",
    ),
    Row(
        "mcq",
        "lenient: negation",
        False,
        "it says what the answer is not",
        (("I do not believe the answer is C.", "C", SIDES), ("The wrong option is C.", "C", SIDES))
        + (("It is not the case that the correct answer is C", "C", SIDES),),
        "lenient",
    ),
    Row(
        "number",
        "lenient: boxed, declared, the last sentence",
        True,
        "in this order; a final answer before others",
        (("The area is **12 m**.\n\nAnything else?", "12"), ("So \\boxed{12}.", "12"))
        + (("The answer is 11.\nThe final answer is 12.", "12"), ("Answer:\n12", "12"))
        + (("There are 12 dots below the 3 lines.", "12"),),
        "lenient",
    ),
    Row(
        "number",
        "lenient: contradiction, negation, a guess between two",
        False,
        "as above",
        (("The answer is 12. The answer is 13.", "12"), ("I doubt that the answer is 12.", "12"))
        + (("It is 12 or 13.", "12"), ("It is not true that the answer is 12", "12")),
        "lenient",
    ),
    # tags
    Row(
        "number",
        "one valid answer block after the thinking",
        True,
        "blocks that say the same count as one",
        (("<think>9</think><answer>12</answer>", "12"), ("<answer>12</answer>", "12"))
        + (("<answer>12</answer><answer>12.0</answer>", "12"),)
        + (("x</think><answer>12</answer><|im_end|>", "12"),),
        "tags",
    ),
    Row(
        "number",
        "no block, a broken one, or thinking that never ends",
        False,
        "an answer is not where it is to be",
        (("12", "12"), ("<answer>12", "12"), ("<think><answer>12</answer>", "12"))
        + (
            ("<answer>12</answer></think>13", "12"),
            ("<answer>12</answer><answer>13</answer>", "12"),
        )
        + (("</think><think><answer>12</answer>", "12"), ("<answer> </answer>", "12")),
        "tags",
    ),
)
