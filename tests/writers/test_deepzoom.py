"""DeepZoom written, and held against what OpenSlide's own generator makes of it."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import openslide
from openslide.deepzoom import DeepZoomGenerator
from painted import PROVENANCE, Painted, write
from PIL import Image

from zoomldm.writers.deepzoom import DeepZoom


def test_levels_and_tiles_are_those_of_a_deepzoom_image(tmp_path: Path) -> None:
    source = Painted(1300, 700, 3)
    path = write(tmp_path / "a.dzi", DeepZoom(), source)
    Image.fromarray(source.pictures[0]).save(tmp_path / "whole.png")
    with openslide.open_slide(tmp_path / "whole.png") as slide:
        wanted = DeepZoomGenerator(slide, tile_size=256, overlap=0)
        tree = ET.parse(path).getroot()
        own = ET.fromstring(wanted.get_dzi("jpeg"))
        assert tree.tag == own.tag and tree.attrib == own.attrib
        assert tree[0].attrib == own[0].attrib
        folders = {p.name for p in (tmp_path / "a_files").iterdir() if p.is_dir()}
        assert folders == {str(n) for n in range(wanted.level_count)}
        for level, (cols, rows) in enumerate(wanted.level_tiles):
            names = {p.name for p in (tmp_path / "a_files" / str(level)).iterdir()}
            assert names == {f"{c}_{r}.jpeg" for c in range(cols) for r in range(rows)}
            for name in names:
                with Image.open(tmp_path / "a_files" / str(level) / name) as tile:
                    col, row = (int(n) for n in name.removesuffix(".jpeg").split("_"))
                    assert tile.size == wanted.get_tile_dimensions(level, (col, row))
    with Image.open(tmp_path / "a_files" / "11" / "5_2.jpeg") as tile:
        expected = source.pictures[0][512:700, 1280:1300]
        assert np.abs(np.asarray(tile, int) - expected).mean() < 8
    assert json.loads((tmp_path / "a_files" / "zoomldm.json").read_text()) == PROVENANCE
