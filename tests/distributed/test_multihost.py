# SPDX-License-Identifier: Apache-2.0
"""Several processes are one run: how they are told of each other, what they say, how they end."""

import dataclasses
import json
import threading
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxvl import config
from jaxvl.checkpoints.folders import COMMITTED
from jaxvl.checkpoints.store import Checkpoints
from jaxvl.distributed import multihost
from jaxvl.errors import TrainingFailed, UserError
from jaxvl.observe.metrics import read_metrics
from jaxvl.rewards.mix import Scores
from jaxvl.rl.learner import TrainState
from jaxvl.train import grpo, rollouts, setup
from scripts.check_processes import CLOCK, ROOT, SMALL, difference, launch, prompts

# Rewards are cheap and differ within a group; that of process 1 fails in step 3.
CONFIG = """
import dataclasses, os, runpy
from jaxvl.config import Reward
quickstart = runpy.run_path({path!r})
def config():
    return dataclasses.replace(quickstart["config"](), rewards=(Reward(odd),), eval=None)
def odd(completion_ids, trainer_state, log_metric, **columns):
    if trainer_state.global_step == 3 and os.environ.get("JAX_PROCESS_ID") == "1":
        raise ValueError("no more rewards")
    for ids in completion_ids:
        log_metric("first", ids[0])
    return [float(sum(ids) % 2) for ids in completion_ids]
"""
# Without a reference there is a program less to compile; the check of processes has one.
STEPS = ["run.steps=3", "run.save_every=9", "sampling.max_new_tokens=4", "grpo.beta=0"]
CLOSE = 1e-5  # float32 sums over two devices; three updates of 1e-4 do not let that grow


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "odd.py"
    file.write_text(CONFIG.format(path=str(ROOT / "configs/quickstart.py")))
    return file


def here(config_file, run_dir, *overrides):
    """The run on this process alone."""
    grpo.train(config.load(config_file, [*SMALL, *STEPS, f"run.dir={run_dir}", *overrides]))


def test_two_processes_are_one_run(config_file, tmp_path, monkeypatch):
    """Two processes make the steps of one; when one fails both end and say why; and one goes on
    from their checkpoint as if it had always been alone."""
    cache = str(jax.config.jax_compilation_cache_dir or "")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", cache)
    alone, both = tmp_path / "alone", tmp_path / "both"
    job = launch(2, both, [*STEPS, "mesh.data=-1"], str(config_file))
    try:
        codes = job.wait(900)  # generous: the machine may be busy
    finally:
        job.kill()
    logs = [log.read_text() for log in job.logs]
    assert codes == [2, 2], logs  # a reward that raises is a mistake of the user's
    for log in logs:
        assert "step 3: process 1: reward `odd` raised ValueError: no more rewards" in log
        assert "the state after step 2 is saved" in log and "Traceback" not in log

    here(config_file, alone)
    lines, expected = read_metrics(both), read_metrics(alone)
    assert [line["step"] for line in lines] == [1, 2]
    for line, other in zip(lines, expected, strict=False):
        names = {name for name in other if not name.startswith(CLOCK)}
        assert names <= set(line)
        for name in names:
            assert line[name] == pytest.approx(other[name], abs=CLOSE, rel=CLOSE), name
    assert lines[0]["num_tokens"] == expected[0]["num_tokens"] > 0
    for step in (1, 2):
        assert prompts(both, step) == prompts(alone, step)
    files = sorted(path.name for path in (both / "rollouts").glob("*.jsonl"))
    assert files[:4] == ["step_1.1.jsonl", "step_1.jsonl", "step_2.1.jsonl", "step_2.jsonl"]
    first = (both / "rollouts/step_1.1.jsonl").read_text().splitlines()[0]
    assert len(json.loads(first)["completions"]) == 4

    here(config_file, both, "run.resume=true")
    gap, where = difference(both, alone)
    assert gap < CLOSE, where
    assert all(prompts(both, step) == prompts(alone, step) for step in (1, 2, 3))


def test_variables_that_name_the_processes(monkeypatch):
    for name in (multihost.ADDRESS, multihost.COUNT, multihost.INDEX):
        monkeypatch.delenv(name, raising=False)
    assert multihost._explicit() == {}
    monkeypatch.setenv(multihost.COUNT, "4")
    with pytest.raises(UserError, match=r"JAX_COORDINATOR_ADDRESS=\(not set\), JAX_NUM_PROC.*=4"):
        multihost._explicit()
    monkeypatch.setenv(multihost.ADDRESS, "host:1234")
    monkeypatch.setenv(multihost.INDEX, "4")
    with pytest.raises(UserError, match="the number of this one, from 0"):
        multihost._explicit()
    monkeypatch.setenv(multihost.INDEX, "3")
    found = multihost._explicit()
    assert found["coordinator_address"] == "host:1234"
    assert (found["num_processes"], found["process_id"]) == (4, 3)


