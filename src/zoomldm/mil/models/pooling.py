"""Models without attention: the best instance, the mean, the maximum."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.mil.models.attention import BagModel, BagOutput, add_linear, keep, xavier_init


class MaxInstance(BagModel):
    """Each instance is classified; the bag takes the logits of its most suspicious one.

    Suspicious is the probability of class 1 with two classes, the highest probability of any
    class with more.

    Args:
        dim: numbers per instance, D.
        classes: number of classes.
        hidden: width of the instance layer.
        dropout: on the hidden layer.
        xavier: initialise as HIPT does.
    """

    def __init__(
        self,
        dim: int,
        classes: int = 2,
        *,
        hidden: int = 512,
        dropout: float = 0.25,
        xavier: bool = False,
    ) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, hidden)
        self.classifier = nn.Linear(hidden, classes)
        self.dropout = dropout
        if xavier:
            xavier_init(self)

    def run(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Hidden (N, H), its dropout mask, logits (N, classes), suspicion (N,)."""
        h, mask = F.relu(self.fc(x)), None
        if self.training and self.dropout:
            mask = keep(h, self.dropout)
            h = h * mask
        logits = self.classifier(h)
        probability = logits.detach().softmax(1)
        suspicion = probability[:, 1] if logits.shape[1] == 2 else probability.amax(1)
        return h, mask, logits, suspicion

    def forward(self, x: Tensor) -> BagOutput:
        """Classify one bag (N, D); its attention is each instance's suspicion, unnormalised."""
        _, _, logits, suspicion = self.run(x)
        return BagOutput(logits[suspicion.argmax()], suspicion)

    def backward(self, x: Tensor, y: int) -> None:
        """Add the gradient of `loss`, which one instance alone receives."""
        with torch.no_grad():
            h, mask, logits, suspicion = self.run(x)
            one = suspicion.argmax()[None]
            dlogits = logits[one].softmax(1)
            dlogits[0, y] -= 1
            add_linear(self.classifier, dlogits, h[one])
            dh = dlogits @ self.classifier.weight * (h[one] > 0)
            add_linear(self.fc, dh if mask is None else dh * mask[one], x[one])


class Pooled(BagModel):
    """Linear classifier of the bag's mean or maximum, trained as the other models are.

    Args:
        dim: numbers per instance, D.
        classes: number of classes.
        pool: "mean" or "max", over the instances.
    """

    def __init__(self, dim: int, classes: int = 2, *, pool: str = "mean") -> None:
        super().__init__()
        self.classifier = nn.Linear(dim, classes)
        self.pool = pool

    def forward(self, x: Tensor) -> BagOutput:
        """Classify one bag (N, D)."""
        return BagOutput(self.classifier(x.mean(0) if self.pool == "mean" else x.amax(0)))
