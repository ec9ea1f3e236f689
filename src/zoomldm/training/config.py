"""What a training run is told: one frozen table, unknown keys refused."""

from pydantic import BaseModel, ConfigDict, Field


class TrainConfig(BaseModel):
    """Settings of the loop, the same for every stage.

    A step is one optimiser step over `batch_size` items in each process.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(10_000, ge=1, description="optimiser steps of the whole run")
    batch_size: int = Field(32, ge=1, description="items per step and process")
    learning_rate: float = Field(2e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup: int = Field(200, ge=0, description="steps over which the rate rises from 0")
    cooldown: float = Field(0.2, ge=0, le=1, description="share of the steps falling to 0")
    ema: float = Field(0.999, ge=0, lt=1, description="largest decay of the averaged weights")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    seed: int = 0
    log_every: int = Field(50, ge=1)
    save_every: int = Field(500, ge=1)
    show_every: int = Field(2000, ge=1, description="steps between pictures and held-out losses")
    threads: int | None = Field(None, description="CPU threads; None leaves PyTorch's choice")
    bf16: bool = Field(True, description="bfloat16 autocast where the hardware has it")


def rate_at(step: int, config: TrainConfig) -> float:
    """Learning rate of a step: linear warm-up, constant, linear fall over the last part."""
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    tail = config.cooldown * config.steps
    fall = min(1.0, (config.steps - step) / tail) if tail else 1.0
    return config.learning_rate * rise * fall
