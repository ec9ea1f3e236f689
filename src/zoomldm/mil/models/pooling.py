"""Models without attention: best instance, mean, maximum."""

from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.mil.models.attention import BagModel, BagOutput, xavier_init


class MaxInstance(BagModel):
    """Classify each instance; the bag takes the logits of its most suspicious one.

    Suspicion is the probability of class 1 with two classes, and the highest class probability
    with more.

    Args:
        dim: feature dimension, D.
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

    def forward(self, x: Tensor) -> BagOutput:
        """Classify one bag (N, D); its attention is each instance's suspicion, unnormalised."""
        hidden = F.dropout(F.relu(self.fc(x)), self.dropout, self.training)
        logits = self.classifier(hidden)
        probability = logits.detach().softmax(1)
        suspicion = probability[:, 1] if logits.shape[1] == 2 else probability.amax(1)
        return BagOutput(logits[suspicion.argmax()], suspicion)


class Pooled(BagModel):
    """Linear classifier of the bag's mean or maximum, trained like the other models.

    Args:
        dim: feature dimension, D.
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
