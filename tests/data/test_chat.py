# SPDX-License-Identifier: Apache-2.0
"""Chat messages: what is rendered, and what is refused rather than lost."""

import pytest

from jaxvl.data import chat
from jaxvl.data.tokenizer import train_tokenizer
from jaxvl.errors import UserError
from scripts.bench.checkpoint import CHAT_TEMPLATE
from tests.data.test_templates import FLAT, SYSTEM, VISION

TEXT = {"type": "text", "text": "Q?"}
IMAGE = {"type": "image"}


@pytest.fixture(scope="module")
def render():
    tokenizer = train_tokenizer(["a"], vocab_size=270)

    def render(messages, template=CHAT_TEMPLATE):
        tokenizer.chat_template = template
        return chat.render(tokenizer, messages)

    return render


def test_a_conversation_with_system_turns_and_several_images(render):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [IMAGE, IMAGE, {"type": "text", "text": "Which?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "The first."}]},
        {"role": "user", "content": [{"type": "text", "text": "And here?"}, IMAGE]},
    ]
    assert render(messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        f"<|im_start|>user\n{VISION}{VISION}Which?<|im_end|>\n"
        "<|im_start|>assistant\nThe first.<|im_end|>\n"
        f"<|im_start|>user\nAnd here?{VISION}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_text_alone_and_a_content_that_is_a_string(render):
    expected = SYSTEM + "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n"
    assert render([{"role": "user", "content": "Q?"}]) == expected
    assert render([{"role": "user", "content": [TEXT]}]) == expected


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video"},
        {"type": "video", "video": "a.mp4"},
        {"video": ["1.png", "2.png"]},
        {"type": "video_url", "video_url": "x"},
    ],
)
def test_a_video_is_refused_whether_or_not_the_template_knows_of_it(render, part):
    with pytest.raises(UserError, match="a message has a video, and video is not supported"):
        render([{"role": "user", "content": [part, TEXT]}])
    with pytest.raises(UserError, match="video is not supported"):
        render([part, TEXT], FLAT)


def test_texts_that_a_template_moves_are_not_lost():
    parts = [{"text": text} for text in ("b", " a ", "c", "b", "")]
    assert list(chat._lost(parts, "a b")) == ["c"]


def test_messages_of_the_wrong_kind_are_refused_and_not_dropped(render):
    """Each template skips what the other is for, without a word."""
    with pytest.raises(UserError, match="leaves out the text 'Q.'.*for a base checkpoint"):
        render([IMAGE, TEXT])
    with pytest.raises(UserError, match="leaves out the text 'Q.'"):
        render([{"role": "user", "content": [IMAGE, TEXT]}], FLAT)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        ["Q?"],
        {"role": "user", "content": "Q?"},
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "text", "text": 3}]}],
        [{"role": "user", "content": [{"type": 3, "text": "Q?"}]}],
    ],
)
def test_what_is_no_message_says_what_is(render, messages):
    with pytest.raises(UserError, match="expected messages such as {'role': 'user'"):
        render(messages)


def test_a_template_that_fails_says_why(render):
    with pytest.raises(UserError, match="cannot render .*no system prompts here"):
        render(
            [{"role": "user", "content": "Q?"}], "{{ raise_exception('no system prompts here')}}"
        )
