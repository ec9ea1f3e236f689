"""What all models share; gated attention and ABMIL.

Source: Ilse, Tomczak and Welling 2018, "Attention-based deep multiple instance learning", eq. 9.
Bags are small, so a training step is mostly overhead. `ABMIL.backward` therefore computes its
gradients by hand, in half the time that autograd takes; tests hold it against autograd.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn import functional as F


@dataclass(frozen=True)
class BagOutput:
    """What a model says of one bag of N instances.

    Attributes:
        logits: (classes,).
        attention: (N,) non-negative, or None for models that have none.
    """

    logits: Tensor
    attention: Tensor | None = None


class BagModel(nn.Module):
    """A classifier of bags: one bag (N, D) at a time, any N >= 1."""

    def forward(self, x: Tensor) -> BagOutput:
        """Classify one bag (N, D)."""
        raise NotImplementedError

    def loss(self, x: Tensor, y: int) -> Tensor:
        """Training loss of one bag (N, D) of class `y`; by default the cross-entropy."""
        return cross_entropy(self(x).logits, y)

    def backward(self, x: Tensor, y: int) -> None:
        """Add the gradient of `loss` to the `grad` of each parameter."""
        self.loss(x, y).backward()

    def probabilities(self, x: Tensor) -> Tensor:
        """Class probabilities (classes,) of one bag."""
        return self(x).logits.softmax(-1)

    def parts(self) -> list[list[Parameter]]:
        """Parameters, split into parts that a bag trains as a whole or not at all."""
        return [list(self.parameters())]

    def trained(self, y: int) -> Sequence[int]:
        """The parts that a bag of class `y` trains; weight decay spares the others."""
        return (0,)


def cross_entropy(logits: Tensor, y: int) -> Tensor:
    """Cross-entropy of logits (classes,) against class `y`."""
    return -logits.log_softmax(0)[y]


def keep(like: Tensor, p: float) -> Tensor:
    """Mask of a dropout of probability `p`: 0, or 1 / (1 - p)."""
    return torch.empty_like(like).bernoulli_(1 - p).div_(1 - p)


class GatedAttention(nn.Module):
    """w . (tanh(V h) * sigmoid(U h)) + b: hidden (N, H) -> scores (N,), before the softmax.

    Args:
        hidden: H.
        width: rows of V and of U, which are stored stacked.
    """

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.vu = nn.Linear(hidden, 2 * width)
        self.w = nn.Linear(width, 1)


class State(NamedTuple):
    """What the forward pass of one bag leaves for the backward pass."""

    h: Tensor  # (N, H) after dropout
    h_mask: Tensor | None
    gates: Tensor  # (N, 2W): tanh | sigmoid, before dropout
    gate_mask: Tensor | None
    gated: Tensor  # (N, W)
    scores: Tensor  # (N,) attention before the softmax
    mean: Tensor  # (H,) attended mean
    logits: Tensor  # (classes,)


class ABMIL(BagModel):
    """One hidden layer, gated attention, a linear classifier of the attended mean.

    Args:
        dim: numbers per instance, D.
        classes: number of classes.
        hidden: width of the instance layer.
        width: width of the attention.
        dropout: on the hidden layer; the attention's branches drop 0.25 whenever this is above 0.
        xavier: weights drawn Xavier-normal and zero biases (HIPT) rather than PyTorch's defaults.
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
        self.attention = GatedAttention(hidden, width)
        self.classifier = nn.Linear(hidden, classes)
        self.dropout, self.gate_dropout = dropout, 0.25 if dropout > 0 else 0.0
        if xavier:
            xavier_init(self)

    def run(self, x: Tensor) -> State:
        """Forward pass of one bag (N, D), with dropout while training."""
        h = F.relu(self.fc(x))
        h_mask = gate_mask = None
        if self.training and self.dropout:
            h_mask = keep(h, self.dropout)
            h = h * h_mask
        v, u = self.attention.vu(h).chunk(2, 1)
        gates = torch.cat([v.tanh(), u.sigmoid()], 1)
        kept = gates
        if self.training and self.gate_dropout:
            gate_mask = keep(gates, self.gate_dropout)
            kept = gates * gate_mask
        a, b = kept.chunk(2, 1)
        gated = a * b
        scores = self.attention.w(gated).squeeze(1)
        mean = scores.softmax(0) @ h
        return State(h, h_mask, gates, gate_mask, gated, scores, mean, self.classifier(mean))

    def forward(self, x: Tensor) -> BagOutput:
        """Classify one bag (N, D)."""
        state = self.run(x)
        return BagOutput(state.logits, state.scores.softmax(0))

    def backward(self, x: Tensor, y: int) -> None:
        """Add the gradient of `loss` to the `grad` of each parameter."""
        with torch.no_grad():
            state = self.run(x)
            self.backpropagate(x, state, y)

    def backpropagate(
        self, x: Tensor, state: State, y: int, weight: float = 1.0, dh: Tensor | None = None
    ) -> None:
        """Gradients of `weight` x cross-entropy, by hand.

        Args:
            x: (N, D).
            state: of the forward pass.
            y: class of the bag.
            weight: of the bag's cross-entropy.
            dh: (N, H) gradient that reaches the hidden layer by another way.
        """
        h, attention = state.h, state.scores.softmax(0)
        dlogits = torch.zeros_like(state.logits)
        dlogits[y] = -weight
        dlogits = torch.ops.aten._log_softmax_backward_data(
            dlogits, state.logits.log_softmax(0), 0, dlogits.dtype
        )
        add_linear(self.classifier, dlogits[None], state.mean[None])
        dmean = dlogits[None] @ self.classifier.weight
        total = attention[:, None] * dmean
        if dh is not None:
            total += dh
        dscores = torch.ops.aten._softmax_backward_data(
            (dmean @ h.T).squeeze(0), attention, 0, attention.dtype
        )
        add_linear(self.attention.w, dscores[:, None], state.gated)
        kept = state.gates if state.gate_mask is None else state.gates * state.gate_mask
        a, b = kept.chunk(2, 1)
        dgated = dscores[:, None] * self.attention.w.weight
        dgates = torch.empty_like(kept)
        (dv, du), (tanh, sigmoid) = dgates.chunk(2, 1), state.gates.chunk(2, 1)
        torch.mul(dgated, b, out=dv)
        torch.mul(dgated, a, out=du)
        if state.gate_mask is not None:
            dgates *= state.gate_mask
        torch.ops.aten.tanh_backward(dv, tanh, grad_input=dv)
        torch.ops.aten.sigmoid_backward(du, sigmoid, grad_input=du)
        add_linear(self.attention.vu, dgates, h)
        total += dgates @ self.attention.vu.weight
        if state.h_mask is not None:
            total *= state.h_mask
        total = torch.ops.aten.threshold_backward(total, h, 0)
        add_linear(self.fc, total, x)


def add_linear(layer: nn.Linear, dout: Tensor, inputs: Tensor) -> None:
    """Add a linear layer's gradients, given those of its outputs (N, O) and its inputs (N, I)."""
    for parameter in (layer.weight, layer.bias):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    layer.weight.grad.addmm_(dout.T, inputs)  # pyright: ignore[reportOptionalMemberAccess]
    layer.bias.grad.add_(dout.sum(0))  # pyright: ignore[reportOptionalMemberAccess]


def xavier_init(module: nn.Module) -> None:
    """Xavier-normal weights and zero biases for every linear layer, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, GatedAttention):  # two matrices in one, each with its own fan-out
            for half in layer.vu.weight.data.chunk(2):
                nn.init.xavier_normal_(half)
