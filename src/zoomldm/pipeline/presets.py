"""Presets: the networks of each named size of the system, as one table.

`tiny` and `tiny-octaves` serve the tests (untrained, initialised from a seed); `demo` is trained
and shipped; `base` is for one GPU and a real patch encoder; `paper` has the released sizes. Presets
with a denoiser of kind `octave` use the pyramid, the others the paper's cascade. `context_network`
is only for its own training stage: no untrained pipeline has one.
"""

from typing import Any

from zoomldm.errors import ConfigError

SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",  # "linear" in the released code: linear in sqrt(beta)
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}
_TINY_CONTEXTS: dict[str, Any] = {
    "kind": "context",
    "context_dim": 32,
    "reference_dim": 32,
    "width": 32,
    "depth": 2,
    "heads": 2,
}

_CONTEXTS: dict[str, Any] = {
    "kind": "context",
    "width": 280,
    "heads": 7,
    "axes": 192,  # contexts hardly have more: the outline's 96, and the tokens' other ones
    "unpack": 64,
    "qk_norm": True,
    "neighbours": True,
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {
        "vae": {
            "encoder_widths": (8, 16),
            "encoder_depths": (1, 1),
            "decoder_widths": (8, 16),
            "decoder_depths": (1, 1),
            "latent_channels": 4,
        },
        "patch_encoder": {"widths": (8, 16, 16, 16), "dim": 32, "layout": 8, "map_channels": 2},
        "summarizer": {"dim": 32, "width": 16, "body": 16, "context_dim": 32, "depth": 1},
        "unet": {
            "latent_channels": 4,
            "spatial_context": 8,
            "widths": (16, 32),
            "depth": 1,
            "heads": 2,
            "context_dim": 32,
        },
        "embedding_diffusion": _TINY_CONTEXTS,
        "scheduler": {**SCHEDULE, "prediction_type": "v_prediction"},
    },
    "tiny-octaves": {
        "vae": {"kind": "lowpass", "widths": (16, 8, 8), "depths": (1, 1, 1)},
        "patch_encoder": {"widths": (8, 16, 16, 16), "dim": 32, "layout": 8, "map_channels": 2},
        "summarizer": {
            "dim": 32,
            "width": 16,
            "body": 16,
            "context_dim": 32,
            "depth": 1,
            "unpack": 8,
        },
        "unet": {
            "kind": "octave",
            "widths": (16, 16, 32),
            "heads": 2,
            "context_dim": 32,
            "spatial_context": 8,
        },
        "embedding_diffusion": _TINY_CONTEXTS,
        "context_network": {"width": 16, "depth": 1},
        "scheduler": {**SCHEDULE, "prediction_type": "v_prediction"},
    },
    "demo": {
        "vae": {"kind": "lowpass"},
        "patch_encoder": {},
        "summarizer": {"unpack": 32, "outline_channels": 6},
        "unet": {"kind": "octave", "widths": (80, 96, 160), "outline": True, "blends": 8},
        "embedding_diffusion": {**_CONTEXTS, "width": 256, "heads": 8, "axes": 256},
        "context_network": {"width": 48, "depth": 1},
        "scheduler": {**SCHEDULE, "prediction_type": "v_prediction"},
    },
    "base": {  # for one GPU; bring your own patch encoder with --encoder
        "vae": {"kind": "lowpass", "widths": (256, 128, 64), "depths": (8, 6, 4)},
        "patch_encoder": {},
        "summarizer": {"width": 192, "body": 384, "depth": 4, "unpack": 96, "outline_channels": 6},
        "unet": {
            "kind": "octave",
            "widths": (128, 256, 512),
            "depth": 2,
            "heads": 8,
            "outline": True,
            "blends": 8,
        },
        "embedding_diffusion": _CONTEXTS,
        "scheduler": {**SCHEDULE, "prediction_type": "v_prediction"},
    },
    "paper": {  # no patch encoder: UNI's weights are third-party
        "vae": {"kind": "vq"},
        "summarizer": {"kind": "vit"},
        "unet": {
            "latent_channels": 3,
            "fold": 1,
            "spatial_context": 0,
            "widths": (192, 384, 576, 960),
            "depth": 2,
            "heads": 1,
            "context_dim": 512,
            "attention": (False, True, True, True),
            "sample_size": 64,
        },
        "embedding_diffusion": {},
        "scheduler": {**SCHEDULE, "prediction_type": "epsilon"},
    },
}


def preset(name: str) -> dict[str, dict[str, Any]]:
    """Settings of each network of a preset.

    Raises:
        ConfigError: no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} does not exist; presets are {', '.join(PRESETS)}")
    return PRESETS[name]
