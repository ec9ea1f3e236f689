"""One slide and one pipeline for the tests of compressing."""

import pytest
from synthetic import paint_slide

from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.pipeline import build_pipeline


@pytest.fixture(scope="module")
def pipeline():
    return build_pipeline("tiny")


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """40x, not quite twice 20x."""
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    return paint_slide(path, 3000, 2600, mpp=0.2526, tissue=0.6)


def run(slide, out, pipeline, **options):
    return compress(slide, out, CompressOptions(**options), pipeline=pipeline, name="tiny")
