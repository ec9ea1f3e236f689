"""A loaded patch encoder: tiles in, embeddings and the digest of what made them out."""

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
        precision: of its weights and activations; embeddings come out as float32 always. What half
            precision changes in them is far below what archives keep of them.
        batch: tiles that it takes at once.
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
    """What compression asks of a patch encoder."""

    @property
    def batch(self) -> int:
        """Tiles that it takes at once."""
        ...

    @property
    def id(self) -> str:
        """What archives call it."""
        ...

    @property
    def embedding_dim(self) -> int:
        """D, length of an embedding."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 over its weights and how it prepares a tile."""
        ...

    def encode_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Embed tiles (n, 256, 256, 3) uint8 sRGB: (n, D) float32."""
        ...


class PipelineEncoder:
    """The patch encoder of a pipeline, in the precision that the pipeline has.

    Raises:
        ConfigError: half precision asked for.
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
            pipeline.digest("patch_encoder")  # says so

    @property
    def digest(self) -> str:
        """SHA-256 of the network that the pipeline has now."""
        return self._pipeline.digest("patch_encoder")

    @property
    def embedding_dim(self) -> int:
        """D, length of an embedding."""
        return self._pipeline.embedding_dim

    def encode_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Embed tiles (n, 256, 256, 3) uint8 sRGB: (n, D) float32."""
        return self._pipeline.encode_tiles(tiles)


class NetworkEncoder:
    """A network from elsewhere.

    Args:
        name: its id.
        network: prepared images (B, 3, S, S) to embeddings (B, D).
        preprocessing: of a tile.
        dim: D.
        digest: see `digest_of`.
        device: where it runs.
        options: how it runs; half precision does not change what it is called.
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
        pictures = torch.from_numpy(np.ascontiguousarray(tiles)).permute(0, 3, 1, 2)
        x = prepared(pictures, self.preprocessing, self.device)
        return self.network(x.to(self.dtype)).float().cpu().numpy()


def prepared(pictures: Tensor, preprocessing: Preprocessing, device: Any = None) -> Tensor:
    """Images (n, 3, 256, 256), whole numbers 0..255, as input (n, 3, size, size) float32."""
    x, side = pictures.to(device, torch.uint8), preprocessing.size
    if x.shape[-1] != side:
        x = resized(x, side)
    x = x.float()
    mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return (x / 255 - mean) / std


def resized(x: Tensor, side: int) -> Tensor:
    """Bytes (n, 3, S, S) as whole numbers (n, 3, side, side), bilinear and antialiased.

    The encoders' own transforms resize with Pillow, on bytes, and round between rows and columns.
    On the CPU PyTorch's kernel for bytes does so too; on other devices, which have none, the whole
    batch is resized in float32 and rounded once, at most 1 of 255 apart.
    """
    if x.device.type == "cpu":
        return F.interpolate(x, (side, side), mode="bilinear", antialias=True)
    return in_floats(x, side)


def in_floats(x: Tensor, side: int) -> Tensor:
    """`resized` where there is no kernel for bytes."""
    x = F.interpolate(x.float(), (side, side), mode="bilinear", antialias=True)
    return x.round().clamp(0, 255)


def digest_of(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over plain facts and float32 values; the file they came in does not matter."""
    sha = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        sha.update(name.encode())
        sha.update(value.detach().float().contiguous().numpy().tobytes())
    return sha.hexdigest()
