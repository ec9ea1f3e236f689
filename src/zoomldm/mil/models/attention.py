"""Base class of all models; gated attention and ABMIL.

Source: Ilse, Tomczak and Welling 2018, "Attention-based deep multiple instance learning", eq. 9.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class BagOutput:
    """Output of a model for one bag of N instances.

    Attributes:
        logits: (classes,).
        attention: (N,) non-negative, or None for models without attention.
    """

    logits: Tensor
    attention: Tensor | None = None


class BagModel(nn.Module):
    """A classifier of bags, one bag (N, D) at a time, for any N >= 1."""

    def forward(self, x: Tensor) -> BagOutput:
        """Classify one bag (N, D)."""
        raise NotImplementedError

    def loss(self, x: Tensor, y: int) -> Tensor:
        """Compute the training loss of one bag (N, D) of class `y`; cross-entropy by default."""
        return cross_entropy(self(x).logits, y)

    def probabilities(self, x: Tensor) -> Tensor:
        """Class probabilities (classes,) of one bag."""
        return self(x).logits.softmax(-1)


def cross_entropy(logits: Tensor, y: int) -> Tensor:
    """Cross-entropy of logits (classes,) against class `y`."""
    return -logits.log_softmax(0)[y]


class GatedAttention(nn.Module):
    """w . (tanh(V h) * sigmoid(U h)) + b: hidden (N, H) -> scores (N,), before the softmax.

    Args:
        hidden: H.
        width: rows of V and of U, which are stored stacked.
        dropout: dropout of both branches.
    """

    def __init__(self, hidden: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.vu = nn.Linear(hidden, 2 * width)
        self.w = nn.Linear(width, 1)
        self.dropout = dropout

    def forward(self, h: Tensor) -> Tensor:
        """Scores (N,) of hidden (N, H)."""
        v, u = self.vu(h).chunk(2, 1)
        gates = torch.cat([v.tanh(), u.sigmoid()], 1)
        v, u = F.dropout(gates, self.dropout, self.training).chunk(2, 1)
        return self.w(v * u).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class AttentionOutput(BagOutput):
    """Output of a model with one attention branch for one bag of N instances.

    Attributes:
        hidden: (N, H) instances after the hidden layer and its dropout.
        scores: (N,) attention before the softmax.
        mean: (H,) attention-weighted mean.
    """

    hidden: Tensor
    scores: Tensor
    mean: Tensor


class ABMIL(BagModel):
    """One hidden layer, gated attention, a linear classifier of the attention-weighted mean.

    Args:
        dim: feature dimension, D.
        classes: number of classes.
        hidden: width of the instance layer.
        width: width of the attention.
        dropout: on the hidden layer; the attention's branches use 0.25 whenever this is above 0.
        xavier: Xavier-normal weights and zero biases (HIPT) instead of PyTorch's defaults.
    """

    def __init__(
        self,
        dim: int,
        classes: int = 2,
        *,
        hidden: int = 512,
        width: int = 256,
        dropout: float = 0.25,
        xavier: bool = False,
    ) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, hidden)
        self.attention = GatedAttention(hidden, width, 0.25 if dropout > 0 else 0.0)
        self.classifier = nn.Linear(hidden, classes)
        self.dropout = dropout
        if xavier:
            xavier_init(self)

    def forward(self, x: Tensor) -> AttentionOutput:
        """Classify one bag (N, D)."""
        hidden = F.dropout(F.relu(self.fc(x)), self.dropout, self.training)
        scores = self.attention(hidden)
        attention = scores.softmax(0)
        mean = attention @ hidden
        return AttentionOutput(
            logits=self.classifier(mean),
            attention=attention,
            hidden=hidden,
            scores=scores,
            mean=mean,
        )


def xavier_init(module: nn.Module) -> None:
    """Initialise every linear layer in place with Xavier-normal weights and zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, GatedAttention):  # two stacked matrices, each with its own fan-out
            for half in layer.vu.weight.data.chunk(2):
                nn.init.xavier_normal_(half)
