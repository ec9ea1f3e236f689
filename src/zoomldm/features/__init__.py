"""Features of a slide from its archive and a pipeline, written for other tools."""

from zoomldm.features.extract import FeatureOptions, FeatureReport, extract_features

__all__ = ["FeatureOptions", "FeatureReport", "extract_features"]
