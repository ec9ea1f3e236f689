"""CLAM-SB on a quarter of TCGA-BRCA, ten folds: our training against the straightforward loop.

    python benchmarks/mil_speed.py [--folds 10]

The straightforward loop takes one bag a step from PyTorch's weighted sampler, autograd and Adam.
Both run in this process on one thread, fold by fold in turn; prints processor time, the ratio and
the largest difference of a fold's AUC.
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


def straightforward(model: BagModel, bags: Bags, train: np.ndarray) -> None:
    """Train as the published code does."""
    labels = bags.labels[train]
    weights = len(labels) / np.bincount(labels)[labels]
    sampler = WeightedRandomSampler(weights.tolist(), len(weights))
    adam = torch.optim.Adam(model.parameters(), lr=PROTOCOL.rate, weight_decay=PROTOCOL.decay)
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
    spent, aucs = np.zeros(2), []
    for fold in read_splits(arguments.data / "splits" / "tcga_brca", bags)[: arguments.folds]:
        train, row = hipt_subset(fold.train, 0.25), []
        for way in (0, 1):
            torch.manual_seed(1)
            model = build_model("clam-sb", bags.dim, 2, PROTOCOL)
            begin = time.process_time()
            if way == 0:
                straightforward(model, bags, train)
            else:
                train_model(model, bags, train, fold.val, PROTOCOL)
            spent[way] += time.process_time() - begin
            row.append(measure(bags.labels[fold.test], predict(model, bags, fold.test)).auc)
        aucs.append(row)
        print(f"fold {fold.index}: AUC {row[0]:.5f} and {row[1]:.5f}", flush=True)
    table = np.array(aucs)
    print(f"straightforward {spent[0]:.1f} s, AUC {table[:, 0].mean():.4f}")
    print(f"ours            {spent[1]:.1f} s, AUC {table[:, 1].mean():.4f}")
    print(
        f"ratio {spent[0] / spent[1]:.2f}; largest difference of a fold's AUC "
        f"{np.abs(table[:, 0] - table[:, 1]).max():.1e}"
    )


if __name__ == "__main__":
    main()
