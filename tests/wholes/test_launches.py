# SPDX-License-Identifier: Apache-2.0
"""Every config is launched through the command line as a user would: two steps, a checkpoint, a
resume to a third, an export that loads, a page. Only sizes are replaced, by overrides that are
printed (pytest -s shows them)."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import pytest
import yaml

from jaxvl.observe.metrics import read_metrics
from tests.data.published import write_sat, write_vlaa
from tests.migrate.test_convert import EASY_R1, VLM_R1
from tests.tiny import make_checkpoint
from tests.wholes.launch import CONFIGS, ROOT, command, launch, scorer, write_questions

pytestmark = pytest.mark.slow

BASE = ROOT / "configs/quickstart_base"
GRPO = ["grpo.prompts=2", "grpo.group=2", "grpo.micro_batches=1", "sampling.max_new_tokens=8"]
SFT = ["sft.rows=2", "sft.micro_batches=1"]
SMALL = ["data.prompt_buckets=768", "data.patch_buckets=64", "data.workers=0"]
ONE = ["mesh.fsdp=1"]  # of the eight devices that the tests have
QUICK = ["data.source.size=40", "data.workers=0"]
HELD_OUT = ["eval.source.size=4", "eval.samples=2"]
# Of each config: the family of its model ("" where it has one), its data, and its sizes.
LAUNCHES = {
    "quickstart": ("", "", [*GRPO, *QUICK, *HELD_OUT]),
    "quickstart_control": ("", "", [*GRPO, *QUICK, *HELD_OUT]),
    "quickstart_sft": ("", "", [*SFT, *QUICK]),
    "jsonl": ("qwen2_vl", "jsonl", [*GRPO, *SMALL]),
    "lora_24gb": ("qwen2_vl", "jsonl", [*GRPO, *SMALL]),
    "visualthinker": ("qwen2_vl", "sat", [*GRPO, *SMALL, *ONE]),
    "visualthinker_sft": ("qwen2_vl", "sat", [*SFT, *SMALL, *ONE]),
    "vlaa": ("qwen2_5_vl", "vlaa", [*GRPO, *SMALL, *ONE, "grpo.prompts=9", "grpo.mini_batches=3"]),
    "vlaa_sft": ("qwen2_5_vl", "vlaa", [*SFT, *SMALL, *ONE, "sft.target_length=256"]),
}
CHILDREN = {"jsonl", "visualthinker_sft"}  # in processes of their own; one of each command


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What configs are given on the command line: a checkpoint of a family, data by its form."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            if name in ("qwen2_vl", "qwen2_5_vl"):
                published = {"qwen2_vl": "Qwen2-VL-2B", "qwen2_5_vl": "Qwen2.5-VL-3B-Instruct"}
                made[name] = make_checkpoint(folder / published[name], family=name, weights="old")
            elif name == "jsonl":
                made[name] = write_questions(folder)
            elif name == "sat":
                made[name] = write_sat(folder, copies=4)
            else:
                write_vlaa(folder, "sft")
                made[name] = write_vlaa(folder, "grpo")
        return made[name]

    return get


def test_every_config_has_a_launch():
    assert {path.stem for path in CONFIGS} == set(LAUNCHES)
    commands = {command(path) for path in CONFIGS if path.stem in CHILDREN}
    assert commands == {"grpo", "sft"}


def given(world, name):
    """The words that put a config to what is here."""
    family, data, sizes = LAUNCHES[name]
    words = [f"model.path={world(family)}"] if family else []
    words += [f"data.source.path={world(data)}"] if data else []
    return [*words, *sizes]


def check_run(run, steps):
    """A run that is whole: its steps, finite figures, a checkpoint, an export that answers, a
    page."""
    lines = [line for line in read_metrics(run) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    assert all(np.isfinite(line["loss"]) and np.isfinite(line["grad_norm"]) for line in lines)
    assert max(int(folder.name) for folder in (run / "checkpoints").iterdir()) == steps
    assert "<html" in (run / "report.html").read_text().lower()
    assert json.loads((run / "config.json").read_text())["run"]["dir"] == str(run)


def check_export(path):
    import jaxvl

    vlm = jaxvl.load(path, dtype="float32")
    (logits,) = vlm.logits(["How many?"], [[]])
    assert np.isfinite(np.asarray(logits)).all()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_runs_goes_on_and_exports(path, world, tmp_path):
    child, run = path.stem in CHILDREN, tmp_path / "run"
    with scorer() as (url, _):
        words = [command(path), f"configs/{path.name}", *given(world, path.stem), f"run.dir={run}"]
        if path.stem == "vlaa":
            words.append(f"rewards.0.fn.scorer.endpoint.url={url}")
        launch(*words, "run.steps=2", "run.save_every=1", child=child)
        check_run(run, 2)
        launch(*words, "run.steps=3", "run.save_every=1", "run.resume=true")
        check_run(run, 3)
    check_export(run / "hf")


def test_fine_tuning_then_grpo_from_its_export(world, tmp_path):
    """VLAA's two stages on the small model that answers in blocks: its open questions reach the
    scorer, with the gold as reference."""
    quick = ["data.prompt_buckets=512", *SMALL[1:], *ONE]
    sft = ["sft", "configs/vlaa_sft.py", f"model.path={BASE}", *quick, "sft.rows=1"]
    sft += ["sft.micro_batches=1", "sft.target_length=128", "optim.lr=2e-3"]
    data = f"data.source.path={world('vlaa')}"
    launch(*sft, data, "run.steps=90", f"run.dir={tmp_path / 'sft'}")
    with scorer() as (url, asked):
        grpo = ["grpo", "configs/vlaa.py", f"model.path={tmp_path / 'sft/hf'}", *quick, data]
        grpo += ["grpo.prompts=9", "grpo.group=2", "grpo.micro_batches=1", "grpo.mini_batches=3"]
        grpo += [
            "sampling.max_new_tokens=64",
            "sampling.temperature=0.3",
            "run.steps=2",
            f"run.dir={tmp_path / 'grpo'}",
        ]
        launch(*grpo, f"rewards.0.fn.scorer.endpoint.url={url}")
    check_run(tmp_path / "grpo", 2)
    assert {"question", "answer", "images"} <= set(asked[0])


def test_visualthinkers_two_stages(world, tmp_path):
    """Fine-tuned, then trained from what that has made, named by the directory of its run."""
    sat = f"data.source.path={world('sat')}"
    words = ["sft", "configs/visualthinker_sft.py", *given(world, "visualthinker_sft")]
    launch(*words, "run.steps=2", f"run.dir={tmp_path / 'sft'}")
    grpo = ["grpo", "configs/visualthinker.py", f"model.path={tmp_path / 'sft'}", sat]
    grpo += [*LAUNCHES["visualthinker"][2], "data.template.base=true"]
    launch(*grpo, "run.steps=2", f"run.dir={tmp_path / 'grpo'}")
    check_run(tmp_path / "grpo", 2)
    check_export(tmp_path / "grpo/hf")


def test_decoding_on_another_mesh_in_eight_bits(tmp_path):
    run, words = tmp_path / "run", [*GRPO, *QUICK, "eval=none", "run.steps=2"]
    apart = ["mesh.fsdp=2", "sampling.tensor=2", "sampling.weights=int8"]
    apart += ["sampling.cache=int8", "grpo.importance_sampling_cap=2"]
    launch("grpo", "configs/quickstart.py", *words, *apart, f"run.dir={run}")
    check_run(run, 2)
    check_export(run / "hf")
    assert all(line["sampling/importance_sampling_ratio/mean"] > 0 for line in read_metrics(run))


def test_what_a_step_costs_the_host(capsys):
    launch("plan", "configs/vlaa.py", "--host", "--json")
    found = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert found["parts"] and found["patch_bytes"] > 0
    assert all(part["a_step"] > 0 for part in found["parts"])


def test_the_quickstart_of_an_installation(tmp_path):
    """Without a checkout's folder, and beside the run that is there already."""
    (tmp_path / "runs/quickstart").mkdir(parents=True)
    launch("quickstart", *GRPO, *QUICK, "eval=none", "run.steps=2", folder=tmp_path)
    lines = read_metrics(tmp_path / "runs/quickstart-2")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    check_export(tmp_path / "runs/quickstart-2/hf")


