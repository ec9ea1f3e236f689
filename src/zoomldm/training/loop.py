"""One training loop for every stage; the same command run again resumes it, bit for bit."""

import json
import math
import os
import platform
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from zoomldm.errors import ConfigError, ZoomLDMError
from zoomldm.files import atomic_folder, claim
from zoomldm.networks.precision import fast_bfloat16, warn_if_slow
from zoomldm.pipeline import pick_device
from zoomldm.training.batches import Batches
from zoomldm.training.checkpoints import (
    flatten,
    flatten_optimizer,
    latest_checkpoint,
    load_checkpoint,
    restore,
    restore_optimizer,
    save_checkpoint,
)
from zoomldm.training.compiling import compile_modules, give_up
from zoomldm.training.config import FREE, TrainConfig, rate_at
from zoomldm.training.ema import EMA
from zoomldm.training.recompute import recompute
from zoomldm.training.run_log import RunLog, RunningMeans
from zoomldm.training.stage import Stage
from zoomldm.training.validation import Best
from zoomldm.verbs import Progress, silent


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, machine and thread count, on which bit-identity depends."""
    cuda = device.type == "cuda"
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "machine": torch.cuda.get_device_name(device)
        if cuda
        else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


class _Stop:
    """Whether to stop after this step: time is up in any process, or a signal came."""

    def __init__(self, accelerator: Accelerator, minutes: float | None) -> None:
        self.accelerator = accelerator
        self.deadline = time.monotonic() + minutes * 60 if minutes else math.inf
        self.signal = 0

    def now(self) -> bool:
        stop = bool(self.signal) or time.monotonic() >= self.deadline
        if self.accelerator.num_processes == 1:
            return stop
        flag = torch.tensor([int(stop)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item())  # type: ignore[union-attr]

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.default_int_handler)  # a second one stops at once

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the run at a checkpoint."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Gradients:
    """Accumulates the gradients of a step's batches; compiles what the settings ask for."""

    def __init__(
        self,
        accelerator: Accelerator,
        stage: Stage,
        module: Any,
        low: torch.autocast,
        config: TrainConfig,
    ) -> None:
        self.accelerator, self.module, self.low = accelerator, module, low
        self.parts = config.accumulate
        # Whether these can be compiled here is only known once they have run.
        self.untried = stage.compilable() if getattr(config, "compile", False) else []
        compile_modules(self.untried)

    def add(self, batch: dict[str, Tensor], part: int) -> dict[str, Tensor]:
        """Return losses of the `part`-th batch of a step and add its gradients."""
        device = self.accelerator.device
        batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
        if not self.untried:
            return self._add(batch, part)
        untried, self.untried = self.untried, []
        try:
            return self._add(batch, part)
        except Exception as error:  # whatever compilers and their back ends raise
            give_up(untried, error)
            self.module.zero_grad(set_to_none=True)
            return self._add(batch, part)

    def _add(self, batch: dict[str, Tensor], part: int) -> dict[str, Tensor]:
        last = part == self.parts - 1
        # Processes exchange gradients once a step.
        with nullcontext() if last else self.accelerator.no_sync(self.module):
            with self.low:
                losses = self.module(batch)
            self.accelerator.backward(losses["loss"] / self.parts)
        return losses


