"""Settings of a training run: frozen models, one for all stages and one each for some."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# Settings that may differ when a run is continued.
FREE = frozenset(
    {
        *("steps", "log_every", "save_every", "show_every", "validate_every"),
        *("threads", "checkpointing", "ema_device"),
    }
)


class TrainConfig(BaseModel):
    """Settings of the loop, the same for every stage.

    A step is one optimiser step over `batch_size` x `accumulate` items in each process.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(10_000, ge=1, description="optimiser steps of the whole run")
    batch_size: int = Field(32, ge=1, description="items held at once, in each process")
    accumulate: int = Field(1, ge=1, description="batches whose gradients make one step")
    learning_rate: float = Field(2e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup: int = Field(200, ge=0, description="steps over which the rate rises from 0")
    cooldown: float = Field(0.2, ge=0, le=1, description="share of the steps falling to 0")
    ema: float = Field(0.999, ge=0, lt=1, description="largest decay of the averaged weights")
    ema_device: Literal["auto", "cpu"] = Field(
        "auto", description="where averaged weights lie: with the weights, or in the CPU's memory"
    )
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    seed: int = Field(0, ge=0)
    log_every: int = Field(50, ge=1)
    save_every: int = Field(500, ge=1)
    show_every: int = Field(2000, ge=1, description="steps between images and held-out losses")
    validate_every: int | None = Field(
        None,
        ge=1,
        description="steps between validations, whose best is kept; None for none",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; None leaves PyTorch's choice")
    bf16: bool | None = Field(
        None, description="bfloat16 autocast; None where a measurement finds it faster here"
    )


_POWER = Field(
    0, ge=0, le=1, description="draw levels as their number of patches to this; 0 all alike"
)
_REPA = Field(
    0, ge=0, description="weight of aligning the denoiser's middle with the patch encoder; 0 not"
)


class LargeConfig(TrainConfig):
    """Settings of stages whose networks may be large."""

    compile: bool = Field(
        False, description="torch.compile what gains by it, where that works (needs a compiler)"
    )
    checkpointing: bool = Field(
        False, description="make activations again in the backward pass, not keep them"
    )


class OctaveConfig(LargeConfig):
    """Settings of the octave denoiser and its summarizer."""

    repa: float = _REPA


class DiffusionConfig(LargeConfig):
    """Settings of the paper's diffusion: denoiser and summarizer on stored latents."""

    level_power: float = _POWER
    freeze_summarizer: bool = Field(False, description="train the denoiser alone")
    repa: float = _REPA


class EmbeddingConfig(LargeConfig):
    """Settings of the embedding diffusion."""

    level_power: float = _POWER
    contexts: int | None = Field(
        None, ge=1, description="contexts held a level; None for 4096 to 384"
    )


class DecoderConfig(LargeConfig):
    """Settings of the low-pass latents' decoder."""

    made: float = Field(
        0,
        ge=0,
        le=1,
        description="fraction of the crops whose latents the pipeline's denoiser made from a "
        "stored base layer; with --finetune",
    )
    restores: bool = Field(
        False,
        description="teach the decoder to restore the denoiser's first prediction; archives are "
        "then rendered with one evaluation; with made",
    )
    adversary: float = Field(
        1.0,
        ge=0,
        description="share of each of the two discriminators in what the decoder is pushed by; "
        "0 for none",
    )


_TINY = {
    "steps": 20,
    "warmup": 5,
    "log_every": 5,
    "save_every": 10,
    "show_every": 20,
    "threads": 1,
}
_DEMO_TILES: dict[str, Any] = {
    "steps": 3000,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "warmup": 100,
    "cooldown": 0.6,
    "ema": 0.99,
    "weight_decay": 0.02,
    "log_every": 10,
    "save_every": 100,
    "show_every": 500,
}
_DEMO_TAIL: dict[str, dict[str, Any]] = {
    "judge": _DEMO_TILES,
    "patch-encoder": _DEMO_TILES,
    "embedding-diffusion": {
        "steps": 20_000,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "warmup": 200,
        "cooldown": 0.3,
        "ema": 0.999,
        "show_every": 1000,
    },
    "context-network": {
        "steps": 10_000,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "warmup": 100,
        "cooldown": 0.4,
        "ema": 0.998,
        "bf16": False,
        "save_every": 200,
        "show_every": 500,
    },
}
TABLE: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {
        "autoencoder": {**_TINY, "batch_size": 4},
        "patch-encoder": {**_TINY, "batch_size": 8},
        "diffusion": {**_TINY, "batch_size": 8},
        "embedding-diffusion": {**_TINY, "batch_size": 8},
        "context-network": {**_TINY, "batch_size": 8},
        "judge": {**_TINY, "batch_size": 8},
    },
    "tiny-octaves": {
        "autoencoder": {**_TINY, "batch_size": 4, "bf16": False},
        "patch-encoder": {**_TINY, "batch_size": 8},
        "diffusion": {**_TINY, "batch_size": 8, "bf16": False},
        "embedding-diffusion": {**_TINY, "batch_size": 8},
        "context-network": {**_TINY, "batch_size": 8},
        "judge": {**_TINY, "batch_size": 8},
    },
    "demo": {
        "autoencoder": {
            "steps": 8000,
            "batch_size": 8,
            "learning_rate": 4e-4,
            "warmup": 100,
            "cooldown": 0.35,
            "weight_decay": 1e-4,
            "ema": 0.998,
            "bf16": False,
            "save_every": 200,
            "show_every": 400,
        },
        "diffusion": {
            "steps": 20_000,
            "batch_size": 16,
            "learning_rate": 1e-3,
            "warmup": 100,
            "cooldown": 0.4,
            "ema": 0.998,
            "bf16": False,
            "save_every": 200,
            "show_every": 500,
        },
        **_DEMO_TAIL,
    },
    "base": {
        "autoencoder": {
            "steps": 200_000,
            "batch_size": 16,
            "learning_rate": 2e-4,
            "ema": 0.9995,
            "save_every": 2000,
        },
        "diffusion": {
            "steps": 300_000,
            "batch_size": 64,
            "learning_rate": 4e-4,
            "warmup": 1000,
            "ema": 0.9998,
            "save_every": 2000,
            "show_every": 5000,
        },
        **_DEMO_TAIL,
    },
    "paper": {  # the denoiser as it was released; its frozen networks come from `zoomldm convert`
        "diffusion": {
            "steps": 300_000,
            "batch_size": 48,
            "accumulate": 8,
            "learning_rate": 2e-5,
            "warmup": 1000,
            "cooldown": 0,
            "ema": 0.9999,
            "checkpointing": True,
            "save_every": 2000,
            "show_every": 5000,
        },
    },
}


def rate_at(step: int, config: TrainConfig) -> float:
    """Learning rate of a step: linear warm-up, constant, linear decay over the last part."""
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    tail = config.cooldown * config.steps
    fall = min(1.0, (config.steps - step) / tail) if tail else 1.0
    return config.learning_rate * rise * fall
