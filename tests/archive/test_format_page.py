"""The format page is true: its reader, taken from the page, reads what the package reads."""

import re
from pathlib import Path

import numpy as np
import pytest

from archive.making import make_archive
from zoomldm.archive import open_archive
from zoomldm.archive.manifest import FORMAT_VERSION, Manifest

_PAGE = Path(__file__).parents[2] / "docs" / "archive-format.md"


@pytest.fixture(scope="module")
def read_archive():
    names: dict = {}
    exec(re.findall(r"```python\n(.*?)```", _PAGE.read_text(), re.DOTALL)[0], names)
    return names["read_archive"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_the_reader_of_the_page_reads_the_same(tmp_path, read_archive, precision):
    path = tmp_path / "a.zldm"
    make_archive(path, precision=precision)
    manifest, mask, embeddings = read_archive(path)
    with open_archive(path) as archive:
        np.testing.assert_array_equal(mask, archive.mask)
        whole = archive.embeddings(0, archive.rows, 0, archive.cols)
        np.testing.assert_array_equal(embeddings, whole)
        assert manifest["slide"]["size"] == list(archive.size)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_reader_of_the_page_reads_compact_embeddings(read_archive):
    path = Path(__file__).with_name("golden-2.0.zldm")
    manifest, mask, embeddings = read_archive(path)
    assert manifest["quantisation"]["precision"] == "compact"
    with open_archive(path) as archive:
        np.testing.assert_array_equal(mask, archive.mask)
        np.testing.assert_array_equal(embeddings, archive.embeddings(0, 9, 0, 11))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_reader_of_the_page_notices_damage(tmp_path, read_archive):
    path = tmp_path / "a.zldm"
    make_archive(path, 600, 600, 3, 2, latents=False)
    whole = path.read_bytes()
    start = whole.index(b"embeddings/c/0/0/0")
    for place in [start + 30, *range(whole.rindex(b"PK\1\2"), len(whole), 7)]:
        broken = bytearray(whole)
        broken[place] ^= 1
        path.write_bytes(broken)
        with pytest.raises(Exception):  # noqa: B017
            read_archive(path)


def test_the_page_names_every_key_and_the_version():
    page = _PAGE.read_text()
    assert f"version {FORMAT_VERSION}" in page
    assert [key for key in Manifest.model_fields if f"| `{key}` |" not in page] == []