def test_a_config_that_init_writes(world, tmp_path):
    written, run = tmp_path / "mine.py", tmp_path / "run"
    options = [f"--data={world('jsonl')}", f"--model={BASE}", "--memory=80", "--devices=1"]
    launch("init", written, *options)
    launch("grpo", written, *GRPO, "run.steps=2", f"run.dir={run}")
    check_run(run, 2)


@contextlib.contextmanager
def watched(folder):
    """`jaxvl watch` of a folder: what its page is sent of the first run, again and again."""
    words = [sys.executable, "-m", "jaxvl", "watch", folder]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)
    address = server.stdout.readline().split(" at ")[1].split()[0]
    seen, ended = [], threading.Event()

    def look():
        last = False
        while not last:
            last = ended.wait(0.2)  # once more when the run has ended
            with urllib.request.urlopen(f"{address}data") as answer:
                seen.extend(json.load(answer)["runs"][:1])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=20)
        assert server.returncode == 0


def write_vlm_r1(folder, questions):
    """The questions in the form that VLM-R1's scripts read."""
    file = folder / "rec.jsonl"
    with file.open("w") as out:
        for row in map(json.loads, questions.read_text().splitlines()):
            asked = {"from": "human", "value": f"<image>{row['question']}"}
            turns = [asked, {"from": "gpt", "value": row["answer"]}]
            out.write(json.dumps({"image": row["image"], "conversations": turns}) + "\n")
    return file


