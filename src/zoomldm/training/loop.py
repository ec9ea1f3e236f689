"""One loop for every stage: run the same command again and it goes on, bit for bit."""

import copy
import json
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoomldm.errors import ConfigError
from zoomldm.training.checkpoints import (
    flatten_optimizer,
    latest_checkpoint,
    load_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from zoomldm.training.config import TrainConfig, rate_at
from zoomldm.training.progress import Progress


class Stage(nn.Module):
    """What is trained: networks as submodules, and how a batch becomes a loss.

    Everything random in a step is drawn in `batch`, from the generator it is given, so a step
    is a function of (weights, seed, step, process) and nothing needs storing to resume.
    """

    name = "stage"

    def networks(self) -> dict[str, nn.Module]:
        """Networks that are trained, averaged and saved, by name."""
        raise NotImplementedError

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Draw `size` training items and all noise that the step needs."""
        raise NotImplementedError

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loss under the key `loss`; other entries are logged as they are."""
        raise NotImplementedError

    def held_out(self) -> dict[str, float]:
        """Losses on what was kept out of training, with the averaged weights in place."""
        return {}

    def pictures(self) -> np.ndarray | None:
        """One picture (H, W, 3) uint8 that shows the state of the training, or None."""
        return None

    def save(self, folder: Path) -> None:
        """Write the trained networks in the form that a pipeline takes."""
        for name, network in self.networks().items():
            network.save_pretrained(folder / name)  # type: ignore[operator]


def environment() -> dict[str, Any]:
    """Versions and thread count, on which bit-identity depends."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


class _Average:
    """Exponential moving average of the networks' weights; other buffers are copied."""

    def __init__(self, networks: dict[str, nn.Module], decay: float) -> None:
        self.networks = {k: copy.deepcopy(v).requires_grad_(False) for k, v in networks.items()}
        self.decay = decay

    @torch.no_grad()
    def update(self, networks: dict[str, nn.Module], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, average in self.networks.items():
            source = networks[name].state_dict()
            for key, value in average.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(source[key].to(value.dtype), 1 - decay)
                else:
                    value.copy_(source[key])

    def swapped(self, networks: dict[str, nn.Module]) -> "_Swap":
        return _Swap(networks, self.networks)


class _Swap:
    """Averaged weights in place of the trained ones for the length of a block."""

    def __init__(self, live: dict[str, nn.Module], average: dict[str, nn.Module]) -> None:
        self.live, self.average = live, average

    def _exchange(self) -> None:
        for name, live in self.live.items():
            for a, b in zip(
                live.state_dict().values(), self.average[name].state_dict().values(), strict=True
            ):
                held = a.clone()
                a.copy_(b)
                b.copy_(held)

    def __enter__(self) -> None:
        with torch.no_grad():
            self._exchange()
        self.modes = {k: v.training for k, v in self.live.items()}
        for network in self.live.values():
            network.eval()

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            self._exchange()
        for name, network in self.live.items():
            network.train(self.modes[name])


def _flat(networks: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{n}.{k}": v for n, m in networks.items() for k, v in m.state_dict().items()}


def _unflatten(networks: dict[str, nn.Module], flat: dict[str, Tensor]) -> None:
    for name, network in networks.items():
        start = f"{name}."
        network.load_state_dict(
            {k.removeprefix(start): v for k, v in flat.items() if k.startswith(start)}
        )


def train(
    stage: Stage,
    config: TrainConfig,
    run: Path,
    *,
    extra: dict[str, Any] | None = None,
    minutes: float | None = None,
    quiet: bool = False,
) -> Path:
    """Train until `config.steps`, going on from the newest checkpoint in `run`.

    Args:
        stage: networks, data and loss.
        config: settings; a run that is continued with other ones than `steps` and the
            intervals refuses.
        run: existing folder of the run; holds `checkpoints/`, `log.jsonl`, `tensorboard/`,
            `pictures/` and, at the end, `networks/` with the averaged weights.
        extra: settings of the stage, recorded and compared in the same way.
        minutes: stop after so long, checkpointed; the same command goes on.
        quiet: no progress display.

    Returns:
        The folder `run/networks`.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if config.threads:
        torch.set_num_threads(config.threads)
    device = accelerator.device
    if device.type == "cpu":
        stage.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    networks = stage.networks()
    average = _Average(networks, config.ema)
    parameters = [p for n in networks.values() for p in n.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, config.learning_rate, weight_decay=config.weight_decay
    )
    start = _resume(run, stage, average, optimizer, config, extra or {})
    module, optimizer = accelerator.prepare(stage, optimizer)
    for network in average.networks.values():
        network.to(device)
    low = torch.autocast(device.type, torch.bfloat16, enabled=config.bf16)
    main = accelerator.is_main_process
    log = Progress(run, config.steps, start, quiet=quiet) if main else None
    deadline = time.monotonic() + minutes * 60 if minutes else float("inf")
    # The fixed settings travel with every checkpoint, so that a resumed run can be compared.
    settings = {"config": config.model_dump(), "extra": extra or {}, "environment": environment()}

    def save(step: int) -> None:
        save_checkpoint(
            run / "checkpoints",
            step,
            {
                "networks": _flat(networks),
                "ema": _flat(average.networks),
                "optimizer": flatten_optimizer(optimizer),
            },
            {"step": step, **settings},
        )

    step = start
    stage.train()
    while step < config.steps and time.monotonic() < deadline:
        rng = np.random.default_rng([config.seed, step, accelerator.process_index])
        batch = {k: v.to(device) for k, v in stage.batch(rng, config.batch_size).items()}
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, config)
        with low:
            losses = module(batch)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(losses["loss"])
        norm = accelerator.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        average.update(networks, step)
        step += 1
        if log and (step % config.log_every == 0 or step == config.steps):
            log.losses(step, {**losses, "norm": norm, "rate": rate_at(step - 1, config)})
        if main and step % config.show_every == 0:
            with average.swapped(networks), torch.no_grad(), low:
                log.held_out(step, stage.held_out())  # type: ignore[union-attr]
                log.picture(step, stage.pictures())  # type: ignore[union-attr]
        if main and (step % config.save_every == 0 or step == config.steps):
            save(step)
    if main:
        if step % config.save_every and step != config.steps:
            save(step)
        with average.swapped(networks), torch.no_grad():
            stage.save(run / "networks")
        log.close()  # type: ignore[union-attr]
    return run / "networks"


def _resume(
    run: Path,
    stage: Stage,
    average: _Average,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    extra: dict[str, Any],
) -> int:
    folder = latest_checkpoint(run / "checkpoints")
    if folder is None:
        return 0
    tensors, state = load_checkpoint(folder)
    free = {"steps", "log_every", "save_every", "show_every", "threads"}
    old = {k: v for k, v in state["config"].items() if k not in free}
    new = {k: v for k, v in config.model_dump().items() if k not in free}
    for key, before, now in [
        *((k, old.get(k), v) for k, v in new.items()),
        *((k, state["extra"].get(k), v) for k, v in json.loads(json.dumps(extra)).items()),
    ]:
        if before != now:
            raise ConfigError(
                f"{run}: began with {key} = {before!r}, now {now!r}; "
                "give the same value, or another -o for a new run"
            )
    here = environment()
    changed = [f"{k} {v} -> {here[k]}" for k, v in state["environment"].items() if here[k] != v]
    if changed:
        warnings.warn(f"{run}: continued under {', '.join(changed)}: bits may differ", stacklevel=3)
    _unflatten(stage.networks(), tensors["networks"])
    _unflatten(average.networks, tensors["ema"])
    restore_optimizer(optimizer, tensors["optimizer"])
    return int(state["step"])