def train(
    stage: Stage,
    config: TrainConfig,
    run: Path,
    *,
    extra: dict[str, Any] | None = None,
    minutes: float | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> Path:
    """Train until `config.steps`, resuming from the newest checkpoint in `run`.

    Args:
        stage: networks, data and loss.
        config: settings; a run can be continued only with the same ones, except `steps`, the
            intervals, `threads`, `checkpointing` and `ema_device`.
            With other `steps` the rate follows the new schedule from there.
        run: existing folder of the run; holds `checkpoints/`, `log.jsonl`, `tensorboard/`,
            `pictures/` and, at the end, `networks/` with the averaged weights.
        extra: settings of the stage, recorded and compared in the same way.
        minutes: stop with a checkpoint after this time; the same command resumes.
        device: see `pick_device`.
        progress: called as steps are done; messages go to the log as well.

    Returns:
        The folder `run/networks`.

    Raises:
        ConfigError: the settings differ from those that the run began with.
        TargetError: another process trains in `run`, or it can't be written.
        ZoomLDMError: the loss is no longer a finite number.
        KeyboardInterrupt: on SIGINT, after a checkpoint.
        SystemExit: on SIGTERM, after a checkpoint.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    accelerator = Accelerator(
        cpu=pick_device(device).type == "cpu",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=stage.sparse)],
    )
    if accelerator.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    config = _with_precision(config, run, accelerator.device.type)
    hold = claim(run / "log.jsonl") if accelerator.is_main_process else nullcontext()
    stop = _Stop(accelerator, minutes)
    with hold, stop.listening():
        _train(stage, config, run, accelerator, stop, extra or {}, progress)
    if stop.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if stop.signal:
        raise SystemExit(128 + stop.signal)
    return run / "networks"


def _with_precision(config: TrainConfig, run: Path, device: str) -> TrainConfig:
    """Settings with bfloat16 decided: as the run began, or whichever is faster here."""
    if config.bf16:
        warn_if_slow(device)
    if config.bf16 is not None:
        return config
    folder = latest_checkpoint(run / "checkpoints")
    began = None if folder is None else load_checkpoint(folder)[1]["config"].get("bf16", True)
    return config.model_copy(update={"bf16": fast_bfloat16(device) if began is None else began})


def _train(
    stage: Stage,
    config: TrainConfig,
    run: Path,
    accelerator: Accelerator,
    stop: _Stop,
    extra: dict[str, Any],
    progress: Progress,
) -> None:
    device, main = accelerator.device, accelerator.is_main_process
    if config.validate_every and not stage.can_validate():
        raise ConfigError(
            f"validate_every: the stage {stage.name} validates on held-out cases alone; name some "
            "with --holdout, or leave it out"
        )
    stage.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    networks = stage.networks()
    average = EMA(networks, config.ema)
    parameters = [p for n in networks.values() for p in n.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, config.learning_rate, weight_decay=config.weight_decay
    )
    # Every checkpoint holds the fixed settings, so that a resumed run can be compared.
    settings = {"config": config.model_dump(), "extra": extra, "environment": environment(device)}
    start = step = _resume(run, networks, average, optimizer, settings, type(config))
    if getattr(config, "checkpointing", False):
        recompute(stage.blocks())
    module, optimizer = accelerator.prepare(stage, optimizer)
    average.to("cpu" if config.ema_device == "cpu" else device)
    low = torch.autocast(device.type, torch.bfloat16, enabled=bool(config.bf16))
    gradients = _Gradients(accelerator, stage, module, low, config)
    log = RunLog(run, config.steps, start) if main else None
    means, saved, best = RunningMeans(), start, Best(run)
    batches = Batches(stage, config, accelerator.process_index, ahead=device.type == "cuda")

    def save() -> int:
        tensors = {
            "networks": flatten(networks),
            "ema": flatten(average.networks),
            "optimizer": flatten_optimizer(optimizer),  # type: ignore[arg-type]
        }
        save_checkpoint(run / "checkpoints", step, tensors, {"step": step, **settings})
        return step

    stage.train()
    while step < config.steps and not stop.now():
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, config)
        optimizer.zero_grad(set_to_none=True)
        for part in range(config.accumulate):
            means.add(gradients.add(batches.at(step, part), part))
        norm = accelerator.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        average.update(networks, step)
        step += 1
        means.add({"norm": norm})
        last = step == config.steps
        if last or step % config.log_every == 0 or step % config.save_every == 0:
            _check_finite(run, step, norm)
        if log is None:
            continue
        if last or step % config.log_every == 0:
            log.losses(step, {**means.take(), "learning_rate": rate_at(step - 1, config)})
            progress("steps", step, config.steps)
        if last or step % config.show_every == 0:
            # Shapes differ outside training steps; compiling each would cost more than it saves.
            eager = torch.compiler.set_stance("force_eager")
            with average.swapped(networks), torch.no_grad(), low, eager:
                log.held_out(step, stage.held_out())
                log.image(step, stage.images())
        if config.validate_every and (last or step % config.validate_every == 0):
            eager = torch.compiler.set_stance("force_eager")
            with average.swapped(networks), torch.no_grad(), low, eager:
                found = stage.validate()
                log.validation(step, found)
                best.offer(step, found, stage.save)
        if last or step % config.save_every == 0:
            saved = save()
    if log is None:
        return
    if saved != step:
        save()
    with average.swapped(networks), torch.no_grad():
        _save_networks(stage, run)
    log.close()


def _check_finite(run: Path, step: int, norm: Any) -> None:
    if not math.isfinite(float(norm)):
        raise ZoomLDMError(
            f"{run}: gradients are not finite at step {step}; lower learning_rate or set bf16=false"
            " in a new run (checkpoints up to here are sound)"
        )


def _save_networks(stage: Stage, run: Path) -> None:
    """Write `run/networks` beside the old folder, then swap the two."""
    with atomic_folder(run / "networks") as fresh:
        stage.save(fresh)


def _resume(
    run: Path,
    networks: dict[str, nn.Module],
    average: EMA,
    optimizer: torch.optim.Optimizer,
    settings: dict[str, Any],
    kind: type[TrainConfig],
) -> int:
    """Restore the newest checkpoint and return its step; 0 if there is none."""
    folder = latest_checkpoint(run / "checkpoints")
    if folder is None:
        return 0
    tensors, state = load_checkpoint(folder)
    now = json.loads(json.dumps(settings))
    for part in ("config", "extra"):
        unset = {k: f.default for k, f in kind.model_fields.items()} if part == "config" else {}
        # Older runs have settings of all stages: those without meaning for this one are ignored.
        begun = state[part] if part == "extra" else state[part].keys() & unset.keys()
        for key in {**now[part], **dict.fromkeys(begun)}:
            before, value = (have.get(key, unset.get(key)) for have in (state[part], now[part]))
            if key not in FREE and before != value:
                raise ConfigError(
                    f"{run}: began with {key} = {before!r}, now {value!r}; "
                    "give the same value, or another -o for a new run"
                )
    here = now["environment"]
    changed = [
        f"{k} {v} -> {here[k]}"
        for k, v in state["environment"].items()
        if k in here and here[k] != v
    ]
    if changed:
        warnings.warn(f"{run}: continued under {', '.join(changed)}: bits may differ", stacklevel=4)
    restore(networks, tensors["networks"])
    restore(average.networks, tensors["ema"])
    restore_optimizer(optimizer, tensors["optimizer"])
    return int(state["step"])