def test_converted_examples_of_easyr1_and_vlm_r1_are_launched(world, tmp_path):
    """As they are published, but for model, data and sizes; of these those of TRL's launch."""
    questions = world("jsonl")
    small = [f"model.path={BASE}", *GRPO, *ONE, "run.steps=2", "data.workers=0"]
    easy, config = tmp_path / "config.yaml", tmp_path / "easy.py"
    easy.write_text(yaml.safe_dump(EASY_R1))
    words = "python3 -m verl.trainer.main config=config.yaml data.prompt_key=question"
    words += f" data.image_key=image data.train_files={questions}"
    launch("convert-config", easy, "--from-args", words, "--out", config)
    pixels = ["model.min_pixels=none", "model.max_pixels=none"]
    sizes = ["grpo.group_per_row=0", "grpo.mini_batches=2", *pixels]
    launch("grpo", config, *small, *sizes, f"run.dir={tmp_path / 'easy'}")
    check_run(tmp_path / "easy", 2)

    data, config = write_vlm_r1(tmp_path, questions), tmp_path / "vlm_r1.py"
    words = VLM_R1.replace("a.jsonl:b.jsonl", str(data)).replace("coco:coco", str(questions.parent))
    launch("convert-config", "--from-args", words, "--out", config)
    launch("grpo", config, *small, f"run.dir={tmp_path / 'vlm_r1'}")
    check_run(tmp_path / "vlm_r1", 2)


def test_a_converted_script_of_trl_is_launched_and_watched(world, tmp_path):
    written, run = tmp_path / "converted.py", tmp_path / "runs/trl"
    run.parent.mkdir()
    words = f"accelerate launch --num_processes 1 grpo_vlm.py --model_name_or_path {BASE}"
    words += f" --dataset_name {world('jsonl')} --output_dir {run} --max_steps 2"
    words += " --per_device_train_batch_size 4 --num_generations 2 --max_completion_length 8"
    launch("convert-config", "--from-args", words, "--out", written)
    with watched(run.parent) as seen:
        launch("grpo", written)
    check_run(run, 2)
    assert not seen[0]["finished"] and seen[-1]["finished"] and seen[-1]["last"] == 2
