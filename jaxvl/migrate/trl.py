# SPDX-License-Identifier: Apache-2.0
"""Arguments of TRL's GRPO scripts (GRPOConfig, ModelConfig, ScriptArguments), and of VLM-R1, whose
scripts have TRL's and some of their own.

Where an argument is not given, TRL's default (of 1.x) counts, which often is another than ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxvl.config import grpo, schema
from jaxvl.data.tasks.conversations import as_given
from jaxvl.data.tasks.records import Records
from jaxvl.data.templates import chat_question
from jaxvl.errors import UserError
from jaxvl.migrate import rows, trl_unmatched
from jaxvl.migrate.words import Given, Line, numbers, shown
from jaxvl.rewards import accuracy, think_format

_TARGETS = {
    "q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o", "gate_proj": "gate",
    "up_proj": "up", "down_proj": "down", "fc1": "fc1", "fc2": "fc2",
}  # fmt: skip
_SCHEDULES: dict[str, Any] = {
    "linear": "linear", "cosine": "cosine", "cosine_with_min_lr": "cosine", "constant": "constant",
    "constant_with_warmup": "constant",
}  # fmt: skip


def config(given: Given, devices: int, data_rows: int) -> schema.Config:
    """The config that says the same; what became of each argument are the lines of `given`."""
    processes = _processes(given, devices)
    given.drop(trl_unmatched.NOTHING)
    for prefix, why in (
        ("vllm_", "the sampler is the learner's model, in the same process"),
        ("hub_", "`jaxvl push` puts the export on the hub"),
        ("fsdp_", "sharding follows mesh.fsdp"),
        ("trackio_", "run.track names the trackers"),
    ):
        given.drop_below(prefix, why)
    for name, (neutral, why) in trl_unmatched.ABSENT.items():
        if given.has(name):
            same = given.left[name] == neutral
            given.take(name, note="as here" if same else f"NOT THERE: {why}")
    algorithm, per_step = _grpo(given, processes)
    cfg = schema.Config(
        model=_model(given),
        data=_data(given),
        rewards=_rewards(given),
        sampling=_sampling(given),
        grpo=algorithm,
        optim=_optim(given),
        mesh=schema.Mesh(fsdp=-1) if processes > 1 else schema.Mesh(),
        run=_run(given, algorithm, per_step, data_rows),
    )
    return cfg


def _processes(given: Given, devices: int) -> int:
    why = "how many devices share the batch"
    each = given.number("nproc_per_node num_processes num_gpus world_size", None, "mesh.fsdp", why)
    nodes = given.number("nnodes num_machines", 1, note="times these")
    if devices:
        return devices
    if each is None:
        note = "the arguments do not say how many devices there are: --devices does"
        given.lines.append(Line("devices (default: 1)", "mesh.fsdp", note))
    return rows.whole((each or 1) * nodes, "the number of devices")


def _model(given: Given) -> schema.Model:
    path = given.text("model_name_or_path model model_id", None, "model.path")
    if not path:
        raise UserError("model_name_or_path is missing: expected it among the arguments")
    dtype = given.text("dtype torch_dtype", None, "model.dtype")
    half = {
        name: given.flag(name, False, "model.dtype") for name in ("bf16", "fp16") if given.has(name)
    }
    narrow = dtype in ("bfloat16", "float16", "auto") or any(half.values())
    narrow = narrow or (dtype is None and not half)
    if dtype == "float16" or half.get("fp16"):
        given.lines.append(
            Line("fp16", "model.dtype", "bfloat16 instead: no loss scaling is needed")
        )
    remat = given.flag("gradient_checkpointing", True, "model.remat", "true: block")
    pixels: dict[str, Any] = {
        name: given.whole(name, None, f"model.{name}")
        for name in ("min_pixels", "max_pixels")
        if given.has(name)
    }
    frozen = given.flag("freeze_vision_modules freeze_vision_tower", False, "model.train")
    lora = _lora(given)
    train: tuple[Any, ...] = () if lora else ("tower", "merger", "text")
    return schema.Model(
        path=path,
        dtype="bfloat16" if narrow else "float32",
        remat="block" if remat else "products",
        train=("text",) if frozen and not lora else train,
        lora=lora,
        **pixels,
    )


def _lora(given: Given) -> schema.LoRA | None:
    wanted = given.flag(
        "use_peft", False, "model.lora, model.train=()" if given.has("use_peft") else ""
    )
    names = "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"
    if not wanted:
        for name in names:
            if given.has(name):
                given.take(name, note="without use_peft there are no adapters")
        return None
    rank = given.whole("lora_r", 16, "model.lora.rank")
    alpha = float(given.number("lora_alpha", 32, "model.lora.alpha"))
    dropout = float(given.number("lora_dropout", 0.05, "model.lora.dropout"))
    asked = given.take("lora_target_modules", "all-linear", "model.lora.targets")
    asked = [str(one) for one in (asked if isinstance(asked, list) else [asked])]
    wrong = [one for one in asked if one not in _TARGETS and one != "all-linear"]
    if wrong:
        note = f"NOT THERE: {', '.join(wrong)}; adapters stand beside {', '.join(_TARGETS)}"
        given.lines.append(Line("lora_target_modules", "model.lora.targets", note))
    targets = tuple(_TARGETS[one] for one in asked if one in _TARGETS)
    kinds: dict[str, Any] = {"targets": targets} if targets else {}
    return schema.LoRA(rank=rank, alpha=alpha, dropout=dropout, **kinds)


def _data(given: Given) -> schema.Data:
    if given.has("data_file_paths"):
        given.drop({"data_file_paths names the files": "dataset_name"})
        note = (
            "VLM-R1 asks for <think> and <answer> behind it; visualthinker-instruct does the like"
        )
        given.lines.append(Line("the question", "data.template", note))
    where = given.take(
        "data_file_paths train_file dataset_name dataset", "questions.jsonl", "data.source.path"
    )
    given.drop({"a held-out set is eval.source": "dataset_test_split val_split_ratio"})
    where, *others = _paths(where) or ["questions.jsonl"]
    if others:
        note = f"NOT THERE: {len(others)} more files; one source holds one: see data.md, mixtures"
        given.lines.append(Line("data_file_paths", "data.source.path", note))
    images = given.text("image_folders image_root", "", "data.source.images")
    images, *others = _paths(images)
    if others:
        note = f"NOT THERE: {len(others)} more folders; a source has one: see data.md, mixtures"
        given.lines.append(Line("image_folders", "data.source.images", note))
    source = Records(
        path=where,
        split=given.text("dataset_train_split dataset_split", "train", "data.source.split"),
        subset=str(
            given.take("dataset_config dataset_config_name", "", "data.source.subset") or ""
        ),
        images=images,
    )
    template = as_given
    if Path(where).exists():
        template = as_given if source.recognised().source.conversation else chat_question
    else:
        note = "as-given takes `prompt` as it is; a dataset with `problem` takes data.template=chat"
        given.lines.append(Line("the form of the data", "data.template", note))
    workers = given.whole("dataloader_num_workers", None, "data.workers")
    more: dict[str, Any] = {} if workers is None else {"workers": workers}
    return schema.Data(
        source=source,
        template=template,
        prompt_buckets="auto",
        patch_buckets="auto",
        shuffle=given.flag("shuffle_dataset", True, "data.shuffle"),
        **more,
    )


def _paths(given: Any) -> list[str]:
    """Paths that are a list, or words with colons between them, as VLM-R1 has them."""
    if isinstance(given, list):
        return [str(one) for one in given]
    return [str(given)] if "://" in str(given) else str(given).split(":")


def _rewards(given: Given) -> tuple[schema.Reward, ...]:
    names = given.take("reward_funcs", None, "rewards")
    own = "rewards have TRL's signature: import yours in the file and put it into Reward(..)"
    given.take("reward_model_name_or_path", note="NOT THERE: a judge is jaxvl.rewards.judged")
    given.drop({own: "is_reward_customized_from_vlm_module task_type"})
    weights = given.take("reward_weights custom_reward_weights", None, "rewards.N.weight")
    if names is None:
        given.lines.append(Line("reward_funcs (not given)", "rewards", own))
        names = ["accuracy", "format"]
    names = names if isinstance(names, list) else [names]
    known = {"acc": accuracy, "format": think_format}
    found = []
    for name in map(str, names):
        fn = next((fn for word, fn in known.items() if word in name.lower()), None)
        if fn is None:
            given.lines.append(Line(f"reward {name}", "", f"NOT THERE: {own}"))
        elif fn not in found:
            found.append(fn)
    each = numbers("reward_weights", weights)
    if len(each) != len(found):
        if each:
            note = f"NOT THERE: {len(each)} weights for {len(found)} rewards; set them in the file"
            given.lines.append(Line("reward_weights", "rewards.N.weight", note))
        each = [1.0] * len(found)
    if not found:
        given.lines.append(Line("rewards", "rewards", "accuracy stands there until yours do"))
        found, each = [accuracy], [1.0]
    return tuple(schema.Reward(fn, weight) for fn, weight in zip(found, each, strict=True))


def _sampling(given: Given) -> schema.Sampling:
    top_k = given.whole("top_k", None, "sampling.top_k", "0: all")
    return schema.Sampling(
        max_new_tokens=given.whole(
                "max_completion_length max_new_tokens max_output_token_length", 256,
                "sampling.max_new_tokens", "the end token counts",
            ),
        temperature=float(given.number("temperature", 1.0, "sampling.temperature")),
        top_p=float(given.number("top_p", 1.0, "sampling.top_p")),
        top_k=max(top_k or 0, 0),
    )  # fmt: skip


def _grpo(given: Given, processes: int) -> tuple[grpo.GRPO, float]:
    """The algorithm, and how many optimizer updates of TRL are a step."""
    group = rows.whole(given.number("num_generations", 8, "grpo.group"), "num_generations")
    each = given.number(
        "per_device_train_batch_size train_batch_size", 8, "grpo.prompts", "completions a device"
    )
    each = rows.whole(each, "per_device_train_batch_size")
    accumulate = given.number("gradient_accumulation_steps", 1, "grpo.micro_batches")
    accumulate = rows.whole(accumulate, "gradient_accumulation_steps")
    steps = given.number("steps_per_generation", None, "grpo.mini_batches")
    batch = given.number("generation_batch_size", None, "grpo.prompts, grpo.mini_batches")
    if batch is None:
        batch = each * processes * (steps or accumulate)
    batch = rows.whole(batch, "the completions of a generation")
    steps = batch / (each * processes)
    prompts = batch / group
    note = f"{batch:g} completions a generation / {group} = {prompts:g} prompts"
    if prompts != int(prompts) or prompts < 1:
        raise UserError(
            f"{note}: no whole number. TRL takes per_device_train_batch_size ({each:g}) * devices "
            f"({processes}) * gradient_accumulation_steps ({accumulate:g}) as a multiple of "
            f"num_generations ({group}); say how many devices there are: --devices 8"
        )
    given.lines.append(
        Line(f"{each:g} a device * {processes} * {steps:g}", f"grpo.prompts={prompts:g}", note)
    )
    mini = rows.whole(steps / accumulate, "steps_per_generation / gradient_accumulation_steps")
    per_row, micro = rows.cut(int(prompts), group, mini, accumulate, processes)
    if micro != accumulate:
        why = f"{micro}: rows hold whole prompts; it is a matter of memory alone"
        given.lines.append(Line("gradient_accumulation_steps", "grpo.micro_batches", why))
    iterations = rows.whole(
        given.number("num_iterations", 1, "grpo.num_iterations"), "num_iterations"
    )
    scale: Any = given.take("scale_rewards", "group", "grpo.scale_rewards")
    scale = {"True": "group", "False": "none"}.get(str(scale), str(scale))
    algorithm = grpo.GRPO(
        prompts=int(prompts),
        group=group,
        group_per_row=per_row,
        mini_batches=mini,
        micro_batches=micro,
        num_iterations=iterations,
        loss=_loss(given),
        beta=float(given.number("beta", 0.0, "grpo.beta", "0: no reference is held")),
        scale_rewards=scale,
        mask_truncated_completions=given.flag(
            "mask_truncated_completions", False, "grpo.mask_truncated_completions"
        ),
    )
    return algorithm, mini * iterations


def _loss(given: Given) -> grpo.Loss:
    known = {"grpo": grpo.Grpo, "dr_grpo": grpo.DrGrpo, "dapo": grpo.Dapo, "bnpo": grpo.Bnpo}
    name = given.text(
        "loss_type", "dapo", "grpo.loss", "TRL's default since 0.22; before it grpo, bnpo"
    )
    level = given.text("importance_sampling_level", "token", "grpo.loss")
    epsilon = float(given.number("epsilon", 0.2, "grpo.loss.epsilon"))
    high = given.number("epsilon_high", None, "grpo.loss.epsilon_high")
    delta = given.number("delta", None, "grpo.loss.delta")
    if level in ("sequence", "sequence_token"):
        if level == "sequence_token":
            given.lines.append(
                Line(f"importance_sampling_level = {level}", "grpo.loss", "NOT THERE: gspo instead")
            )
        if name != "grpo":
            note = "NOT THERE: gspo's mean is that of grpo"
            given.lines.append(Line(f"loss_type = {name}", "grpo.loss", note))
        if delta is not None:
            given.lines.append(Line(f"delta = {delta}", "", "NOT THERE: gspo has none"))
        return grpo.Gspo(epsilon=epsilon, epsilon_high=high)
    if name == "cispo":  # epsilon stands for epsilon_high where that is not given
        if delta is not None:
            given.lines.append(Line(f"delta = {delta}", "", "cispo has none, in TRL too"))
        return grpo.Cispo(epsilon_high=float(epsilon if high is None else high))
    if name not in known:
        given.lines.append(Line(f"loss_type = {name}", "grpo.loss", "NOT THERE: dapo instead"))
    kind = known.get(name, grpo.Dapo)
    kinds = {"epsilon": epsilon, "delta": delta}
    return kind(**kinds) if high is None else kind(epsilon_high=float(high), **kinds)


def _optim(given: Given) -> schema.Optim:
    name = given.text("lr_scheduler_type", "linear", "optim.schedule")
    schedule = _SCHEDULES.get(name)
    if schedule is None:
        given.lines.append(
            Line(f"lr_scheduler_type = {name}", "optim.schedule", "NOT THERE: linear instead")
        )
    optimizer = given.text("optim", None, note="AdamW in float32")
    if optimizer is not None and "adamw" not in optimizer:
        given.lines.append(Line(f"optim = {optimizer}", "optim", "NOT THERE: AdamW instead"))
    lr = float(given.number("learning_rate", 1e-6, "optim.lr"))
    ratio = given.number(
        "warmup_ratio", None, "optim.warmup_steps", "below 1: a share of all updates"
    )
    steps = given.number("warmup_steps", None, "optim.warmup_steps")
    return schema.Optim(
        lr=lr,
        schedule=schedule or "linear",
        min_lr=_least(given, lr),
        warmup_steps=float(steps or ratio or 0),
        weight_decay=float(given.number("weight_decay", 0.0, "optim.weight_decay")),
        b1=float(given.number("adam_beta1", 0.9, "optim.b1")),
        b2=float(given.number("adam_beta2", 0.999, "optim.b2")),
        eps=float(given.number("adam_epsilon", 1e-8, "optim.eps")),
        clip_norm=float(given.number("max_grad_norm", 1.0, "optim.clip_norm")),
    )


def _least(given: Given, lr: float) -> float:
    """The learning rate at the end, of the schedule's own arguments: a mapping, or one as JSON."""
    found = given.take("lr_scheduler_kwargs", None, "optim.min_lr")
    if found is None:
        return 0.0
    try:
        own = Given(json.loads(found) if isinstance(found, str) else found)
    except (ValueError, TypeError):
        raise UserError(
            f"lr_scheduler_kwargs: expected names with values, found {shown(found)}"
        ) from None
    least = own.number("min_lr", lr * own.number("min_lr_rate", 0.0))
    if own.unknown():
        note = f"NOT THERE: {', '.join(map(str, own.unknown()))}"
        given.lines.append(Line("lr_scheduler_kwargs", "", note))
    return float(least)


