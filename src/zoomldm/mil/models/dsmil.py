"""DSMIL, dual-stream multiple-instance learning, and HIPT's variant of it.

Source: Li, Li and Eliceiri 2021, "Dual-stream multiple instance learning network for whole slide
image classification with self-supervised contrastive learning", section 3.2.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.mil.models.attention import BagModel, BagOutput, cross_entropy
from zoomldm.mil.models.clam import load

_WIDTH = 128
_SCALE = float(torch.tensor(math.sqrt(_WIDTH), dtype=torch.float32))  # as the original rounds it


@dataclass(frozen=True)
class Streams:
    """Both streams of one bag of N instances.

    Attributes:
        instances: (N, classes) scores of the instance stream.
        bag: (classes,) logits of the bag stream.
        attention: (N, classes), each column sums to 1.
        values: (classes, D) attention-weighted means.
    """

    instances: Tensor
    bag: Tensor
    attention: Tensor
    values: Tensor


class DSMIL(BagModel):
    """Instance scores, and a bag score with attention to instances like each class's best one.

    Args:
        dim: feature dimension, D.
        classes: number of classes, one output each.
        hipt: HIPT's variant: linear queries, a linear value layer, cross-entropy of the mean of
            both streams' logits, divided by 32. Otherwise the original: two-layer queries,
            unchanged values, half the binary cross-entropy of each stream.
    """

    def __init__(self, dim: int, classes: int = 2, *, hipt: bool = False) -> None:
        super().__init__()
        self.hipt = hipt
        self.instance = nn.Linear(dim, classes)
        self.query = (
            nn.Linear(dim, _WIDTH)
            if hipt
            else nn.Sequential(
                nn.Linear(dim, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.Tanh()
            )
        )
        self.value = nn.Linear(dim, dim) if hipt else nn.Identity()
        self.mix = nn.Conv1d(classes, classes, kernel_size=dim)

    def streams(self, x: Tensor) -> Streams:
        """Compute both streams of one bag (N, D)."""
        instances = self.instance(x)
        critical = instances.detach().argmax(0)
        query = self.query(x)
        # queries of the critical instances are computed from their own rows, as in the original
        attention = (query @ self.query(x[critical]).T / _SCALE).softmax(0)
        values = attention.T @ self.value(x)
        bag = self.mix(values[None]).view(-1)
        return Streams(instances, bag, attention, values)

    def _logits(self, streams: Streams) -> Tensor:
        return (streams.bag + streams.instances.amax(0)) / 2 if self.hipt else streams.bag

    def forward(self, x: Tensor) -> BagOutput:
        """Classify one bag (N, D); the attention is that of the predicted class."""
        streams = self.streams(x)
        logits = self._logits(streams)
        return BagOutput(logits, streams.attention[:, int(logits.detach().argmax())])

    def loss(self, x: Tensor, y: int) -> Tensor:
        """Compute the training loss of one bag of class `y`."""
        streams = self.streams(x)
        if self.hipt:
            return cross_entropy(self._logits(streams), y) / 32
        target = torch.zeros_like(streams.bag)
        target[y] = 1
        bag = F.binary_cross_entropy_with_logits(streams.bag, target)
        best = F.binary_cross_entropy_with_logits(streams.instances.amax(0), target)
        return 0.5 * bag + 0.5 * best

    def probabilities(self, x: Tensor) -> Tensor:
        """Class probabilities (classes,); sigmoids of the original are scaled to a sum of 1."""
        logits = self(x).logits
        if self.hipt:
            return logits.softmax(-1)
        return F.logsigmoid(logits).softmax(-1)

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict with the published DSMIL's (or HIPT's) parameter names.

        Raises:
            ConfigError: parameters are missing, unknown or of another shape.
        """
        names = {
            "i_classifier.fc.0.": "instance.",
            "i_classifier.fc.": "instance.",
            "b_classifier.q.": "query.",
            "b_classifier.v.1.": "value.",
            "b_classifier.fcc.": "mix.",
        }
        renamed = {}
        for name, value in state.items():
            for old, new in names.items():
                if name.startswith(old):
                    name = new + name.removeprefix(old)
                    break
            renamed[name] = value
        load(self, renamed)
