# SPDX-License-Identifier: Apache-2.0
"""A YAML config of EasyR1, whose settings are dotted: data, algorithm, worker, trainer.

What it does not say is EasyR1's default: clip 0.2 to 0.3 and 3 on the other side, the mean over
tokens, a KL in the loss unless algorithm.disable_kl.
"""

from __future__ import annotations

import re
from typing import Any

from jaxvl.config import grpo, schema
from jaxvl.data.tasks.records import Records
from jaxvl.data.templates import chat_question
from jaxvl.errors import UserError
from jaxvl.migrate import rows
from jaxvl.migrate.words import Given, Line, shown
from jaxvl.rewards import accuracy, think_format

_KL: dict[str, Any] = {"kl": "k1", "mse": "k2", "low_var_kl": "k3"}
_NOTHING = {
    "sharding follows mesh.fsdp": "worker.actor.padding_free worker.actor.dynamic_batching",
    "no code of a checkpoint is ever run": "worker.actor.model.trust_remote_code "
    "data.tokenizer_trust_remote_code",
    "run.track names trackers; metrics.jsonl is always written": "trainer.logger",
    "every step is written to metrics.jsonl and rollouts/": "trainer.project_name "
    "trainer.val_generations_to_log trainer.generations_to_log_file",
    "programs are compiled as they are": "worker.actor.use_torch_compile "
    "worker.actor.ulysses_sequence_parallel_size worker.actor.model.override_config",
    "a held-out set is eval.source, asked before, every eval.every steps and after": (
        "data.val_files data.val_batch_size trainer.val_freq trainer.val_before_train "
        "trainer.val_only"
    ),
    "prompts are never cut: buckets are read off the data": "data.max_prompt_length",
    "threads read the data": "data.filter_overlong_prompts_workers data.mini_rollout_batch_size",
    "a run that is there goes on by itself": "trainer.load_checkpoint_path "
    "trainer.find_last_checkpoint trainer.save_model_only trainer.ray_timeline "
    "trainer.max_try_make_batch",
    "memory of what is not learnt from is the sampler's": (
        "worker.actor.micro_batch_size_per_device_for_experience"
    ),
}


def config(given: Given, devices: int, data_rows: int) -> schema.Config:
    """The config that says the same; what became of each setting are the lines of `given`."""
    for prefix, why in (
        ("worker.ref.", "the reference lies on the run's mesh"),
        ("worker.critic.", "GRPO has no critic"),
        ("worker.actor.fsdp.", "sharding follows mesh.fsdp"),
        ("worker.actor.offload.", "nothing is moved to the host"),
        ("worker.rollout.val_override_config.", "a held-out set is answered greedily and at 1"),
    ):
        given.drop_below(prefix, why)
    given.drop(_NOTHING)
    given.take("config", note="its settings count where convert-config is given it as FILE")
    a_node = given.number("trainer.n_gpus_per_node", 8, "mesh.fsdp")
    processes = devices or rows.whole(a_node * given.number("trainer.nnodes", 1), "devices")
    algorithm = _grpo(given, processes)
    run = _run(given, algorithm, data_rows)
    pixels: dict[str, Any] = {
        name: given.whole(f"data.{name}", None, f"model.{name}")
        for name in ("min_pixels", "max_pixels")
        if given.has(f"data.{name}")
    }
    path = given.text("worker.actor.model.model_path", None, "model.path")
    if not path:
        raise UserError("worker.actor.model.model_path is missing: expected it among the settings")
    frozen = given.flag("worker.actor.model.freeze_vision_tower", False, "model.train")
    remat = given.flag("worker.actor.model.enable_gradient_checkpointing", True, "model.remat")
    cfg = schema.Config(
        model=schema.Model(
            path=path,
            dtype="bfloat16",
            remat="block" if remat else "products",
            train=("merger", "text") if frozen else ("tower", "merger", "text"),
            **pixels,
        ),
        data=_data(given),
        rewards=_rewards(given),
        sampling=schema.Sampling(
            max_new_tokens=given.whole("data.max_response_length", 512, "sampling.max_new_tokens"),
            temperature=float(
                given.number("worker.rollout.temperature", 1.0, "sampling.temperature")
            ),
            top_p=float(given.number("worker.rollout.top_p", 1.0, "sampling.top_p")),
            top_k=max(0, given.whole("worker.rollout.top_k", -1, "sampling.top_k")),
        ),
        grpo=algorithm,
        optim=_optim(given),
        mesh=schema.Mesh(fsdp=-1) if processes > 1 else schema.Mesh(),
        run=run,
    )
    given.drop_below("worker.rollout.", "the sampler is the learner's model, in the same process")
    return cfg


