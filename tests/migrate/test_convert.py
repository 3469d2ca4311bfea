# SPDX-License-Identifier: Apache-2.0
"""Settings of TRL, VLM-R1 and EasyR1 become configs: arguments as their examples have them, written
down here; every one of them is told, and what nobody knows is listed."""

import dataclasses
import json

import pytest
import yaml

from jaxvl import config
from jaxvl.config import Bnpo, Cispo, Dapo, Gspo, LoRA
from jaxvl.data.tasks.conversations import as_given
from jaxvl.errors import UserError
from jaxvl.migrate import convert
from jaxvl.migrate.words import Given, command_line, scalar

TRL = """
accelerate launch --config_file zero3.yaml --num_processes 8 grpo_vlm.py \\
    --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --output_dir out/grpo --learning_rate 1e-5 \\
    --gradient_checkpointing --dtype bfloat16 --max_prompt_length 2048 \\
    --max_completion_length 1024 --use_vllm --vllm_mode colocate --use_peft \\
    --lora_target_modules "q_proj", "v_proj" --log_completions
"""
VLM_R1 = """
torchrun --nproc_per_node="8" --nnodes="1" --node_rank="0" --master_addr="127.0.0.1" \\
    src/open_r1/grpo_jsonl.py --use_vllm False --output_dir ${HOME}/rl/rec \\
    --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --data_file_paths a.jsonl:b.jsonl \\
    --image_folders coco:coco --is_reward_customized_from_vlm_module True --task_type rec \\
    --per_device_train_batch_size 8 --gradient_accumulation_steps 2 --num_generations 8 \\
    --gradient_checkpointing true --bf16 --torch_dtype bfloat16 --num_train_epochs 2 --seed 7 \\
    --max_completion_length 2048 --reward_funcs accuracy format --beta 0.04 --data_seed 42 \\
    --freeze_vision_modules true --dataset-name not_used --deepspeed zero3.json --save_steps 100 \\
    --attn_implementation flash_attention_2 --learning_rate 1e-6 --report_to wandb
"""
EASY_R1 = {
    "data": {
        "train_files": "hiyouga/geometry3k@train",
        "val_files": "hiyouga/geometry3k@test",
        "prompt_key": "problem",
        "answer_key": "answer",
        "image_key": "images",
        "max_prompt_length": 2048,
        "max_response_length": 1024,
        "rollout_batch_size": 512,
        "val_batch_size": 1024,
        "format_prompt": "math.jinja",
        "shuffle": True,
        "seed": 1,
        "min_pixels": 262144,
        "max_pixels": 4194304,
        "filter_overlong_prompts": True,
    },
    "algorithm": {
        "adv_estimator": "grpo",
        "disable_kl": False,
        "use_kl_loss": True,
        "kl_penalty": "low_var_kl",
        "kl_coef": "1.0e-2",
    },
    "worker": {
        "actor": {
            "global_batch_size": 128,
            "micro_batch_size_per_device_for_update": 4,
            "micro_batch_size_per_device_for_experience": 16,
            "max_grad_norm": 1.0,
            "padding_free": True,
            "model": {"model_path": "Qwen/Qwen2.5-VL-7B-Instruct", "freeze_vision_tower": False},
            "optim": {"lr": "1.0e-6", "weight_decay": "1.0e-2", "lr_warmup_ratio": 0.0},
            "fsdp": {"enable_full_shard": True},
            "offload": {"offload_params": True},
        },
        "rollout": {"n": 5, "temperature": 1.0, "top_p": 0.99, "tensor_parallel_size": 2},
        "ref": {"fsdp": {"enable_full_shard": True}},
        "reward": {"reward_type": "batch", "reward_function": "math.py:compute_score"},
    },
    "trainer": {
        "total_epochs": 15,
        "experiment_name": "qwen2_5_vl_7b_geo_grpo",
        "n_gpus_per_node": 8,
        "nnodes": 1,
        "val_freq": 5,
        "save_freq": 5,
        "save_limit": 3,
        "logger": ["console", "wandb"],
    },
}


