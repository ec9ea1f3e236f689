"""CLAM-SB on a quarter of TCGA-BRCA, ten folds: our training against the straightforward loop.

    python benchmarks/mil_speed.py [--folds 10]

The straightforward loop is the usual one: a DataLoader of one bag a step under PyTorch's weighted
sampler, autograd, Adam as PyTorch gives it by default. Ours takes the bags from memory and asks
Adam to update all parameters at once (`foreach`); the others tell which of the two brings how
much. All draw and round alike, so all give the same AUC. They run in this process on one thread,
fold by fold in turn.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, WeightedRandomSampler

from zoomldm.mil.bags import Bags, read_bags
from zoomldm.mil.metrics import measure
from zoomldm.mil.models.attention import BagModel
from zoomldm.mil.protocol import PROTOCOLS, build_model, predict, train_model
from zoomldm.mil.splits import hipt_subset, read_splits

SHARED = Path(__file__).parents[2] / "shared" / "mil"
PROTOCOL = PROTOCOLS["hipt"]
WAYS = ("straightforward", "without loader", "with loader, foreach", "ours")


def straightforward(
    model: BagModel, bags: Bags, train: np.ndarray, loader: bool, foreach: bool
) -> None:
    """Train one bag a step by autograd and PyTorch's Adam."""
    labels = bags.labels[train]
    weights = len(labels) / np.bincount(labels)[labels]
    sampler = WeightedRandomSampler(weights.tolist(), len(weights))
    data = [(bags.features[row], int(label)) for row, label in zip(train, labels, strict=True)]
    loaded = DataLoader(
        data,  # type: ignore[arg-type]
        batch_size=1,
        sampler=sampler,
        collate_fn=lambda items: items[0],
        generator=torch.Generator(),  # of its own: it draws a number that nothing depends on
    )

    def epoch() -> Iterator[tuple[torch.Tensor, int]]:
        return iter(loaded) if loader else (data[i] for i in sampler)

    adam = torch.optim.Adam(
        model.parameters(), lr=PROTOCOL.rate, weight_decay=PROTOCOL.decay, foreach=foreach
    )
    model.train()
    for _ in range(PROTOCOL.epochs):
        for bag, label in epoch():
            loss = model.loss(bag, label)
            loss.backward()
            adam.step()
            adam.zero_grad()


def main() -> None:
    """Time all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--folds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bags = read_bags(arguments.data / "tcga_brca_hipt_cls4k_192_fp16.npz")
    spent, aucs = np.zeros(len(WAYS)), []
    for fold in read_splits(arguments.data / "splits" / "tcga_brca", bags)[: arguments.folds]:
        train, row = hipt_subset(fold.train, 0.25), []
        for way, name in enumerate(WAYS):
            torch.manual_seed(1)
            model = build_model("clam-sb", bags.dim, 2, PROTOCOL)
            begin = time.process_time()
            if name == "ours":
                train_model(model, bags, train, fold.val, PROTOCOL)
            else:
                straightforward(
                    model, bags, train, loader="without" not in name, foreach="foreach" in name
                )
            spent[way] += time.process_time() - begin
            row.append(measure(bags.labels[fold.test], predict(model, bags, fold.test)).auc)
        aucs.append(row)
        print(f"fold {fold.index}: AUC " + ", ".join(f"{a:.5f}" for a in row), flush=True)
    table = np.array(aucs)
    for way, name in enumerate(WAYS):
        print(
            f"{name:22}{spent[way]:7.1f} s  AUC {table[:, way].mean():.4f}  "
            f"{spent[way] / spent[-1]:.2f} x our time, "
            f"a fold's AUC at most {np.abs(table[:, way] - table[:, -1]).max():.1e} apart"
        )


if __name__ == "__main__":
    main()