def _run(given: Given, algorithm: grpo.GRPO, per_step: float, data_rows: int) -> schema.Run:
    most = given.number("max_steps", -1, "run.steps")
    epochs = given.number("num_train_epochs", 3.0, "run.steps")
    if most > 0:
        steps = max(1, round(most / per_step))
        note = f"{per_step:g} updates are a step"
    elif data_rows:
        steps = max(1, int(epochs * data_rows / algorithm.prompts))
        note = f"{epochs:g} epochs of {data_rows} rows, {algorithm.prompts} prompts a step"
    else:
        steps, note = 500, "set it to epochs * rows / grpo.prompts, or give --rows"
    given.lines.append(Line("steps", f"run.steps={steps}", note))
    given.drop(
        {
            "a held-out set is eval.source, asked every eval.every steps": (
                "eval_strategy evaluation_strategy eval_steps per_device_eval_batch_size do_eval "
                "eval_on_start num_generations_eval eval_accumulation_steps"
            )
        }
    )
    given.take("report_to", note="run.track names trackers; metrics.jsonl is always written")
    strategy = given.text("save_strategy", None, "run.save_every")
    every = given.number("save_steps", 500, "run.save_every")
    keep = given.whole("save_total_limit", None, "run.keep")
    never = strategy in ("no", "epoch")
    return schema.Run(
        dir=given.text("output_dir", "runs/converted", "run.dir"),
        steps=steps,
        seed=given.whole("seed", 42, "run.seed"),
        save_every=max(1, steps if never or every < 1 else int(every / per_step)),
        keep=keep or 2,
    )