def of(args, **more):
    return convert(None, args, **more)


def test_trls_example():
    found = of(TRL)
    cfg = found.cfg
    assert cfg.model.path == "Qwen/Qwen2.5-VL-3B-Instruct" and cfg.model.dtype == "bfloat16"
    assert cfg.model.train == () and cfg.model.lora == LoRA(16, 32.0, 0.05, ("q", "v"))
    assert (cfg.grpo.prompts, cfg.grpo.group, cfg.mesh.fsdp) == (8, 8, -1)  # 8 a device, 8 devices
    assert cfg.grpo.loss == Dapo() and cfg.grpo.beta == 0  # TRL's defaults, not ours
    assert (cfg.optim.lr, cfg.optim.schedule) == (1e-5, "linear")
    assert cfg.sampling.max_new_tokens == 1024 and cfg.data.template is as_given
    assert found.unknown == {} and found.of == "TRL"


def test_vlm_r1s_script():
    found = of(VLM_R1, rows=6400)
    cfg = found.cfg
    assert cfg.model.train == ("text",) and cfg.grpo.beta == 0.04
    assert (cfg.grpo.prompts, cfg.grpo.group) == (16, 8)  # 8 * 8 * 2 completions
    assert cfg.run.steps == 800 and (cfg.run.seed, cfg.run.save_every) == (7, 100)
    assert (cfg.data.source.path, cfg.data.source.images) == ("a.jsonl", "coco")
    assert [reward.name for reward in cfg.rewards] == ["accuracy", "think_format"]
    told = "\n".join(found.report())
    assert "NOT THERE: 1 more files" in told and "flash_attention_2" in told
    assert "a variable of a shell" in told  # ${HOME}
    assert found.unknown == {} and "dataset_name = not_used" in told


def test_variables_of_a_script_are_filled_in_or_told():
    words = "export RUN=first\nMODEL=Qwen/X torchrun a.py --model_name_or_path $MODEL "
    found = of(words + "--output_dir ${HOME}/out/${RUN} --learning_rate 2e-6")
    assert (found.cfg.model.path, found.cfg.run.dir) == ("Qwen/X", "${HOME}/out/first")
    told = "\n".join(found.report())
    assert "${HOME}  " in told and told.count("NOT THERE: a variable") == 1


def test_easyr1s_example(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(EASY_R1))
    words = "python3 -m verl.trainer.main config=mine.yaml worker.rollout.n=8 trainer.nnodes=2"
    found = convert(file, words)
    assert any("config = mine.yaml" in line for line in found.report())
    cfg = found.cfg
    assert (cfg.grpo.prompts, cfg.grpo.group, cfg.grpo.mini_batches) == (512, 8, 4)
    assert cfg.grpo.loss == Bnpo(0.2, 0.3, 3.0)
    assert (cfg.grpo.beta, cfg.grpo.kl) == (0.01, "k3")
    assert cfg.data.source.path == "hiyouga/geometry3k" and cfg.data.source.question == "problem"
    assert cfg.data.too_long == "drop" and cfg.model.max_pixels == 4194304
    assert (cfg.optim.lr, cfg.optim.weight_decay, cfg.sampling.top_p) == (1e-6, 0.01, 0.99)
    assert (cfg.run.dir, cfg.run.keep) == ("runs/qwen2_5_vl_7b_geo_grpo", 3)
    assert found.unknown == {} and found.of == "EasyR1"


