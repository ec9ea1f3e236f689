"""The loop: resumed runs equal uninterrupted ones, whatever happens to them."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from training.toy import ToyStage
from zoomldm.errors import ConfigError, TargetError, ZoomLDMError
from zoomldm.training.batches import Batches
from zoomldm.training.checkpoints import latest_checkpoint, load_checkpoint
from zoomldm.training.config import DiffusionConfig, TrainConfig
from zoomldm.training.loop import train

KILLS = int(os.environ.get("ZOOMLDM_KILLS", "4"))
FORK = multiprocessing.get_context("fork")


def config(kind: type[TrainConfig] = TrainConfig, **changes) -> TrainConfig:
    base = {
        "steps": 20,
        "batch_size": 4,
        "warmup": 3,
        "log_every": 5,
        "save_every": 5,
        "show_every": 10,
        "threads": 1,
        "bf16": False,
        "learning_rate": 1e-2,
    }
    return kind(**{**base, **changes})


def run_folder(path: Path) -> Path:
    path.mkdir()
    return path


def final(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint and of the networks given away."""
    folder = latest_checkpoint(run / "checkpoints")
    assert folder is not None
    tensors, _ = load_checkpoint(folder)
    flat = {f"{stem}/{k}": v for stem, part in tensors.items() for k, v in part.items()}
    for file in (run / "networks").glob("*.safetensors"):
        flat |= {f"given/{file.stem}/{k}": v for k, v in load_file(file).items()}
    return flat


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole")
    train(ToyStage(), config(), run)
    return run


class BrokenOffError(Exception):
    pass


