"""Archive and pipeline to numbers: a slide as a few features, written for other tools."""

from zoomldm.features.extract import FeatureOptions, FeatureReport, extract_features

__all__ = ["FeatureOptions", "FeatureReport", "extract_features"]
