# SPDX-License-Identifier: Apache-2.0
"""transformers' Qwen2-VL processor without torchvision."""

from transformers import AutoTokenizer, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil


class Processor(Qwen2VLProcessor):
    """Qwen2-VL's processor without its video half, which cannot be built without torchvision."""

    def check_argument_for_proper_class(self, argument_name, argument):
        if argument_name == "video_processor":
            return type(None)
        return super().check_argument_for_proper_class(argument_name, argument)


def load(path: str) -> Processor:
    """The processor of a checkpoint; prompts are padded on the left."""
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    return Processor(
        image_processor=Qwen2VLImageProcessorPil.from_pretrained(path),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )
