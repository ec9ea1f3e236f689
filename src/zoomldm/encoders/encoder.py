"""A loaded patch encoder: turns tiles into embeddings and has a digest."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.encoders.table import Preprocessing
from zoomldm.errors import ConfigError
from zoomldm.pipeline import ZoomLDMPipeline

EncoderPrecision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class EncoderOptions:
    """How a patch encoder is run.

    Attributes:
        precision: precision of weights and activations; embeddings are always float32. The change
            from half precision is far below the precision that archives store.
        batch: tiles per batch.
    """

    precision: EncoderPrecision = "float32"
    batch: int = 32

    def __post_init__(self) -> None:
        if self.precision not in get_args(EncoderPrecision):
            raise ConfigError(
                f"encoder precision {self.precision!r}; expected float32, float16 or bfloat16"
            )
        if self.batch < 1:
            raise ConfigError(f"encoder batch is {self.batch}; expected 1 or more")


class PatchEncoder(Protocol):
    """Interface that compression needs of a patch encoder."""

    @property
    def batch(self) -> int:
        """Tiles per batch."""
        ...

    @property
    def id(self) -> str:
        """Its name in archives."""
        ...

    @property
    def embedding_dim(self) -> int:
        """D, length of an embedding."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 over its weights and preprocessing."""
        ...

    def encode_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Embed tiles (n, 256, 256, 3) uint8 sRGB: (n, D) float32."""
        ...


class PipelineEncoder:
    """The patch encoder of a pipeline, in the pipeline's own precision.

    Raises:
        ConfigError: half precision was requested.
        PipelineError: the pipeline has no patch encoder.
    """

    def __init__(
        self, pipeline: ZoomLDMPipeline, name: str, options: EncoderOptions | None = None
    ) -> None:
        self._pipeline, self.id = pipeline, name
        options = options or EncoderOptions()
        self.batch = options.batch
        if options.precision != "float32":
            raise ConfigError(
                f"encoder precision {options.precision}: a pipeline's own patch encoder runs as it "
                "is; name another with --encoder, or leave the precision out"
            )
        if pipeline.patch_encoder is None:
            pipeline.digest("patch_encoder")  # raises an error that says so

    @property
    def digest(self) -> str:
        """SHA-256 of the pipeline's current network."""
        return self._pipeline.digest("patch_encoder")

    @property
    def embedding_dim(self) -> int:
        """D, length of an embedding."""
        return self._pipeline.embedding_dim

    def encode_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Embed tiles (n, 256, 256, 3) uint8 sRGB: (n, D) float32."""
        return self._pipeline.encode_tiles(tiles)


class NetworkEncoder:
    """A patch encoder with a network of its own, outside any pipeline.

    Args:
        name: its id.
        network: maps prepared images (B, 3, S, S) to embeddings (B, D).
        preprocessing: preprocessing of a tile.
        dim: D, length of an embedding.
        digest: see `digest_of`.
        device: where it runs.
        options: how it runs; half precision does not change its id.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        preprocessing: Preprocessing,
        dim: int,
        digest: str,
        device: torch.device | str = "cpu",
        options: EncoderOptions | None = None,
    ) -> None:
        options = options or EncoderOptions()
        self.batch, self.dtype = options.batch, getattr(torch, options.precision)
        self.id, self.embedding_dim, self.digest = name, dim, digest
        self.preprocessing, self.device = preprocessing, torch.device(device)
        self.network = network.eval().requires_grad_(False).to(self.device, self.dtype)

    @torch.no_grad()
    def encode_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Embed tiles (n, 256, 256, 3) uint8 sRGB: (n, D) float32."""
        images = torch.from_numpy(np.ascontiguousarray(tiles)).permute(0, 3, 1, 2)
        x = prepared(images, self.preprocessing, self.device)
        return self.network(x.to(self.dtype)).float().cpu().numpy()


def prepared(images: Tensor, preprocessing: Preprocessing, device: Any = None) -> Tensor:
    """Prepare images (n, 3, 256, 256), integers 0..255, as input (n, 3, size, size) float32."""
    x, side = images.to(device, torch.uint8), preprocessing.size
    if x.shape[-1] != side:
        x = resized(x, side)
    x = x.float()
    mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return (x / 255 - mean) / std


def resized(x: Tensor, side: int) -> Tensor:
    """Resize bytes (n, 3, S, S) to integers (n, 3, side, side), bilinear and antialiased.

    The encoders' own transforms resize with Pillow, on bytes, and round between rows and columns.
    On the CPU, PyTorch's kernel for bytes does the same. Other devices have no such kernel: there
    the whole batch is resized in float32 and rounded once, which differs by at most 1 of 255.
    """
    if x.device.type == "cpu":
        return F.interpolate(x, (side, side), mode="bilinear", antialias=True)
    return in_floats(x, side)


def in_floats(x: Tensor, side: int) -> Tensor:
    """Do the work of `resized` on devices without a kernel for bytes."""
    x = F.interpolate(x.float(), (side, side), mode="bilinear", antialias=True)
    return x.round().clamp(0, 255)


def digest_of(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Compute SHA-256 over a plain description and float32 values, whatever the file format."""
    sha = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        sha.update(name.encode())
        sha.update(value.detach().float().contiguous().numpy().tobytes())
    return sha.hexdigest()