class Failing(ToyStage):
    """Breaks off when a step is drawn."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    def batch(self, rng, size):
        if not self.left:
            raise BrokenOffError
        self.left -= 1
        return super().batch(rng, size)


@pytest.mark.parametrize("steps", [3, 10, 13])
def test_interrupted_run_equals_whole(whole: Path, tmp_path: Path, steps: int) -> None:
    with pytest.raises(BrokenOffError):
        train(Failing(steps), config(), tmp_path)
    # From a checkpoint on the first weights don't matter; before it they must be the same.
    train(ToyStage(seed=5 if steps >= 5 else 0), config(), tmp_path)
    assert same(final(tmp_path), final(whole))
    lines = [json.loads(x) for x in (tmp_path / "log.jsonl").read_text().splitlines()]
    expected = [json.loads(x) for x in (whole / "log.jsonl").read_text().splitlines()]
    assert lines == expected


def test_finished_run_stays(whole: Path) -> None:
    before = final(whole)
    train(ToyStage(seed=3), config(), whole)
    assert same(final(whole), before)


def _child(run: Path) -> None:
    torch.set_num_threads(1)
    stage = ToyStage()
    draw = stage.batch

    def slow(rng, size):
        time.sleep(0.002)
        return draw(rng, size)

    stage.batch = slow
    train(stage, config(steps=20 * KILLS, save_every=2), run)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    sure, killed = run_folder(tmp_path / "sure"), run_folder(tmp_path / "killed")
    _child(sure)
    rng = random.Random(0)
    for _ in range(KILLS):
        process = FORK.Process(target=_child, args=(killed,))
        process.start()
        time.sleep(rng.uniform(0.02, 0.4))
        process.kill()
        process.join()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # no folder under a final name is damaged
            latest_checkpoint(killed / "checkpoints")
    _child(killed)
    assert same(final(killed), final(sure))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves(tmp_path: Path, number: signal.Signals, whole: Path) -> None:
    stage = ToyStage()
    draw, count = stage.batch, [0]

    def batch(rng, size):
        count[0] += 1
        if count[0] == 8:
            os.kill(os.getpid(), number)
        return draw(rng, size)

    stage.batch = batch
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        train(stage, config(), tmp_path)
    folder = latest_checkpoint(tmp_path / "checkpoints")
    assert folder is not None
    assert folder.name == "step-00000008"
    train(ToyStage(), config(), tmp_path)
    assert same(final(tmp_path), final(whole))


def test_minutes_stop_and_go_on(tmp_path: Path, whole: Path) -> None:
    train(ToyStage(), config(), tmp_path, minutes=1e-9)
    assert (tmp_path / "networks").is_dir()
    train(ToyStage(), config(), tmp_path)
    assert same(final(tmp_path), final(whole))


@pytest.mark.parametrize("damage", ["flip", "cut", "manifest"])
def test_damaged_checkpoint_falls_back(tmp_path: Path, whole: Path, damage: str) -> None:
    train(ToyStage(), config(), tmp_path)
    newest = tmp_path / "checkpoints" / "step-00000020"
    file = newest / ("manifest.json" if damage == "manifest" else "ema.safetensors")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data[: len(data) // 2] if damage != "flip" else data)
    with pytest.warns(UserWarning, match="step-00000020.*an older checkpoint"):
        train(ToyStage(), config(), tmp_path)
    assert same(final(tmp_path), final(whole))


@pytest.mark.parametrize("change", [{"learning_rate": 1e-3}, {"seed": 2}, {"batch_size": 8}])
def test_other_settings_refused(whole: Path, change: dict) -> None:
    with pytest.raises(ConfigError, match=rf"began with {next(iter(change))} = .*another -o"):
        train(ToyStage(), config(**change), whole)


def test_a_run_of_before_with_settings_of_other_stages_goes_on(tmp_path: Path) -> None:
    train(ToyStage(), config(DiffusionConfig, steps=5), tmp_path)
    train(ToyStage(), config(steps=6), tmp_path)
    assert latest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints/step-00000006"


def test_other_extra_refused(whole: Path) -> None:
    with pytest.raises(ConfigError, match="began with held_out = None, now"):
        train(ToyStage(), config(), whole, extra={"held_out": ["B"]})


def test_other_environment_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(ToyStage(), config(steps=5), tmp_path)
    monkeypatch.setattr("platform.python_version", lambda: "9.9")
    with pytest.warns(UserWarning, match=r"python .* -> 9\.9: bits may differ"):
        train(ToyStage(), config(steps=6), tmp_path)


def test_two_runs_in_one_folder_refused(tmp_path: Path) -> None:
    class Nested(ToyStage):
        def batch(self, rng, size):
            train(ToyStage(), config(), tmp_path)
            raise AssertionError

    with pytest.raises(TargetError, match="another process"):
        train(Nested(), config(), tmp_path)


def test_infinite_loss_is_an_error_and_not_saved(tmp_path: Path) -> None:
    class Diverging(ToyStage):
        def forward(self, batch):
            return {"loss": super().forward(batch)["loss"] * float("inf")}

    with pytest.raises(ZoomLDMError, match="not finite at step 5"):
        train(Diverging(), config(), tmp_path)
    assert latest_checkpoint(tmp_path / "checkpoints") is None


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_compiled_learns_the_same(tmp_path: Path, whole: Path) -> None:
    class Compiled(ToyStage):
        def compilable(self):
            return list(self.networks().values())

    train(Compiled(), config(DiffusionConfig, compile=True), tmp_path)
    ours, theirs = final(tmp_path), final(whole)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


def test_average_of_statistics_and_weights(tmp_path: Path) -> None:
    stage = ToyStage()
    train(stage, config(ema=0.5), tmp_path)
    tensors, _ = load_checkpoint(tmp_path / "checkpoints" / "step-00000020")
    live, ema = tensors["networks"], tensors["ema"]
    assert not torch.equal(live["net.1.running_mean"], ema["net.1.running_mean"])
    assert torch.allclose(live["net.1.running_mean"], ema["net.1.running_mean"], atol=0.1)
    assert torch.equal(live["net.1.num_batches_tracked"], ema["net.1.num_batches_tracked"])
    # The stage is left with its live weights, training mode on.
    assert torch.equal(stage.net[0].weight, live["net.0.weight"])
    assert stage.net.training


def _worker(rank: int, port: int, run: Path, gate, parts: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    torch.set_num_threads(1)
    stage = Plain()
    train(stage, config(steps=4, save_every=2, accumulate=parts), run)
    gate.put((rank, {k: v.detach().numpy().copy() for k, v in stage.net.state_dict().items()}))
    torch.distributed.destroy_process_group()


class Plain(ToyStage):
    """Without statistics or branches, so that two processes equal one with both batches."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3))

    def batch(self, rng, size):
        return {**super().batch(rng, size), "rare": torch.tensor(0.0)}