@pytest.mark.parametrize("args", [TRL, VLM_R1])
def test_every_argument_is_told_and_the_file_is_the_config(args, tmp_path):
    found = of(args)
    told = "\n".join(found.report())
    assert all(f"{name} = " in told for name in command_line(args)[0])
    file = tmp_path / "mine.py"
    file.write_text(found.text())
    assert config.load(file) == found.cfg


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        ("--loss_type dr_grpo --epsilon_high 0.28", "grpo.loss.epsilon_high", 0.28),
        ("--importance_sampling_level sequence --epsilon 3e-4", "grpo.loss", Gspo(3e-4, None)),
        ("--loss_type cispo", "grpo.loss", Cispo(0.2)),
        ("--loss_type cispo --epsilon_high 5", "grpo.loss", Cispo(5.0)),
        ("--fp16 false", "model.dtype", "float32"),
        ("--learning_rate 1e-5 --lr_scheduler_kwargs '{\"min_lr\": 1e-7}'", "optim.min_lr", 1e-7),
        ("--learning_rate 2 --lr_scheduler_kwargs '{\"min_lr_rate\": 0.5}'", "optim.min_lr", 1.0),
        ("--scale_rewards false", "grpo.scale_rewards", "none"),
        ("--warmup_ratio 0.1 --lr_scheduler_type cosine", "optim.warmup_steps", 0.1),
        ("--steps_per_generation 4 --gradient_accumulation_steps 2", "grpo.mini_batches", 2),
        ("--max_steps 100 --num_iterations 2", "run.steps", 50),
        ("--save_strategy no --max_steps 20", "run.save_every", 20),
        ("--gradient_checkpointing false", "model.remat", "products"),
        ("--reward_funcs accuracy --reward_weights 0.5", "rewards.0.weight", 0.5),
        ("--top_k 40 --temperature 0.8", "sampling.top_k", 40),
        ("--num_generations 16 --per_device_train_batch_size 4 --gradient_accumulation_steps 4",
         "grpo.prompts", 1),
    ],
)  # fmt: skip
def test_what_an_argument_means(args, field, value):
    node = of(f"--model_name_or_path m {args}").cfg
    for name in field.split("."):
        node = node[int(name)] if name.isdecimal() else getattr(node, name)
    assert node == value


def test_unknown_arguments_and_what_is_not_there():
    found = of("--model_name_or_path m --my_own 3 --repetition_penalty 1.1 --loss_type sapo")
    told = "\n".join(found.report())
    assert found.unknown == {"my_own": 3} and "left out:\nmy_own = 3" in told
    assert "repetition_penalty = 1.1" in told and told.count("NOT THERE") == 2


@pytest.mark.parametrize(
    ("args", "absent"),
    [
        ("--fp16 false", ()),
        ("--importance_sampling_level sequence --loss_type grpo", ()),
        ("--importance_sampling_level sequence --delta 3", ("gspo's mean", "gspo has none")),
        ("--data_file_paths a:b:c --image_folders x:y", ("2 more files", "1 more folders")),
        ("--dataset_name a b", ("1 more files",)),
        ("--lr_scheduler_kwargs '{\"num_cycles\": 2}'", ("NOT THERE: num_cycles",)),
    ],
)
def test_a_difference_is_told_where_there_is_one(args, absent):
    told = "\n".join(of(f"--model_name_or_path m {args}").report())
    assert told.count("NOT THERE") == len(absent) and all(words in told for words in absent)
    assert "bfloat16 instead" not in told


LOSSES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo")


