# SPDX-License-Identifier: Apache-2.0
"""TRL's GRPOTrainer on a CPU at the best setting we know of, one step at a time, to compare with.

Needs torch (CPU), trl, transformers and datasets, which jaxvl does not: give it an environment of
its own. It runs as a worker process (see `pairs.Worker`):

    python scripts/bench/peer_trl.py PATH '{"prompts": 4, "group": 8, "new_tokens": 64,
                                            "image_size": 112, "beta": 0.04, "threads": 2}'

Both sides do the same work: same checkpoint, same prompts and images, float32, every completion
runs to its full length, one gradient step a generation, the reference model scored once.
"""

import json
import resource
import sys
import tempfile
import time

import torch
from checkpoint import questions
from datasets import Dataset
from pairs import serve
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PrinterCallback,
    Qwen2VLProcessor,
    TrainerCallback,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from trl import GRPOConfig, GRPOTrainer


class Processor(Qwen2VLProcessor):
    """Qwen2-VL's processor without its video half, which cannot be built without torchvision."""

    def check_argument_for_proper_class(self, argument_name, argument):
        if argument_name == "video_processor":
            return type(None)
        return super().check_argument_for_proper_class(argument_name, argument)


class Clock(TrainerCallback):
    """Seconds of the trainer's step, from the batch being fetched to the optimizer's end."""

    def on_step_begin(self, args, state, control, **kwargs):
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter() - self.start


def even_tokens(completion_ids, **columns) -> list[float]:
    """A reward that costs nothing and differs within a group: the share of even token ids."""
    return [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]


class TRLPeer:
    """A GRPOTrainer on the checkpoint at `path`, with `prompts` * `group` completions a step."""

    def __init__(
        self,
        path: str,
        *,
        prompts: int,
        group: int,
        new_tokens: int,
        image_size: int,
        beta: float = 0.04,
        threads: int = 2,
    ):
        torch.set_num_threads(threads)
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        self.processor = Processor(
            image_processor=Qwen2VLImageProcessorPil.from_pretrained(path),
            tokenizer=tokenizer,
            chat_template=tokenizer.chat_template,
        )
        self.questions = questions(prompts, image_size)
        self.group, self.new_tokens = group, new_tokens
        self.clock = Clock()
        self.trainer = GRPOTrainer(
            path,
            even_tokens,
            args=self._config(prompts * group, beta),
            train_dataset=Dataset.from_list(
                [
                    {"prompt": [{"role": "user", "content": text}], "image": image}
                    for text, image in self.questions
                ]
            ),
            processing_class=self.processor,
            callbacks=[self.clock],
        )
        self.trainer.remove_callback(PrinterCallback)
        self._time_generation()

    def _config(self, batch: int, beta: float) -> GRPOConfig:
        return GRPOConfig(
            output_dir=tempfile.mkdtemp(prefix="trl-"),
            model_init_kwargs={"dtype": torch.float32, "attn_implementation": "sdpa"},
            use_cpu=True,
            bf16=False,
            max_steps=1,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=1,
            gradient_checkpointing=False,
            num_generations=self.group,
            max_completion_length=self.new_tokens,
            generation_kwargs={"min_new_tokens": self.new_tokens},
            beta=beta,
            loss_type="grpo",
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            dataloader_pin_memory=False,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )

    def _time_generation(self) -> None:
        """Have the trainer's own call of `generate` note its seconds and its tokens."""
        generate = self.trainer._generate_single_turn

        def timed(*args, **kwargs):
            start = time.perf_counter()
            completions, logprobs = generate(*args, **kwargs)
            self.generate_seconds = time.perf_counter() - start
            self.tokens = sum(map(len, completions))
            return completions, logprobs

        self.trainer._generate_single_turn = timed

    def step(self, checkpointing: bool = False) -> dict:
        """One whole GRPO step: generation, rewards, reference, loss, backward, clip, optimizer.

        `train()` is entered anew each time, but the model, the optimizer and its moments stay, and
        only the step itself is on the clock.
        """
        model = self.trainer.model
        self.trainer.args.activation_checkpointing = checkpointing
        if not checkpointing:
            model.activation_checkpointing_disable()
        self.trainer.train()
        return {
            "seconds": self.clock.seconds,
            "generate_seconds": self.generate_seconds,
            "tokens": self.tokens,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }

    def warm(self, repeats: int = 2) -> dict:
        """The first step, then the best of `repeats` with and without activation checkpointing."""
        first = self.step()["seconds"]
        seconds = {
            checkpointing: min(self.step(checkpointing)["seconds"] for _ in range(repeats))
            for checkpointing in (False, True)
        }
        return {
            "first": first,
            "plain": seconds[False],
            "checkpointed": seconds[True],
            "checkpointing": seconds[True] < seconds[False],
        }

    def generate(self) -> dict:
        """transformers' `generate` alone on the same prompts, each repeated `group` times."""
        rows = [row for row in self.questions for _ in range(self.group)]
        texts = [self._render(text) for text, _ in rows]
        images = [image for _, image in rows]
        inputs = self.processor(text=texts, images=images, padding=True, return_tensors="pt")
        config = GenerationConfig(**self.trainer.generation_kwargs, disable_compile=True)
        model = self.trainer.model.eval()
        model.activation_checkpointing_disable()
        start = time.perf_counter()
        with torch.no_grad():
            ids = model.generate(**inputs, generation_config=config)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "tokens": ids[:, inputs.input_ids.shape[1] :].numel()}

    def _render(self, text: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": text}]
        messages = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(messages, add_generation_prompt=True)


if __name__ == "__main__":
    serve(lambda: TRLPeer(sys.argv[1], **json.loads(sys.argv[2])))
