"""OME-Zarr written and opened by zarr and ome-zarr-py."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from painted import PROVENANCE, Painted, write

from zoomldm.writers.omezarr import OmeZarr

SOURCE = Painted(2300, 1400, 4)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("zarr") / "a.zarr", OmeZarr(), SOURCE)


def test_pixels_come_back_as_they_were(path: Path) -> None:
    group = zarr.open_group(path, mode="r")
    for level, picture in enumerate(SOURCE.pictures):
        array = group[str(level)]
        assert isinstance(array, zarr.Array)
        assert array.metadata.dimension_names == ("c", "y", "x")
        np.testing.assert_array_equal(np.asarray(array[:]).transpose(1, 2, 0), picture)
    assert group.attrs["zoomldm"] == PROVENANCE


def test_metadata_is_of_version_0_5(path: Path) -> None:
    ome = zarr.open_group(path, mode="r").attrs["ome"]
    assert isinstance(ome, dict) and ome["version"] == "0.5"
    (scales,) = ome["multiscales"]  # type: ignore[misc]
    found = [d["coordinateTransformations"] for d in scales["datasets"]]
    assert [t[0]["scale"][1:] for t in found] == [[0.5 * 2**k] * 2 for k in range(4)]
    assert found[2][1]["translation"] == [0.0, 0.75, 0.75]


# ome-zarr-py asks for older packages than ours and is not installed with the other dev packages;
# 0.18.0 without its bounds reads this.
def test_ome_zarr_py_reads_every_level(path: Path) -> None:
    pytest.importorskip("ome_zarr")
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    location = parse_url(path)
    assert location is not None and location.fmt.version == "0.5"
    (node,) = list(Reader(location)())
    assert [tuple(part.shape) for part in node.data] == [(3, *p.shape[:2]) for p in SOURCE.pictures]
    np.testing.assert_array_equal(np.asarray(node.data[1]).transpose(1, 2, 0), SOURCE.pictures[1])
    assert [axis["name"] for axis in node.metadata["axes"]] == ["c", "y", "x"]


def test_models_of_the_specification_take_it(path: Path) -> None:
    models = pytest.importorskip("ome_zarr_models.v05")
    image = models.Image.from_zarr(zarr.open_group(path, mode="r"))
    assert len(image.ome_attributes.multiscales[0].datasets) == 4


def test_white_costs_nothing(tmp_path: Path) -> None:
    source = Painted(1024, 1024, 1)
    source.pictures = [np.full((1024, 1024, 3), 255, np.uint8)]
    found = write(tmp_path / "a.zarr", OmeZarr(), source)
    assert not (found / "0" / "c").exists()
