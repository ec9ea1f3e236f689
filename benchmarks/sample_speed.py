"""Time of a sample: its context and its image, by precision and batch.

    python benchmarks/sample_speed.py [--n 16]

One thread; 20 steps of the denoiser at guidance 1.5, 50 of the embedding diffusion.
"""

import argparse
import time

import torch

from zoomldm.pipeline import load_pipeline
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.sampler import Sampler

WAYS = (("float32", 1), ("float32", 16), ("bfloat16", 1), ("bfloat16", 16))


def main() -> None:
    """Time them in turn, in one process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--n", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = load_pipeline(arguments.pipeline)
    first = 0.0
    for precision, batch in WAYS:
        options = SampleOptions(precision=precision, batch=batch)  # type: ignore[arg-type]
        sampler = Sampler(pipeline, options)
        sampler.sample(0, 1)  # what is made once
        begin = time.perf_counter()
        contexts = sampler.contexts(0, arguments.n)
        middle = time.perf_counter()
        sampler.images(0, contexts)
        end = time.perf_counter()
        first = first or end - begin
        print(
            f"{precision:9} batch {batch:2}   context {(middle - begin) / arguments.n:.3f} s   "
            f"image {(end - middle) / arguments.n:.3f} s   "
            f"{first / (end - begin):.2f} times as fast"
        )


if __name__ == "__main__":
    main()