@pytest.mark.parametrize(
    ("tasks", "platforms", "expected"),
    [(None, "cpu", False), ("1", "cpu", False), ("8", "cpu", True), (None, "tpu,cpu", True)],
)
def test_where_jax_finds_the_processes_itself(monkeypatch, tasks, platforms, expected):
    """A SLURM step of one task is one process: jax would hide all GPUs but one from it."""
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    if tasks:
        monkeypatch.setenv("SLURM_NTASKS", tasks)
        monkeypatch.setenv("SLURM_PROCID", "0")
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platforms)
    try:
        assert multihost._in_cluster() == expected
    finally:
        jax.config.update("jax_platforms", before)


def test_reward_workers_start_before_jax_meets_the_others(monkeypatch, tmp_path):
    """And both before a device is touched: workers must not inherit what jax has opened."""
    order = []
    monkeypatch.setattr(grpo.pool, "start", lambda limits: order.append("workers"))
    monkeypatch.setattr(grpo.multihost, "start", lambda: order.append("processes"))

    def devices(cfg):
        order.append("devices")
        raise UserError("enough")

    monkeypatch.setattr(grpo, "init_run", devices)
    with pytest.raises(UserError, match="enough"):
        grpo.train(config.load(ROOT / "configs/quickstart.py", [f"run.dir={tmp_path}"]))
    assert order == ["workers", "processes", "devices"]


def test_an_error_of_a_run_of_one_process_is_raised():
    with pytest.raises(UserError, match="as it is"), multihost.abort_all_on_error():
        raise UserError("as it is")
    assert multihost.all_gather_object({"a": (1, 2)}) == [{"a": (1, 2)}]


@dataclasses.dataclass
class Shares:
    """Shares of the rows of which this one is number `index`, and the others say `said`."""

    index: int
    said: list

    def all_gather_object(self, value):
        self.said[self.index] = json.loads(json.dumps(value))
        return self.said


def results(total_N, logged):
    total_N = np.array(total_N, np.float32)
    values_NK = np.stack([total_N, np.full_like(total_N, np.nan)], axis=1)
    scores = Scores(("one", "none"), values_NK, total_N, logged, {"note": ["x"] * len(total_N)})
    checks = {"right": np.array([1.0, np.nan]), "valid": np.array([True, False])}
    lengths_N = np.arange(len(total_N)) + 3
    return rollouts.Results(scores, checks, lengths_N, np.array([True, False]))


def test_numbers_of_all_processes_are_joined():
    said = [None]
    rollouts.allgather_results(results([0.1, np.nan], {"seen": [1.0, 2.0]}), Shares(0, said))
    said.append(None)
    whole = rollouts.allgather_results(results([0.5, 1.0], {"late": [4.0]}), Shares(1, said))
    expected = np.array([0.1, np.nan, 0.5, 1.0], np.float32)
    np.testing.assert_array_equal(whole.scores.total_N, expected)
    np.testing.assert_array_equal(whole.scores.values_NK[:, 0], expected)
    assert np.isnan(whole.scores.values_NK[:, 1]).all()
    np.testing.assert_array_equal(whole.scores.masked_N, [False, True, False, False])
    assert whole.scores.metrics == {"seen": 1.5, "late": 4.0}
    np.testing.assert_array_equal(whole.checks["right"], [1, np.nan, 1, np.nan])
    np.testing.assert_array_equal(whole.lengths_N, [3, 4, 3, 4])
    assert whole.finished_N.dtype == bool


def test_processes_with_the_same_rows_take_the_rewards_of_one(monkeypatch):
    """A judge or a clock may have made theirs differ: the lead's count."""
    lead, own = (results(total_N, {}).scores for total_N in ([0.0, 1.0], [1.0, 1.0]))
    said = [[lead.values_NK.tolist(), lead.total_N.tolist()]]
    share = types.SimpleNamespace(index=0, count=1, all_gather_object=lambda value: said)
    assert rollouts.broadcast_scores(own, share) is own  # there is no other process
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    broadcast_scores = rollouts.broadcast_scores(own, share)
    np.testing.assert_array_equal(broadcast_scores.total_N, lead.total_N)
    np.testing.assert_array_equal(broadcast_scores.values_NK, lead.values_NK)
    assert broadcast_scores.extra == own.extra


def of_step(error):
    """It, as it comes out of a step."""
    failed = TrainingFailed(f"step 3: {error}; newer work than the last is not saved")
    failed.__cause__ = error
    return failed


LOST = ValueError("UNKNOWN: Gloo AllGather failed: Read error")