def _grpo(given: Given, processes: int) -> grpo.GRPO:
    prompts = rows.whole(given.number("data.rollout_batch_size", 512, "grpo.prompts"), "prompts")
    group = rows.whole(given.number("worker.rollout.n", 1, "grpo.group"), "worker.rollout.n")
    a_update = given.number(
        "worker.actor.global_batch_size", 256, "grpo.mini_batches", "prompts an update"
    )
    a_update = rows.whole(a_update, "worker.actor.global_batch_size")
    mini = rows.whole(
        prompts / a_update, "data.rollout_batch_size / worker.actor.global_batch_size"
    )
    at_once = given.number(
        "worker.actor.micro_batch_size_per_device_for_update", 4, "grpo.micro_batches",
        "completions a device; it is a matter of memory alone",
    )  # fmt: skip
    at_once = rows.whole(at_once, "worker.actor.micro_batch_size_per_device_for_update")
    micro = int(max(1, a_update * group / (at_once * processes)))
    per_row, micro = rows.cut(prompts, group, mini, micro, processes)
    estimator = given.text(
        "algorithm.adv_estimator", "grpo", "grpo.leave_one_out, grpo.scale_rewards"
    )
    if estimator not in ("grpo", "rloo"):
        given.lines.append(
            Line(f"algorithm.adv_estimator = {estimator}", "", "NOT THERE: grpo instead")
        )
    rloo = estimator == "rloo"
    kl = _kl(given)
    filtering = given.flag("algorithm.online_filtering", False, "grpo.dynamic_sampling")
    given.drop(
        {
            "groups without a signal are told by their spread": (
                "algorithm.filter_key algorithm.filter_low algorithm.filter_high algorithm.gamma "
                "algorithm.lam"
            )
        }
    )
    return grpo.GRPO(
        prompts=prompts,
        group=group,
        group_per_row=per_row,
        mini_batches=mini,
        micro_batches=micro,
        num_iterations=rows.whole(
            given.number("worker.actor.ppo_epochs", 1, "grpo.num_iterations"), "ppo_epochs"
        ),
        loss=_loss(given),
        **kl,
        leave_one_out=rloo,
        scale_rewards="none" if rloo else "group",
        dynamic_sampling=3 if filtering else 0,
    )


def _kl(given: Given) -> dict[str, Any]:
    """The fields of GRPO that say how far the policy may go from its reference."""
    off = given.flag("algorithm.disable_kl", False, "grpo.beta")
    inside = given.flag("algorithm.use_kl_loss", True, "grpo.beta")
    if not (off or inside):
        given.lines.append(
            Line(
                "algorithm.use_kl_loss = false",
                "grpo.beta",
                "NOT THERE: the KL stands in the loss",
            )
        )
    estimate = given.text("algorithm.kl_penalty", "kl", "grpo.kl")
    if estimate not in _KL:
        given.lines.append(
            Line(f"algorithm.kl_penalty = {estimate}", "grpo.kl", "NOT THERE: k3 instead")
        )
    beta = float(given.number("algorithm.kl_coef", 1e-3, "grpo.beta"))
    adaptive = given.text("algorithm.kl_type", "fixed", "grpo.adaptive_kl") == "adaptive"
    horizon = given.whole("algorithm.kl_horizon", 10_000, "grpo.adaptive_kl.horizon" * adaptive)
    target = given.number("algorithm.kl_target", 0.1, "grpo.adaptive_kl.target" * adaptive)
    return {
        "beta": 0.0 if off else beta,
        "kl": _KL.get(estimate, "k3"),
        "adaptive_kl": grpo.AdaptiveKL(float(target), horizon) if adaptive and not off else None,
    }


def _loss(given: Given) -> grpo.Loss:
    low = float(given.number("worker.actor.clip_ratio_low", 0.2, "grpo.loss.epsilon"))
    high = float(given.number("worker.actor.clip_ratio_high", 0.3, "grpo.loss.epsilon_high"))
    delta = float(given.number("worker.actor.clip_ratio_dual", 3.0, "grpo.loss.delta"))
    mean = given.text(
        "worker.actor.loss_avg_mode", "token", "grpo.loss", "token: over a micro-batch's"
    )
    kind = given.text("worker.actor.loss_type", "default", "grpo.loss")
    if kind in ("gspo", "gspo_token"):
        if mean != "seq":
            note = "NOT THERE: gspo's mean is over sequences"
            given.lines.append(Line(f"worker.actor.loss_avg_mode = {mean}", "grpo.loss", note))
        return grpo.Gspo(epsilon=low, epsilon_high=high)
    if kind != "default":
        given.lines.append(
            Line(f"worker.actor.loss_type = {kind}", "grpo.loss", "NOT THERE: the clipped loss")
        )
    of = grpo.Grpo if mean == "seq" else grpo.Bnpo
    return of(epsilon=low, epsilon_high=high, delta=delta)


