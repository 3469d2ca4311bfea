# SPDX-License-Identifier: Apache-2.0
"""TRL's GRPOTrainer at the best setting we know of, one step at a time, to compare with.

Needs torch, trl, transformers and datasets, which jaxvl does not: give it an environment of its
own. It runs as a worker process (see `pairs.Worker`):

    python scripts/bench/peer_trl.py PATH '{"prompts": 4, "group": 8, "new_tokens": 64,
                                            "image_size": 112, "beta": 0.04, "threads": 2}'

Both sides do the same work: same checkpoint, same prompts and images, every completion runs to its
full length, one gradient step a generation, the reference model scored once. On "cpu" all is
float32; on "cuda" all is bfloat16, weights and optimizer too, which is TRL's fastest.
"""

import json
import resource
import sys
import tempfile
import time

import hf_processor
import torch
from checkpoint import questions
from datasets import Dataset
from pairs import serve
from transformers import GenerationConfig, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


def now() -> float:
    """Seconds, when all that was asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_mib() -> float:
    """The most memory so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Clock(TrainerCallback):
    """Seconds of the trainer's step, from the batch being fetched to the optimizer's end."""

    def on_step_begin(self, args, state, control, **kwargs):
        self.start = now()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds = now() - self.start


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
        device: str = "cpu",
        micro_batches: int = 1,
    ):
        torch.set_num_threads(threads)
        self.device = device
        self.folder = tempfile.TemporaryDirectory(prefix="trl-")
        self.processor = hf_processor.load(path)
        self.questions = questions(prompts, image_size)
        self.group, self.new_tokens = group, new_tokens
        self.clock = Clock()
        self.trainer = GRPOTrainer(
            path,
            even_tokens,
            args=self._config(prompts * group, beta, micro_batches),
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

    def _config(self, batch: int, beta: float, micro_batches: int) -> GRPOConfig:
        cpu = self.device == "cpu"
        dtype = torch.float32 if cpu else torch.bfloat16
        return GRPOConfig(
            output_dir=self.folder.name,
            model_init_kwargs={"dtype": dtype, "attn_implementation": "sdpa"},
            use_cpu=cpu,
            bf16=not cpu,
            max_steps=1,
            per_device_train_batch_size=batch // micro_batches,
            gradient_accumulation_steps=micro_batches,
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
            start = now()
            completions, logprobs = generate(*args, **kwargs)
            self.generate_seconds = now() - start
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
            "peak_mib": peak_mib(),
        }

    def warm(self, repeats: int = 2) -> dict:
        """The first step, then the best of `repeats` with and without activation checkpointing.

        `plain` is None where the GPU's memory does not hold a step without it.
        """
        first = self.step(checkpointing=True)["seconds"]
        checkpointed = min(self.step(True)["seconds"] for _ in range(repeats))
        try:
            plain = min(self.step(False)["seconds"] for _ in range(repeats))
        except torch.OutOfMemoryError:
            plain = None
            self.trainer.model.zero_grad()
            torch.cuda.empty_cache()
        return {
            "first": first,
            "plain": plain,
            "checkpointed": checkpointed,
            "checkpointing": plain is None or checkpointed < plain,
        }

    def generate(self, cache: str | None = None) -> dict:
        """transformers' `generate` alone on the same prompts, each repeated `group` times.

        `cache` is its `cache_implementation`: None is the default, "static" is compiled on a GPU.
        """
        rows = [row for row in self.questions for _ in range(self.group)]
        texts = [self._render(text) for text, _ in rows]
        images = [image for _, image in rows]
        inputs = self.processor(text=texts, images=images, padding=True, return_tensors="pt")
        settings = {
            **self.trainer.generation_kwargs,
            "cache_implementation": cache,
            "disable_compile": cache is None,
        }
        model = self.trainer.model.eval()
        model.activation_checkpointing_disable()
        inputs = inputs.to(model.device)
        start = now()
        with torch.no_grad():
            ids = model.generate(**inputs, generation_config=GenerationConfig(**settings))
        seconds = now() - start
        return {"seconds": seconds, "tokens": ids[:, inputs.input_ids.shape[1] :].numel()}

    def _render(self, text: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": text}]
        messages = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(messages, add_generation_prompt=True)


if __name__ == "__main__":
    serve(lambda: TRLPeer(sys.argv[1], **json.loads(sys.argv[2])))