class Whole(Plain):
    """What processes draw in the parts of a step, in one batch."""

    def __init__(self, processes: int, parts: int) -> None:
        super().__init__()
        last = [[]] if parts == 1 else [[part] for part in range(parts)]
        self.places = [[process, *part] for process in range(processes) for part in last]

    def batch(self, rng, size):
        seeds = rng.bit_generator.seed_seq.entropy[:2]
        generators = [np.random.default_rng([*seeds, *place]) for place in self.places]
        parts = [Plain.batch(self, generator, size)["x"] for generator in generators]
        return {"x": torch.cat(parts), "rare": torch.tensor(0.0)}


def test_accumulated_batches_are_one(tmp_path: Path) -> None:
    stage, one = Plain(), Whole(1, 3)
    train(stage, config(steps=4, accumulate=3), run_folder(tmp_path / "three"))
    train(one, config(steps=4), run_folder(tmp_path / "one"))
    for key, value in one.net.state_dict().items():
        torch.testing.assert_close(stage.net.state_dict()[key], value, rtol=1e-5, atol=1e-6)


def test_accumulating_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    whole, cut = run_folder(tmp_path / "whole"), run_folder(tmp_path / "cut")
    few = {"steps": 8, "accumulate": 2, "save_every": 3}
    train(ToyStage(), config(**few), whole)
    with pytest.raises(BrokenOffError):
        train(Failing(13), config(**few), cut)  # in the second half of the seventh step
    # Where averages lie is free, and changes no bit.
    train(ToyStage(seed=5), config(**few, ema_device="cpu"), cut)
    assert same(final(cut), final(whole))
    with pytest.raises(ConfigError, match="began with accumulate = 2, now 1"):
        train(ToyStage(), config(steps=8, save_every=3), cut)


def test_batches_drawn_ahead_are_the_same() -> None:
    few = config(accumulate=3)
    both = [Batches(ToyStage(), few, 0, ahead=ahead) for ahead in (False, True)]
    for step in range(2, 4):
        for part in range(3):
            one, other = (batches.at(step, part)["x"] for batches in both)
            assert torch.equal(one, other)


def test_what_cannot_be_compiled_runs_as_it_is(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Compiled(ToyStage):
        def compilable(self):
            return list(self.networks().values())

    def compiled(self, **_):
        def fails(*_, **__):
            raise RuntimeError("no C++ compiler found\nand much more")

        self._compiled_call_impl = fails

    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    with caplog.at_level("WARNING", "zoomldm"):
        train(Compiled(), config(DiffusionConfig, compile=True), tmp_path)
    (line,) = [r.getMessage() for r in caplog.records if "torch.compile" in r.getMessage()]
    assert "does not work here (no C++ compiler found); training goes on" in line
    assert same(final(tmp_path), final(whole))


@pytest.mark.parametrize("parts", [1, 2])
def test_two_processes_share_gradients(tmp_path: Path, parts: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = run_folder(tmp_path / "two")
    gate = FORK.Queue()
    workers = [FORK.Process(target=_worker, args=(r, port, run, gate, parts)) for r in (0, 1)]
    for worker in workers:
        worker.start()
    found = dict(gate.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    one = Whole(2, parts)
    train(one, config(steps=4), run_folder(tmp_path / "one"))
    for key, value in one.net.state_dict().items():
        assert np.array_equal(found[0][key], found[1][key])
        np.testing.assert_allclose(found[0][key], value.numpy(), atol=1e-6)
    state = load_checkpoint(run / "checkpoints" / "step-00000004")[1]
    assert state["environment"]["processes"] == 2
