"""Shared by rendering, sampling and evaluation: options, the batch loop, sheets."""
