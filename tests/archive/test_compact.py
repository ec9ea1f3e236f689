"""Embeddings in a basis of their own: fewer bytes, the cosine kept, one number however read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archive.making import forge, make_header
from zoomldm.archive import ArchiveWriter, embeddings, open_archive, verify_archive, write_archive
from zoomldm.archive.compact import compact, restore
from zoomldm.archive.quantise import cosines
from zoomldm.errors import ArchiveError

DIM = 96


def alike(count: int, dim: int = DIM, rank: int = 12, seed: int = 0) -> np.ndarray:
    """Embeddings as an encoder gives them: most of what varies lies along a few axes."""
    rng = np.random.default_rng(seed)
    axes = rng.standard_normal((dim, dim)) * np.exp(-np.arange(dim) / rank)[:, None]
    values = (rng.standard_normal((count, dim)) @ axes + axes[0]) * rng.uniform(0.5, 3, (count, 1))
    return values.astype(np.float32)


def tiles_of(count: int, cols: int = 36) -> np.ndarray:
    return np.stack([np.arange(count) // cols, np.arange(count) % cols], 1)


def write(path, values, precision="compact", tiles=None):
    header = make_header(9000, 9000, values.shape[1])
    places = tiles_of(len(values)) if tiles is None else tiles
    write_archive(path, header, places, values, np.zeros(values.shape[1]), precision=precision)
    return path


class TestArchive:
    def test_keeps_the_cosine_in_less_than_half_of_the_bytes(self, tmp_path):
        values = alike(900)
        small = write(tmp_path / "a", values)
        large = write(tmp_path / "b", values, "int8")
        assert small.stat().st_size < 0.55 * large.stat().st_size
        with open_archive(small) as archive:
            m = archive.manifest
            assert (m.version, m.quantisation.precision) == ("2.0", "compact")
            rows, cols = tiles_of(900).T
            lowest = cosines(values, archive.embeddings_of(rows, cols)).min()
            assert lowest >= 0.999
            assert m.quantisation.cosine_min == pytest.approx(lowest, abs=1e-6)
        assert verify_archive(small) == []

    def test_a_tile_is_the_same_number_however_it_is_read(self, tmp_path):
        with open_archive(write(tmp_path / "a", alike(900))) as archive:
            whole = archive.embeddings(0, 25, 0, 36)
            for row, col in ((0, 0), (7, 31), (24, 35), (31, 3)):
                one = archive.embeddings_of([row], [col])[0]
                expected = whole[row, col] if row < 25 else archive.background
                np.testing.assert_array_equal(one, expected)
            np.testing.assert_array_equal(archive.grid(3, 8, 16), whole[8:16, 16:24])

    def test_order_and_batches_do_not_matter(self, tmp_path):
        values, tiles = alike(300), tiles_of(300)
        write(tmp_path / "a", values)
        order = np.random.default_rng(1).permutation(300)
        header = make_header(9000, 9000, DIM)
        with ArchiveWriter(tmp_path / "b", header, np.zeros(DIM), "compact") as out:
            for part in np.array_split(order, 7):
                out.add_embeddings(tiles[part], values[part])
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    @pytest.mark.parametrize("precision", ["compact", "int8", "float16"])
    def test_bytes_are_counted_before_the_end(self, tmp_path, precision):
        values, tiles = alike(900), tiles_of(900)
        header = make_header(9000, 9000, DIM)
        with ArchiveWriter(tmp_path / "a", header, np.zeros(DIM), precision) as out:
            out.add_embeddings(tiles, values)
            counted = out.embedding_bytes()
            with pytest.raises(ValueError, match="after the embeddings were counted"):
                out.add_embeddings([[30, 30]], values[:1])
        with open_archive(tmp_path / "a") as archive:
            stored = {m.name: m.size for m in archive.manifest.members}
        prefixes = ("embeddings/c/", "scales/c/", "basis/c/")
        assert counted == sum(size for name, size in stored.items() if name.startswith(prefixes))
        write(tmp_path / "b", values, precision)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_int8_where_a_basis_does_not_pay(self, tmp_path, count):
        write(tmp_path / "a", np.random.default_rng(0).standard_normal((count, 8), np.float32))
        with open_archive(tmp_path / "a") as archive:
            m = archive.manifest
            assert (m.version, m.quantisation.precision) == ("1.0", "int8")
            assert m.quantisation.wanted == "compact"
        assert verify_archive(tmp_path / "a") == []

    def test_int8_where_memory_would_not_do(self, tmp_path, monkeypatch):
        monkeypatch.setattr(embeddings, "COMPACT_BYTES", 100 * DIM * 4)
        values, tiles = alike(300), tiles_of(300)
        with ArchiveWriter(
            tmp_path / "a", make_header(9000, 9000, DIM), np.zeros(DIM), "compact"
        ) as out:
            for part in np.array_split(np.arange(300), 6):
                out.add_embeddings(tiles[part], values[part])
        with open_archive(tmp_path / "a") as archive:
            assert archive.manifest.quantisation.precision == "int8"
            assert cosines(values, archive.embeddings_of(*tiles.T)).min() >= 0.999

    def test_numbers_that_are_none(self, tmp_path):
        values = alike(20)
        values[3, 4] = np.nan
        with pytest.raises(ArchiveError, match="NaN or infinity"):
            write(tmp_path / "a", values)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["basis", "basis_steps"])
    def test_damage(self, tmp_path, name):
        path = write(tmp_path / "a", alike(300))

        def drop(members):
            del members[f"{name}/zarr.json"]

        forged = forge(path, tmp_path / "b", members=drop)
        assert any(f"{name}/zarr.json is missing" in line for line in verify_archive(forged))


class TestNumbers:
    @settings(max_examples=25, deadline=None)
    @given(st.integers(2, 200), st.integers(2, 80), st.integers(1, 40), st.integers(0, 2**32 - 1))
    def test_every_tile_keeps_its_cosine_or_there_is_none(self, count, dim, rank, seed):
        values = alike(count, dim, rank, seed)
        found = compact(values)
        if found is not None:
            back = restore(found.codes, found.scales, found.basis, found.steps)
            assert cosines(values, back).min() >= 0.999
            exponents = np.log2(found.steps)
            np.testing.assert_array_equal(exponents, np.rint(exponents))

    def test_an_outlier_costs_axes_and_not_its_cosine(self):
        values = alike(200)
        values[17] = np.random.default_rng(5).standard_normal(DIM)
        found = compact(values)
        assert found is not None
        back = restore(found.codes, found.scales, found.basis, found.steps)
        assert cosines(values, back).min() >= 0.999