@pytest.mark.parametrize("level", ["token", "sequence", "sequence_token"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_converted(loss, level):
    words = f"--loss_type {loss} --importance_sampling_level {level} --delta 3 --epsilon_high 0.4"
    assert of(f"--model_name_or_path m {words}").cfg.grpo.loss.epsilon_high == 0.4


@pytest.mark.parametrize(
    "words",
    [
        "algorithm.adv_estimator=rloo",
        "algorithm.kl_type=adaptive algorithm.kl_target=0.2",
        "algorithm.disable_kl=true algorithm.online_filtering=true",
        "worker.actor.loss_type=gspo worker.actor.loss_avg_mode=seq",
        "worker.actor.loss_type=cispo",
    ],
)
def test_easyr1s_other_algorithms_are_converted(words, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(EASY_R1))
    asked = dict(word.split("=") for word in words.split())
    found = convert(file, words).cfg.grpo
    assert found.leave_one_out == ("rloo" in words)
    assert (found.adaptive_kl is None) == ("adaptive" not in words)
    assert (found.beta == 0) == ("algorithm.disable_kl" in asked)
    assert isinstance(found.loss, Gspo) == ("gspo" in words)


def test_the_state_of_a_trainer(tmp_path):
    file = tmp_path / "trainer_state.json"
    rates = [{"step": n, "learning_rate": 2e-6 / n} for n in (1, 2)]
    state = {"max_steps": 40, "train_batch_size": 8, "save_steps": 10, "log_history": rates}
    file.write_text(json.dumps(state))
    cfg = convert(file, "--model_name_or_path m").cfg
    assert (cfg.run.steps, cfg.run.save_every, cfg.optim.lr) == (40, 10, 2e-6)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("", "expected a file, or --from-args"),
        ("--learning_rate 1", "model_name_or_path is missing"),
        ("--model_name_or_path m --learning_rate high", "learning_rate: expected a number"),
        ("--model_name_or_path m --num_generations 6", "no whole number. TRL takes"),
        ("--model_name_or_path 'm", "the arguments cannot be read"),
    ],
)
def test_mistakes(args, message, tmp_path):
    with pytest.raises(UserError, match=message):
        of(args)
    (tmp_path / "a.yaml").write_text("a: [")
    for file in (tmp_path / "none.yaml", tmp_path / "a.yaml"):
        with pytest.raises(UserError, match="no file at|cannot be read"):
            convert(file)


def test_words():
    assert [scalar(word) for word in ("1e-5", "8", "true", "None", "a/b", "-", "7B")] == [
        1e-5, 8, True, None, "a/b", "-", "7B"
    ]  # fmt: skip
    named, dotted = command_line("run.py --a --b-c=1 --d x y, z worker.n=2")
    assert named == {"a": True, "b_c": 1, "d": ["x", "y", "z"]} and dotted == {"worker.n": 2}


