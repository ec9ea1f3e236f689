"""A loaded patch encoder: tiles in, embeddings and the digest of what made them out."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.encoders.table import Preprocessing
from zoomldm.pipeline import ZoomLDMPipeline


class PatchEncoder(Protocol):
    """What compression asks of a patch encoder."""

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
    """The patch encoder of a pipeline."""

    def __init__(self, pipeline: ZoomLDMPipeline, name: str) -> None:
        self._pipeline, self.id = pipeline, name
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
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        preprocessing: Preprocessing,
        dim: int,
        digest: str,
        device: torch.device | str = "cpu",
    ) -> None:
        self.id, self.embedding_dim, self.digest = name, dim, digest
        self.preprocessing, self.device = preprocessing, torch.device(device)
        self.network = network.eval().requires_grad_(False).to(self.device)

    @torch.no_grad()
    def encode_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Embed tiles (n, 256, 256, 3) uint8 sRGB: (n, D) float32."""
        pictures = torch.from_numpy(np.ascontiguousarray(tiles)).permute(0, 3, 1, 2)
        x = prepared(pictures, self.preprocessing, self.device)
        return self.network(x).float().cpu().numpy()


def prepared(pictures: Tensor, preprocessing: Preprocessing, device: Any = None) -> Tensor:
    """Images (n, 3, 256, 256), whole numbers 0..255, as input (n, 3, size, size) float32."""
    x, side = pictures.to("cpu", torch.uint8), preprocessing.size
    if x.shape[-1] != side:
        # On bytes, because the encoders' own transforms resize with Pillow, which rounds between
        # rows and columns; only PyTorch's kernel for bytes, on the CPU, does so too.
        x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
    x = x.to(device).float()
    mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return (x / 255 - mean) / std


def digest_of(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over plain facts and float32 values; the file they came in does not matter."""
    sha = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        sha.update(name.encode())
        sha.update(value.detach().float().contiguous().numpy().tobytes())
    return sha.hexdigest()