@pytest.mark.parametrize("error", [LOST, of_step(LOST)], ids=["as it comes", "of a step"])
@pytest.mark.parametrize("told", ["process 1 of 2 failed: no more rewards", ""])
def test_a_lost_connection_is_explained(monkeypatch, capsys, told, error):
    """By what another process has said, or by what it means that it has said nothing."""
    state = types.SimpleNamespace(process_id=1, num_processes=2, client=types.SimpleNamespace())
    said = [("jaxvl/failed/1", '[1, "this is I"]')]
    said += [("jaxvl/failed/0", json.dumps([2, told]))] * bool(told)
    state.client.key_value_dir_get = lambda folder: said
    state.client.key_value_set = lambda key, value: said.append((key, value))
    monkeypatch.setattr(multihost.distributed, "global_state", state)
    monkeypatch.setattr(multihost, "_LAST_SECONDS", 0.1)
    monkeypatch.setattr(multihost, "_LOOK_SECONDS", 0.01)

    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(multihost.os, "_exit", leave)
    with pytest.raises(SystemExit, match="2" if told else "1"):
        multihost._fail(error)
    error = capsys.readouterr().err
    assert error.startswith("error: process 1 of 2 lost another one, which failed or was killed: ")
    assert error.endswith(f"error: {told}\n") == bool(told) and "Traceback" not in error
    assert len(said) == 2


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (jax.errors.JaxRuntimeError("UNAVAILABLE: Connection reset by peer"), True),
        (ValueError("UNKNOWN: Gloo AllGather failed: Read error"), True),
        (ConnectionError("Connection refused"), False),
        (UserError("Gloo is a word"), False),
        (of_step(jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed")), True),
        (of_step(OSError("Connection refused")), False),
        (jax.errors.JaxRuntimeError("INTERNAL: out of memory"), False),
    ],
)
def test_an_error_of_ones_own_is_not_laid_at_anothers_door(error, lost):
    assert multihost._is_lost(error) == lost


def test_processes_that_differ_are_told_in_what(monkeypatch):
    """By the name of the field, where it is; and what an address in memory makes differ does not
    count."""
    cfg = config.load(ROOT / "configs/quickstart.py")
    other = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, lr=1e-2))
    one, two = setup._fields(cfg), setup._fields(other)
    assert not any("0x" in value for value in one.values())
    monkeypatch.setattr(multihost, "all_gather_object", lambda value: [one, one, two])
    message = r"processes 0 and 2 differ in optim\.lr: '.*' and '0\.01'"
    with pytest.raises(UserError, match=message):
        multihost.assert_equal_across_processes(two)
    monkeypatch.setattr(multihost, "all_gather_object", lambda value: [one, one])
    multihost.assert_equal_across_processes(one)


def test_a_directory_that_is_not_shared(monkeypatch, tmp_path):
    """What lies there of an old run proves nothing; what comes late is waited for."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(multihost, "all_gather_object", lambda value: ["a word", value])
    monkeypatch.setattr(setup, "SHARED_SECONDS", 0.5)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / ".shared").write_text("another word")
    with pytest.raises(UserError, match="process 1 does not see"):
        setup.check_shared(tmp_path)
    threading.Timer(0.2, (tmp_path / ".shared").write_text, ["a word"]).start()
    setup.check_shared(tmp_path)


def test_a_write_that_fails_in_the_background_ends_all(monkeypatch, tmp_path):
    """Orbax waits for checkpoints in a method that ours stands in for."""
    checkpoints, failed = Checkpoints(tmp_path, keep=1), []
    assert "_wait_for_checkpointers" in vars(ocp.CheckpointManager)

    def wait(self):
        raise OSError("Read-only file system")

    def fail(error):
        failed.append(error)
        raise SystemExit(1)

    monkeypatch.setattr(ocp.CheckpointManager, "_wait_for_checkpointers", wait)
    monkeypatch.setattr(multihost.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        multihost.distributed, "global_state", types.SimpleNamespace(num_processes=2)
    )
    monkeypatch.setattr(multihost, "_fail", fail)
    with pytest.raises(SystemExit):
        checkpoints.manager._wait_for_checkpointers()
    assert isinstance(failed[0], OSError)


def test_a_cluster_that_cannot_be_asked_is_a_message(monkeypatch):
    """And where jax is at work already, on a TPU machine, a notebook trains alone."""
    for name in (multihost.ADDRESS, multihost.COUNT, multihost.INDEX):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(multihost, "_in_cluster", lambda: True)
    multihost.start()  # this process has used its devices
    assert not jax.distributed.is_initialized()
    monkeypatch.setenv(multihost.COUNT, "2")
    monkeypatch.setenv(multihost.INDEX, "0")
    monkeypatch.setenv(multihost.ADDRESS, "localhost:1234")
    with pytest.raises(UserError, match="devices in its hands already"):
        multihost.start()
    monkeypatch.delenv(multihost.COUNT)
    monkeypatch.delenv(multihost.INDEX)
    monkeypatch.setattr(multihost.xla_bridge, "backends_are_initialized", lambda: False)

    def refuse(**how):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(UserError, match="cannot be found.*JAX_NUM_PROCESSES and JAX_PROCESS_ID"):
        multihost.start()


def test_a_checkpoint_that_was_cut_short_does_not_count(tmp_path):
    """As where a bucket's file system had renamed half of it: the last whole one is the newest."""
    state = TrainState(np.int32(0), {"w": np.ones(3, np.float32)}, ())
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2):
        checkpoints.save(step, state, {"at": step})
    checkpoints.close()
    assert Checkpoints.newest(tmp_path).name == "2"
    (tmp_path / "checkpoints/2" / COMMITTED).unlink()
    assert Checkpoints.newest(tmp_path).name == "1"
    again = Checkpoints(tmp_path, keep=3)
    assert again.latest() == 1
    again.save(2, state, {"at": 2})
    again.close()
    assert Checkpoints.newest(tmp_path).name == "2"
