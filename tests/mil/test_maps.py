"""Attention maps as pictures and squares."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoomldm.errors import ConfigError
from zoomldm.features.reading import Coordinates
from zoomldm.mil.maps import attention_image, geojson, ranks


def test_ranks() -> None:
    assert ranks(np.array([0.1, 5.0, 0.2])).tolist() == [0, 1, 0.5]
    assert ranks(np.array([3.0])).tolist() == [0.5]
    assert ranks(np.array([1.0, 1.0])).tolist() == [0.5, 0.5]


def test_picture() -> None:
    where = Coordinates(np.array([[0, 0], [512, 0], [512, 1024]]), 512, (1024, 1500))
    image = np.asarray(attention_image(np.array([0.1, 0.2, 0.7]), where))
    assert image.shape == (3 * 16, 2 * 16, 3)
    cells = image[8::16, 8::16]
    assert cells[0, 0].tolist() == [48, 18, 92]  # lowest
    assert cells[2, 1].tolist() == [250, 230, 40]  # highest
    assert cells[1, 0].tolist() == [255, 255, 255]  # nothing there
    assert (
        np.asarray(attention_image(np.ones(1), Coordinates(np.array([[99999, 5]]), 7))).shape[0]
        == 16
    )
    with pytest.raises(ConfigError, match="don't fit"):
        attention_image(np.ones(2), Coordinates(np.array([[0, 0], [50000, 50000]]), 1))


def test_what_lies_left_of_the_slide_is_left_out() -> None:
    """It was painted into the last column."""
    where = Coordinates(np.array([[-512, 0], [0, 0]]), 512, (1024, 512))
    cells = np.asarray(attention_image(np.array([0.9, 0.1]), where))[8::16, 8::16]
    assert cells[0].tolist() == [[48, 18, 92], [255, 255, 255]]


def test_geojson_squares(tmp_path: Path) -> None:
    where = Coordinates(np.array([[256, 512], [512, 512]]), 256)
    document = json.loads(json.dumps(geojson(np.array([0.25, 0.75]), where, "s")))
    assert document["type"] == "FeatureCollection"
    ring = document["features"][0]["geometry"]["coordinates"][0]
    assert ring == [[256, 512], [512, 512], [512, 768], [256, 768], [256, 512]]
    assert [f["properties"]["measurements"]["rank"] for f in document["features"]] == [0, 1]
    assert isinstance(attention_image(np.array([1.0, 2.0]), where), Image.Image)
