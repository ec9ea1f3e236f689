"""CLAM-SB on a quarter of TCGA-BRCA, ten folds: our training against the straightforward loop.

    python benchmarks/mil_speed.py [--folds 10]

The straightforward loop takes one bag a step from PyTorch's weighted sampler, autograd and Adam.
A second one has PyTorch's fused Adam, whose rounding is ours: it must agree to the bit, while the
first may swap a pair of slides. All run in this process on one thread, fold by fold in turn.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import WeightedRandomSampler

from zoomldm.mil.attention import BagModel
from zoomldm.mil.bags import Bags, read_bags
from zoomldm.mil.metrics import measure
from zoomldm.mil.protocol import PROTOCOLS, build_model, predict, train_model
from zoomldm.mil.splits import hipt_subset, read_splits

SHARED = Path(__file__).parents[2] / "shared" / "mil"
PROTOCOL = PROTOCOLS["hipt"]


def straightforward(model: BagModel, bags: Bags, train: np.ndarray, fused: bool) -> None:
    """Train as the published code does; its Adam is not the fused one."""
    labels = bags.labels[train]
    weights = len(labels) / np.bincount(labels)[labels]
    sampler = WeightedRandomSampler(weights.tolist(), len(weights))
    adam = torch.optim.Adam(
        model.parameters(), lr=PROTOCOL.rate, weight_decay=PROTOCOL.decay, fused=fused
    )
    model.train()
    for _ in range(PROTOCOL.epochs):
        for i in sampler:
            loss = model.loss(bags.features[train[i]], int(labels[i]))
            loss.backward()
            adam.step()
            adam.zero_grad()


def main() -> None:
    """Time both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--folds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bags = read_bags(arguments.data / "tcga_brca_hipt_cls4k_192_fp16.npz")
    spent, aucs = np.zeros(3), []
    for fold in read_splits(arguments.data / "splits" / "tcga_brca", bags)[: arguments.folds]:
        train, row = hipt_subset(fold.train, 0.25), []
        for way in range(3):
            torch.manual_seed(1)
            model = build_model("clam-sb", bags.dim, 2, PROTOCOL)
            begin = time.process_time()
            if way < 2:
                straightforward(model, bags, train, fused=way == 1)
            else:
                train_model(model, bags, train, fold.val, PROTOCOL)
            spent[way] += time.process_time() - begin
            row.append(measure(bags.labels[fold.test], predict(model, bags, fold.test)).auc)
        aucs.append(row)
        print(f"fold {fold.index}: AUC " + ", ".join(f"{a:.5f}" for a in row), flush=True)
    table = np.array(aucs)
    for way, name in enumerate(("straightforward", "with fused Adam", "ours")):
        print(
            f"{name:16}{spent[way]:7.1f} s  AUC {table[:, way].mean():.4f}  "
            f"{spent[way] / spent[2]:.2f} x our time, "
            f"a fold's AUC at most {np.abs(table[:, way] - table[:, 2]).max():.1e} apart"
        )


if __name__ == "__main__":
    main()