def test_a_config_of_plain_values(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        """
model: {path: m, dtype: bfloat16, train: [merger, text]}
data:
  source: {path: my.jsonl, limit: 10}
  template: visualthinker-base
  prompt_buckets: auto
rewards: [accuracy, {fn: think_format, weight: 0.5}]
grpo: {group: 4, loss: {type: dr_grpo, epsilon: 0.1}, beta: 1e-3}
run: {dir: runs/mine, steps: 5, resume: never}
"""
    )
    cfg = config.load(file, ["grpo.prompts=2"])
    assert cfg.model.train == ("merger", "text") and cfg.data.source.limit == 10
    assert cfg.data.template.base is True and [r.weight for r in cfg.rewards] == [1.0, 0.5]
    assert cfg.grpo.loss == config.DrGrpo(0.1) and (cfg.grpo.beta, cfg.grpo.prompts) == (1e-3, 2)
    written = tmp_path / "written.py"
    from jaxvl.config.source import python

    plain = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, template=as_given))
    written.write_text(python(plain, 'odd """ head \\'))
    assert config.load(written) == plain
    for text, message in (
        ("modl: {path: m}", "did you mean `model`"),
        ("model: {path: m}", "is missing"),
        ("- 1", "expected fields of a config"),
        ("a: [", "cannot be read"),
        ("sft: {}", "is a function; write Python"),
        ("data: {source: {type: odd}}", "expected one of records"),
        ("model: {path: m, dtype: f8}", "run.yaml: model.dtype: expected"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            config.load(file)


def test_vlm_r1s_datasets_are_recognised(tmp_path, capsys):
    from jaxvl.data.tasks.records import Records

    turns = [{"from": "human", "value": "<image>2 + 2?"}, {"from": "gpt", "value": "4"}]
    image = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAAAAAAALAAAAAABAAEAAAIBRAA7"
    rows = [{"image": image, "conversations": turns}, {"conversations": [{"from": ["gpt"]}]}]
    file = tmp_path / "rec.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (_, example), (_, bad) = Records(str(file)).rows()
    assert (example.question, example.answer, len(example.images)) == ("2 + 2?", "4", 1)
    assert [part["type"] for part in as_given(example)[0]["content"]] == ["image", "text"]
    assert "has the form of LLaVA's datasets" in capsys.readouterr().err
    assert "expected a role of" in str(bad)
    assert of(f"--model_name_or_path m --data_file_paths {file}").cfg.data.template is as_given


def test_datasets_in_trls_form_are_recognised(tmp_path, capsys):
    from jaxvl.data.tasks.records import Records

    turns = [{"role": "system", "content": "Think."}, {"role": "user", "content": "2 + 2?"}]
    rows = {
        "turns": {"prompt": turns, "solution": "<answer> 4 </answer>"},
        "text": {"prompt": "2 + 2?", "solution": "$4$"},
        "problem": {"problem": "2 + 2?", "solution": "4", "original": "4."},
        "own": {"question": "2 + 2?", "answer": "4", "prompt": "no"},
    }
    for name, row in rows.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text(json.dumps(row) + "\n")
        (example,) = Records(str(file)).load()
        said = capsys.readouterr().err
        assert example.question == "2 + 2?" and example.answer.strip("$") == "4"
        assert ("has the form of TRL's datasets" in said) == (name != "own"), said
        if name == "turns":
            assert [turn["role"] for turn in as_given(example)] == ["system", "user"]
    named = Records(str(tmp_path / "turns.jsonl"), conversation="prompt", answer="solution")
    assert named.load()[0].answer == "4" and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "base",
    [
        {"model_name_or_path": "m", "use_peft": True, "reward_funcs": ["accuracy"]},
        {
            "worker": {"actor": {"model": {"model_path": "m"}}, "rollout": {"n": 8}},
            "data": {"train_files": "a.jsonl"},
        },
    ],
    ids=["trl", "easyr1"],
)
def test_any_value_of_any_name_is_converted_or_told(base, tmp_path, monkeypatch):
    asked, take = set(), Given.take
    file = tmp_path / "given.json"

    def recorded(self, names, *rest, **more):
        asked.update(names.split())
        return take(self, names, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Given, "take", recorded)
        file.write_text(json.dumps(base))
        convert(file)
    assert len(asked) > 40
    told = 0
    for name in sorted(asked):
        for value in ("x", 0, None, [1, 2.5], 1e30):
            changed = json.loads(json.dumps(base))
            *path, last = name.split(".")
            at = changed
            for part in path:
                at = at.setdefault(part, {})
            at[last] = value
            file.write_text(json.dumps(changed))
            try:
                assert compile(convert(file).text(), "config", "exec")
            except UserError as error:
                told += 1
                assert str(error)
    assert told > len(asked)


def test_a_script_with_its_own_reward_alone_has_accuracy_until_it_is_written():
    found = convert(None, "--model_name_or_path m --reward_funcs mine")
    assert [reward.name for reward in found.cfg.rewards] == ["accuracy"]
    report = "\n".join(found.report())
    assert "reward mine" in report and "NOT THERE" in report


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--model_name_or_path", "expected one word, found none"),
        ("--model_name_or_path m --lora_r 2.5 --use_peft", "expected a whole number"),
        ("--model_name_or_path m --bf16 maybe", "expected true or false"),
        ("--model_name_or_path m --lr_scheduler_kwargs [1]", "expected names with values"),
        ("--model_name_or_path m --lr_scheduler_kwargs {", "expected names with values"),
        ("--model_name_or_path m --reward_funcs acc --reward_weights a", "expected numbers"),
    ],
)
def test_a_value_of_a_wrong_kind_is_told(words, said):
    with pytest.raises(UserError, match=said):
        convert(None, words)
