"""CLAM-SB: gated attention with instance clustering.

Source: Lu et al. 2021, "Data-efficient and weakly supervised computational pathology on
whole-slide images", Methods; the smooth top-1 SVM loss is Berrada et al. 2018, "Smooth loss
functions for deep top-k classification".
"""

import math
import re
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.errors import ConfigError
from zoomldm.mil.models.attention import ABMIL, cross_entropy, xavier_init

_SMOOTH_UNTIL = math.log(1000)  # for larger leads of the best score the hard loss is used
_PUBLISHED = {  # name in published checkpoints -> name here
    r"^attention_net\.(module\.)?0": "fc",
    r"^attention_net\.(module\.)?[23]\.attention_a\.0": "attention.v",
    r"^attention_net\.(module\.)?[23]\.attention_b\.0": "attention.u",
    r"^attention_net\.(module\.)?[23]\.attention_c": "attention.w",
    r"^classifiers\.": "classifier.",
}


def smooth_top1_svm(scores: Tensor, y: Tensor) -> Tensor:
    """Smooth top-1 SVM loss (temperature 1, margin 1), mean over the samples.

    Args:
        scores: (n, classes).
        y: (n,) int64.
    """
    margins = scores - scores.gather(1, y[:, None]) + 1
    margins = margins.scatter_add(1, y[:, None], -torch.ones_like(margins[:, :1]))
    top = scores.detach().topk(2, dim=1).values
    smooth = top[:, 0] - top[:, 1] < _SMOOTH_UNTIL
    return torch.where(smooth, margins.logsumexp(1), margins.amax(1)).mean()


class ClamSB(ABMIL):
    """CLAM with a single attention branch.

    Args:
        dim: feature dimension, D.
        classes: number of classes.
        hidden: width of the instance layer.
        width: width of the attention.
        dropout: on the hidden layer; the attention's branches use 0.25 whenever this is above 0.
        k: instances taken from each end of the attention; a bag of N < k takes min(k, N).
        subtyping: classes are mutually exclusive; also train the other classes' instance
            classifiers.
        instance_loss: "svm" (smooth top-1) or "ce".
        bag_weight: weight of the bag's cross-entropy in the loss.
        xavier: initialise as HIPT does.
    """

    def __init__(
        self,
        dim: int,
        classes: int = 2,
        *,
        hidden: int = 512,
        width: int = 256,
        dropout: float = 0.25,
        k: int = 8,
        subtyping: bool = False,
        instance_loss: str = "svm",
        bag_weight: float = 0.7,
        xavier: bool = False,
    ) -> None:
        super().__init__(dim, classes, hidden=hidden, width=width, dropout=dropout)
        if instance_loss not in ("svm", "ce"):
            raise ConfigError(f"instance loss {instance_loss!r} is unknown: use svm or ce")
        self.instance_classifiers = nn.ModuleList(nn.Linear(hidden, 2) for _ in range(classes))
        self.k, self.subtyping, self.bag_weight = k, subtyping, bag_weight
        self.instance_loss = instance_loss
        if xavier:
            xavier_init(self)

    def clusters(self, scores: Tensor, y: int) -> list[tuple[nn.Linear, Tensor, Tensor]]:
        """Pair the instance classifiers that class `y` trains with instances (n,) and labels (n,).

        The k instances of highest attention are positive for the class, the k of lowest negative
        (in a bag of N < 2k some are both). With subtyping, the highest are also negative for
        every other class.
        """
        k = min(self.k, len(scores))
        order = scores.detach().argsort(descending=True)
        top, bottom = order[:k], order[-k:].flip(0)
        target = torch.zeros(2 * k, dtype=torch.int64, device=scores.device)
        target[:k] = 1
        own = (self._instance(y), torch.cat([top, bottom]), target)
        if not self.subtyping:
            return [own]
        count = len(self.instance_classifiers)
        return [own if c == y else (self._instance(c), top, target[k:]) for c in range(count)]

    def _instance(self, y: int) -> nn.Linear:
        return cast(nn.Linear, self.instance_classifiers[y])

    def cluster_loss(self, h: Tensor, scores: Tensor, y: int) -> Tensor:
        """Compute the instance loss of hidden (N, H) with attention scores (N,) for class `y`."""
        losses = []
        for layer, chosen, target in self.clusters(scores, y):
            lead = layer(h[chosen]).diff(dim=1).squeeze(1)  # of label 1 over label 0
            margin = self.instance_margin - (2 * target - 1) * lead
            loss = F.softplus(margin)
            if self.instance_loss == "svm":
                smooth = lead.detach().abs() < _SMOOTH_UNTIL
                loss = torch.where(smooth, loss, margin.relu())
            losses.append(loss.mean())
        return torch.stack(losses).sum() / len(losses)

    @property
    def instance_margin(self) -> float:
        """Margin; with two labels both losses are softplus(margin - lead of the right label)."""
        return 1.0 if self.instance_loss == "svm" else 0.0

    def loss(self, x: Tensor, y: int) -> Tensor:
        """Compute 0.7 x cross-entropy of the bag + 0.3 x instance loss."""
        output = self(x)
        bag = cross_entropy(output.logits, y)
        cluster = self.cluster_loss(output.hidden, output.scores, y)
        return self.bag_weight * bag + (1 - self.bag_weight) * cluster

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict with the published CLAM's (or HIPT's) parameter names.

        Raises:
            ConfigError: parameters are missing, unknown or of another shape.
        """
        renamed = {}
        for name, value in state.items():
            for pattern, new in _PUBLISHED.items():
                name = re.sub(pattern, new, name)
            renamed[name] = value
        renamed.pop("instance_loss_fn.labels", None)
        for kind in ("weight", "bias"):
            halves = [renamed.pop(f"attention.{x}.{kind}", None) for x in "vu"]
            if None not in halves:
                renamed[f"attention.vu.{kind}"] = torch.cat(halves)
        load(self, renamed)


def load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Call `load_state_dict`, with any error message on one line."""
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise ConfigError(f"weights do not fit {type(model).__name__}: {message}") from error
