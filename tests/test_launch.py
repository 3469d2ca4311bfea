# SPDX-License-Identifier: Apache-2.0
"""The launchers: what a dry run prints is right, and what they would run runs, beside fakes."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "scripts/launch"
LAUNCHERS = ("tpu_vm", "gke", "slurm", "skypilot")
ODD = """data.digests=it's "so" $HOME \\ end"""  # a value that has to be quoted
ARGS = ["configs/quickstart.py", "mesh.fsdp=-1", ODD]
SETTINGS = {
    "NAME": "mine",
    "ZONE": "us-central1-a",
    "TYPE": "v5litepod-16",
    "BUCKET": "bucket",
    "IMAGE": "registry/jaxvl",
    "ACCELERATOR": "tpu-v5-lite-podslice",
    "TOPOLOGY": "4x4",
    "HOSTS": "4",
    "NODES": "2",
}


def launch(name, *args, path="", settings=SETTINGS, cwd=ROOT):
    """With --yes, unless there is an option."""
    args = args if args and args[0].startswith("--") else ("--yes", *args)
    env = {"PATH": f"{path}:{os.environ['PATH']}", "HOME": str(cwd), **settings}
    command = ["bash", str(LAUNCH / f"{name}.sh"), *args]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


def dry(name, *args):
    done = launch(name, "--dry-run", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def fakes(tmp_path):
    """Programs that launchers and jobs call. `jaxvl` writes down its arguments and environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    note = (
        "import json, os, sys\n"
        'env = {name: value for name, value in os.environ.items() if "JAX_" in name}\n'
        'line = {"args": sys.argv[1:], "env": env}\n'
        f'print(json.dumps(line), file=open("{tmp_path}/calls", "a"))'
    )
    (tmp_path / "note.py").write_text(note)
    programs = {
        "jaxvl": f'{shutil.which("python3")} {tmp_path}/note.py "$@"\nexit "${{CODE:-0}}"',
        "scontrol": f"[ $1 = requeue ] && echo $2 >>{tmp_path}/queued || printf 'node1\\nnode2\\n'",
        "srun": 'shift; SLURM_NTASKS=2 SLURM_PROCID=1 exec "$@"',
        "sbatch": "SLURM_JOB_ID=7 SLURM_JOB_NODELIST=node[1-2] bash -s",
        "gcloud": 'for word; do [[ $word != --command=* ]] || bash -c "${word#--command=}"; done',
        "mountpoint": "exit 0",
        "setsid": 'exec "$@"',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    for venv in ("venv", ".venv"):
        (tmp_path / venv / "bin").mkdir(parents=True)
        (tmp_path / venv / "bin/activate").touch()
    return folder


def calls(tmp_path):
    return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]


def expected(run_dir, command="grpo"):
    return [command, *ARGS, f"run.dir={run_dir}", "run.resume=true"]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_dry_run_touches_nothing_and_says_what_it_would_do(name, tmp_path):
    """No program of a cloud is there: a call of one would be an error."""
    for verb in ("train", "logs", "stop"):
        shown = dry(name, verb, *(ARGS if verb == "train" else ()))
        assert "mine" in shown
    assert "configs/quickstart.py" in dry(name, "train", *ARGS)


@pytest.mark.parametrize(
    ("name", "args", "settings", "message"),
    [
        ("tpu_vm", ["train"], SETTINGS, "train needs a config"),
        ("tpu_vm", ["up"], {}, "set NAME, the name of the TPU"),
        ("gke", ["train", *ARGS], {"NAME": "x"}, "set IMAGE"),
        ("slurm", ["fly"], SETTINGS, "no verb fly"),
        ("slurm", ["train", *ARGS], {**SETTINGS, "COMMAND": "eval"}, "expected grpo or sft"),
        ("skypilot", ["train", *ARGS], {"NAME": "x"}, "set BUCKET"),
        ("slurm", ["train", "configs/none.py"], SETTINGS, "no config file at configs/none.py"),
        ("slurm", ["train", ARGS[0], "grop.group=2"], SETTINGS, "did you mean `grpo`"),
        ("slurm", ["train", *ARGS], {**SETTINGS, "COMMAND": "sft"}, "expected a SFTConfig"),
        ("slurm", ["train", *ARGS], {**SETTINGS, "NODES": "two"}, "NODES is two"),
        ("slurm", ["train", *ARGS], {**SETTINGS, "TIME": "soon"}, "TIME is soon"),
        ("skypilot", ["train", *ARGS], {**SETTINGS, "GPUS": "8"}, "GPUS is 8"),
        ("tpu_vm", ["up"], {**SETTINGS, "TYPE": "v5litepod-17"}, "TYPE is v5litepod-17"),
        ("tpu_vm", ["up"], {**SETTINGS, "TYPE": "v5p-12"}, "a multiple of 8 cores"),
        ("tpu_vm", ["up"], {**SETTINGS, "TYPE": "v4-08"}, "TYPE is v4-08"),
        ("gke", ["train", *ARGS], {**SETTINGS, "HOSTS": "3"}, "4x4 has 16 chips, HOSTS=3"),
        ("gke", ["train", *ARGS], {**SETTINGS, "TOPOLOGY": "large"}, "expected a shape"),
        ("gke", ["train", *ARGS], {**SETTINGS, "TOPOLOGY": "08x2"}, "expected a shape"),
        ("gke", ["train", *ARGS], {**SETTINGS, "ACCELERATOR": "H100"}, "ACCELERATOR is H100"),
    ],
)
def test_what_is_missing_is_named(name, args, settings, message):
    settings = {**settings, "VENV": sys.prefix}  # what reads the config, wherever it is installed
    done = launch(name, "--dry-run", *args, settings=settings)
    assert done.returncode == 2 and message in done.stderr


# Whatever a launcher may call.
CALLED = "docker gcloud git kubectl mkdir rm rsync sbatch scancel sky tail touch".split()
VERBS = [
    (name, verb)
    for name in LAUNCHERS
    for verb in ("up", "build", "train", "logs", "stop", "collect", "down")
    if f"{verb})" in (LAUNCH / f"{name}.sh").read_text()
]


@pytest.mark.parametrize(("name", "verb"), VERBS, ids="-".join)
def test_a_command_is_shown_and_called_only_when_told_to(name, verb, tmp_path):
    """Without --yes nothing is called, with it what was shown."""
    for program in CALLED:
        (tmp_path / program).write_text(f"#!/bin/bash\necho {program} >>{tmp_path}/called\n")
        (tmp_path / program).chmod(0o755)
    command = ["bash", str(LAUNCH / f"{name}.sh"), verb, *(ARGS if verb == "train" else ())]
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), **SETTINGS}
    env["VENV"] = "none"  # the config is read in other tests
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and not (tmp_path / "called").exists(), done.stderr
    assert f"nothing was done; to go on: {command[1]} --yes {verb}" in done.stderr
    shown = done.stdout
    told = [*command[:2], "--yes", *command[2:]]
    done = subprocess.run(told, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == shown, done.stderr
    words = [line.split()[1] for line in shown.splitlines() if line.startswith(("+ ", "|  "))]
    assert (tmp_path / "called").read_text().split() == words and words


@pytest.mark.parametrize("name", LAUNCHERS)
def test_help_needs_no_settings(name):
    done = launch(name, "help", settings={})
    assert done.returncode == 0 and f"scripts/launch/{name}.sh" in done.stdout
    assert "NAME" in done.stdout and "set -euo" not in done.stdout


def test_the_job_of_slurm_starts_every_process(fakes, tmp_path):
    done = launch("slurm", "train", *ARGS, path=fakes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (call,) = calls(tmp_path)
    assert call["args"] == expected("runs/mine")
    assert call["env"]["JAX_COORDINATOR_ADDRESS"] == "node1:20007"
    assert call["env"]["JAX_NUM_PROCESSES"] == "2" and call["env"]["JAX_PROCESS_ID"] == "1"
    assert "#SBATCH --nodes=2\n" in done.stdout


@pytest.mark.parametrize(
    ("codes", "queued"),
    [
        ((0,), [False]),
        ((2,), [False]),
        ((143, 143, 143, 143, 1), [True] * 5),
        ((1, 1, 1, 1), [True, True, True, False]),
        ((1, 1, 1, 143, 1), [True] * 5),
    ],
)
def test_what_slurm_queues_again(fakes, tmp_path, codes, queued):
    """What was asked to stop, always; what failed, three times in a row; never what is done or
    mistaken."""
    job = dry("slurm", "train", *ARGS).partition("#!/bin/bash")[2].partition("|  sbatch")[0]
    (tmp_path / "runs").mkdir()
    again = tmp_path / "queued"
    for code, expected in zip(codes, queued, strict=True):
        again.unlink(missing_ok=True)
        run_job(job, fakes, tmp_path, code)
        assert again.exists() == expected
    again.unlink(missing_ok=True)
    (tmp_path / "runs/mine.stop").touch()  # what `stop` leaves
    run_job(job, fakes, tmp_path, 143)
    assert not again.exists()


def run_job(job, fakes, tmp_path, code):
    env = {"PATH": f"{fakes}:{os.environ['PATH']}", "HOME": str(tmp_path), "CODE": str(code)}
    env |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]"}
    done = subprocess.run(["bash", "-c", job], cwd=tmp_path, env=env, timeout=60)
    assert done.returncode == (0 if (tmp_path / "queued").exists() else code)


def test_supervised_runs_are_launched_too():
    for name in LAUNCHERS:
        args = ("configs/quickstart_sft.py", *ARGS[1:])
        done = launch(name, "--dry-run", "train", *args, settings={**SETTINGS, "COMMAND": "sft"})
        assert done.returncode == 0 and "jaxvl sft" in done.stdout.replace("\\", "")


def test_the_command_of_a_tpu_vm_survives_two_shells(fakes, tmp_path):
    done = launch("tpu_vm", "train", *ARGS, path=fakes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pid = int((tmp_path / "jaxvl.pid").read_text())
    for _ in range(600):  # it runs on in the background
        if (tmp_path / "calls").exists() or not Path(f"/proc/{pid}").exists():
            break
        subprocess.run(["sleep", "0.1"], check=True)
    (call,) = calls(tmp_path)
    assert call["args"] == expected("shared/runs/mine")
    # A second start while one is under way is refused.
    (tmp_path / "jaxvl.pid").write_text(str(os.getpid()))
    done = launch("tpu_vm", "train", *ARGS, path=fakes, cwd=tmp_path)
    assert done.returncode == 2 and "a run is under way" in done.stderr
    assert len(calls(tmp_path)) == 1


def test_making_a_tpu_names_its_image():
    assert "--version=v2-alpha-tpuv5-lite" in dry("tpu_vm", "up")


def manifest_of(settings):
    shown = launch("gke", "--dry-run", "train", *ARGS, settings=settings).stdout
    return yaml.safe_load(shown.partition("\n")[2].split("|  kubectl")[0])


def test_spot_machines_of_gke():
    (job,) = manifest_of({**SETTINGS, "SPOT": "1"})["spec"]["replicatedJobs"]
    chosen = job["template"]["spec"]["template"]["spec"]["nodeSelector"]
    assert chosen["cloud.google.com/gke-spot"] == "true"  # a word: Kubernetes takes no other


def test_the_manifest_of_gke():
    manifest = manifest_of(SETTINGS)
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = manifest["spec"]["replicatedJobs"]
    assert job["replicas"] == 1
    assert job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"] == 4
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    disruption, stopped = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert disruption["onPodConditions"] == [{"type": "DisruptionTarget"}]
    assert stopped["onExitCodes"]["containerName"] == container["name"]
    assert stopped["onExitCodes"]["values"] == [143]
    shell, flag, command = container["command"]
    assert (shell, flag) == ("bash", "-c")
    assert shlex.split(command) == ["exec", "jaxvl", *expected("/shared/runs/mine")]
    assert "$(" not in command  # Kubernetes would fill it in
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_the_task_of_skypilot(fakes, tmp_path):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    shown = dry("skypilot", "train", *ARGS).split("+ ", 1)[1]
    words = shlex.split(shown)
    assert words[:2] == ["sky", "launch"] and words[-1] == "scripts/launch/skypilot.yaml"
    env = dict(word.split("=", 1) for word in words if word.startswith(("TRAIN=", "BUCKET=")))
    assert set(env) == set(task["envs"])
    nodes = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "a\nb"}
    done = subprocess.run(
        ["bash", "-c", task["run"]],
        env={**nodes, **env, "PATH": f"{fakes}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (call,) = calls(tmp_path)
    assert call["args"] == expected("/shared/runs/mine")
    assert call["env"]["JAX_COORDINATOR_ADDRESS"] == "a:23456"


def test_shellcheck_finds_nothing():
    here = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shellcheck = shutil.which("shellcheck", path=here)
    if not shellcheck:
        pytest.skip("shellcheck is not there (the test extra brings it)")
    files = [str(file) for file in LAUNCH.glob("*.sh")]
    done = subprocess.run(
        [shellcheck, "-x", *files], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout
