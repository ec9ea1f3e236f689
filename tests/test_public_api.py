"""What a checker sees of the package is what there is, and networks are what they promise."""

import ast
import inspect
from importlib import resources
from pathlib import Path

import zoomldm
from zoomldm.networks.protocols import (
    AutoencoderLike,
    DenoiserLike,
    PatchEncoderLike,
    SummarizerLike,
)
from zoomldm.pipeline import build_pipeline


def test_every_public_name_has_a_type() -> None:
    assert (resources.files("zoomldm") / "py.typed").is_file()
    tree = ast.parse(Path(inspect.getfile(zoomldm)).read_text())
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n))
    seen = {
        name.asname: (node.module, name.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert set(seen) == set(zoomldm._HOMES) == set(zoomldm.__all__) - {"__version__"}
    for name, (module, own) in seen.items():
        assert (module, own) == (zoomldm._HOMES[name], name)
        assert getattr(zoomldm, name).__name__ == name


def test_networks_are_what_a_pipeline_asks_for() -> None:
    pipeline = build_pipeline("tiny")
    assert isinstance(pipeline.unet, DenoiserLike)
    assert isinstance(pipeline.vae, AutoencoderLike)
    assert isinstance(pipeline.summarizer, SummarizerLike)
    assert isinstance(pipeline.patch_encoder, PatchEncoderLike)
    assert not isinstance(pipeline.patch_encoder, AutoencoderLike | SummarizerLike)