def _optim(given: Given) -> schema.Optim:
    at = "worker.actor.optim."
    betas = given.take(f"{at}betas", None, "optim.b1, optim.b2") or [0.9, 0.999]
    if not (isinstance(betas, list) and [type(beta) for beta in betas] == [float, float]):
        raise UserError(f"{at}betas: expected two numbers below 1, found {shown(betas)}")
    given.take(f"{at}strategy", note="AdamW in float32")
    given.take(f"{at}training_steps", note="the schedule is over run.steps")
    schedule = given.text(f"{at}lr_scheduler_type", "constant", "optim.schedule")
    least = given.number(f"{at}min_lr_ratio", 0.0, "optim.min_lr")
    lr = float(given.number(f"{at}lr", 1e-6, "optim.lr"))
    ratio = given.number(
        f"{at}lr_warmup_ratio", 0.0, "optim.warmup_steps", "a share of all updates"
    )
    steps = given.number(f"{at}lr_warmup_steps", None, "optim.warmup_steps")
    if schedule not in ("constant", "cosine"):
        told = f"{at}lr_scheduler_type = {schedule}"
        given.lines.append(Line(told, "optim.schedule", "NOT THERE: constant instead"))
    return schema.Optim(
        lr=lr,
        schedule=schedule if schedule in ("constant", "cosine") else "constant",
        min_lr=lr * float(least or 0) if schedule == "cosine" else 0.0,
        warmup_steps=float(steps or ratio),
        weight_decay=float(given.number(f"{at}weight_decay", 0.01, "optim.weight_decay")),
        b1=float(betas[0]),
        b2=float(betas[1]),
        clip_norm=float(given.number("worker.actor.max_grad_norm", 1.0, "optim.clip_norm")),
    )


def _data(given: Given) -> schema.Data:
    where = given.text("data.train_files", "questions.jsonl", "data.source.path, .split")
    path, _, split = where.partition("@")
    given.drop(
        {
            "NOT THERE: data.template is a function; put what the prompt adds into one": (
                "data.format_prompt data.system_prompt data.override_chat_template"
            ),
            "NOT THERE: no video": "data.video_key data.video_fps",
        }
    )
    images = given.text("data.image_dir", None, "data.source.images")
    question = given.text("data.prompt_key", "prompt", "data.source.question")
    answer = given.text("data.answer_key", "answer", "data.source.answer")
    image = given.text("data.image_key", "images", "data.source.image")
    dropped = given.flag("data.filter_overlong_prompts", True, "data.too_long")
    return schema.Data(
        source=Records(
            path=path, split=split or "train", question=question, answer=answer,
            image=(image,), images=images or "",
        ),
        template=chat_question,
        prompt_buckets="auto",
        patch_buckets="auto",
        too_long="drop" if dropped else "error",
        shuffle=given.flag("data.shuffle", True, "data.shuffle"),
    )  # fmt: skip


def _rewards(given: Given) -> tuple[schema.Reward, ...]:
    given.drop_below(
        "worker.reward.",
        "NOT THERE: accuracy and think_format stand for it; a function of yours gets TRL's "
        "arguments, see rewards.md",
    )
    return schema.Reward(accuracy), schema.Reward(think_format)


def _run(given: Given, algorithm: grpo.GRPO, data_rows: int) -> schema.Run:
    epochs = given.number("trainer.total_epochs trainer.total_episodes", 15, "run.steps")
    most = given.whole("trainer.max_steps", None, "run.steps")
    steps, note = 500, "set it to epochs * rows / grpo.prompts, or give --rows"
    if most:
        steps, note = most, "as they are"
    elif data_rows:
        steps = max(1, int(epochs * data_rows / algorithm.prompts))
        note = f"{epochs:g} epochs of {data_rows} rows, {algorithm.prompts} prompts a step"
    given.lines.append(Line("steps", f"run.steps={steps}", note))
    name = given.text("trainer.experiment_name", "converted", "run.dir")
    folder = given.text("trainer.save_checkpoint_path", None, "run.dir")
    every = given.whole("trainer.save_freq", 100, "run.save_every", "-1: at the end")
    keep = given.whole("trainer.save_limit", 2, "run.keep")
    return schema.Run(
        dir=(folder or f"runs/{re.sub(r'[^A-Za-z0-9._-]', '_', name)}"),
        steps=steps,
        seed=given.whole("data.seed", 1, "run.seed"),
        save_every=every if every > 0 else steps,
        keep=keep if keep > 0 else 2,
    )
