"""A pipeline that draws contexts."""

import pytest
from tiny import filled_pipeline

from zoomldm.pipeline import ZoomLDMPipeline


@pytest.fixture(scope="session")
def pipeline() -> ZoomLDMPipeline:
    return filled_pipeline()
