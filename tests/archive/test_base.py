"""The base layer: pixels come back where they were, white elsewhere, or an error."""

import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from archive.making import forge, make_header
from zoomldm.archive import ArchiveWriter, open_archive, verify_archive, write_archive
from zoomldm.archive.base import even_out, halve, stored_chunks
from zoomldm.archive.image_codecs import CODECS, decode_image, encode_image, fill_chunk
from zoomldm.archive.manifest import Base
from zoomldm.errors import ArchiveError, ConfigError, DamagedError

_GOLDEN = Path(__file__).with_name("golden-1.0.zldm")
_SIZE = 9000, 5000
_LEVEL = 2  # 2250 x 1250 px: 3 x 5 chunks


def picture() -> np.ndarray:
    """Smooth, coloured, nowhere white."""
    y, x = np.mgrid[:1250, :2250]
    waves = [np.sin(x / 31 + k) + np.cos(y / 43 - k) + np.sin((x + y) / 301) for k in range(3)]
    return (120 + 35 * np.stack(waves, 2)).astype(np.uint8)


@pytest.fixture(scope="module")
def pixels():
    return picture()


def make(path: Path, pixels: np.ndarray, codec: str = "png", cells=((2, 3), (3, 3))) -> Path:
    with ArchiveWriter(path, make_header(*_SIZE, 8), np.zeros(8)) as writer:
        writer.add_embeddings(cells, np.random.default_rng(0).standard_normal((len(cells), 8)))
        writer.add_base(_LEVEL, pixels, codec, chunk=512)
    return path


EVERYWHERE = [(row, col) for row in range(20) for col in range(36)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, pixels):
    return make(tmp_path_factory.mktemp("base") / "whole.zldm", pixels, cells=EVERYWHERE)


@pytest.fixture(scope="module")
def corner(tmp_path_factory, pixels):
    """Tissue in the first chunk alone."""
    return make(tmp_path_factory.mktemp("base") / "corner.zldm", pixels)


class TestReading:
    def test_metadata(self, whole):
        with open_archive(whole) as archive:
            base = archive.base
            assert base is not None
            assert (base.level, base.codec, base.quality) == (_LEVEL, "png", None)
            assert base.size == (2250, 1250)
            assert archive.manifest.version == "1.2" and archive.manifest.overview is None
        assert verify_archive(whole) == []

    @pytest.mark.parametrize(
        "region",
        [
            (0, 0, 2250, 1250),
            (500, 500, 24, 24),
            (511, 1023, 2, 2),
            (-7, -9, 30, 30),
            (2200, 1200, 100, 100),
            (-50, -50, 2400, 1400),
            (3000, 3000, 5, 5),
            (-20, 0, 20, 9),
        ],
    )
    def test_lossless_is_the_picture_and_white_outside(self, whole, pixels, region):
        x, y, w, h = region
        canvas = np.full((1250 + 4000, 2250 + 4000, 3), 255, np.uint8)
        canvas[2000:3250, 2000:4250] = pixels
        with open_archive(whole) as archive:
            assert archive.base is not None
            found = archive.base.read(x, y, w, h)
        np.testing.assert_array_equal(
            found, canvas[2000 + y : 2000 + y + h, 2000 + x : 2000 + x + w]
        )

    def test_only_what_tissue_touches_is_stored(self, corner, pixels):
        with open_archive(corner) as archive:
            names = [m.name for m in archive.manifest.members if m.name.startswith("overview/c")]
            assert names == ["overview/c/0/0/0"]
            assert archive.base is not None
            found = archive.base.read(0, 0, 2250, 1250)
        np.testing.assert_array_equal(found[:512, :512], pixels[:512, :512])
        assert (found[512:] == 255).all() and (found[:, 512:] == 255).all()

    @pytest.mark.parametrize(("precision", "version"), [("int8", "1.4"), ("compact", "2.2")])
    def test_what_is_not_stored_has_the_colour_of_the_glass(
        self, tmp_path, pixels, precision, version
    ):
        path, glass = tmp_path / "a.zldm", (236, 233, 240)
        rng = np.random.default_rng(0)
        few = rng.standard_normal((360, 8)) @ rng.standard_normal((8, 320))
        with ArchiveWriter(path, make_header(*_SIZE, 320), np.zeros(320), precision) as writer:
            with pytest.raises(ValueError, match="no base layer yet"):
                writer.set_base_background(glass)
            writer.add_embeddings(EVERYWHERE[:360], few)
            writer.add_base(_LEVEL, pixels, "png", chunk=256)
            writer.set_base_background(glass)
        with open_archive(path) as archive:
            assert archive.manifest.version == version
            base = archive.base
            assert base is not None and base.background == glass
            found = base.read(-5, -5, 2300, 1300)
            assert (found[5 + 768 : 5 + 1250, 5:2255] == glass).all()
            assert (found[:5] == 255).all() and (found[1255:] == 255).all()
            assert (found[:, 2255:] == 255).all()
            np.testing.assert_array_equal(found[5:773, 5:2255], pixels[:768])
            assert (base.read_level(4, 300, 200, 50, 50) == glass).all()
        assert verify_archive(path) == []

    def test_a_margin_of_one_tile_is_stored(self):
        base = Base(level=2, codec="png", quality=None, width=2250, height=1250, chunk=512)
        mask = np.zeros((20, 36), bool)
        mask[7, 8] = True  # the last row of tiles of the first row of chunks, inside the second
        assert stored_chunks(base, mask) == [(0, 0), (0, 1), (1, 0), (1, 1)]
        mask[:] = False
        mask[5, 10] = True
        assert stored_chunks(base, mask) == [(0, 1)]

    def test_coarser_levels_are_averages(self, whole, pixels):
        with open_archive(whole) as archive:
            base = archive.base
            assert base is not None
            found = base.read_level(4, 10, 20, 100, 60)
            expected = pixels[80:320, 40:440].reshape(60, 4, 100, 4, 3).mean((1, 3))
            assert np.abs(found - expected).max() <= 0.5
            assert (base.read_level(4, -5, -5, 5, 5) == 255).all()
            for level in (1, 8):
                with pytest.raises(ValueError, match="not in 2"):
                    base.read_level(level, 0, 0, 1, 1)

    def test_the_overview_is_the_base_averaged_to_2048_px(self, whole):
        with open_archive(whole) as archive:
            found = archive.overview()
            assert found is not None and archive.base is not None
            level, shown = found
            assert level == 3 and shown.shape == (625, 1125, 3)
            np.testing.assert_array_equal(shown, archive.base.read_level(3, 0, 0, 1125, 625))

    def test_threads_read_the_same_as_copies_in_other_processes(self, whole, pixels):
        with open_archive(whole) as archive, ThreadPoolExecutor(8) as pool:
            copy = pickle.loads(pickle.dumps(archive)).base
            base = archive.base
            assert base is not None and copy is not None
            places = [(x, y) for x in range(0, 2000, 190) for y in range(0, 1000, 170)]
            for layer in (base, copy):
                parts = [pool.submit(layer.read, x, y, 250, 250) for x, y in places]
                for (x, y), part in zip(places, [p.result() for p in parts], strict=True):
                    np.testing.assert_array_equal(part, pixels[y : y + 250, x : x + 250])

    def test_a_slide_smaller_than_one_chunk(self, tmp_path):
        small = picture()[:50, :70]
        header = make_header(280, 200, 8)
        path = tmp_path / "a.zldm"
        write_archive(
            path, header, [(0, 0)], np.ones((1, 8)), np.zeros(8), base=(2, small), base_codec="png"
        )
        with open_archive(path) as archive:
            assert archive.base is not None and archive.base.size == (70, 50)
            np.testing.assert_array_equal(archive.base.read(0, 0, 70, 50), small)
            assert (archive.base.read(70, 50, 9, 9) == 255).all()

    def test_without(self, tmp_path):
        write_archive(tmp_path / "a", make_header(600, 600, 8), [], np.ones((0, 8)), np.zeros(8))
        with open_archive(tmp_path / "a") as archive:
            assert archive.base is None and archive.overview() is None
            assert archive.manifest.version == "1.0"


class TestBorders:
    @pytest.fixture(scope="class")
    def coded(self, tmp_path_factory):
        """Texture, coarsely coded in chunks of 64 px; one chunk in the middle is missing."""
        rng = np.random.default_rng(3)
        texture = rng.integers(60, 220, (100, 140, 3), np.uint8).repeat(2, 0).repeat(2, 1)
        texture = ((texture[1:, 1:].astype(int) + texture[:-1, :-1]) // 2).astype(np.uint8)
        path = tmp_path_factory.mktemp("borders") / "a.zldm"
        header = make_header(279 * 4, 199 * 4, 8)
        with ArchiveWriter(path, header, np.zeros(8)) as writer:
            writer.add_embeddings([(0, 0)], np.ones((1, 8)))
            base = writer.start_base(2, "jpeg", 10, 64)
            for row, col in np.ndindex(4, 5):
                part = texture[row * 64 : row * 64 + 64, col * 64 : col * 64 + 64]
                if (row, col) != (2, 2):
                    data = encode_image(fill_chunk(part, 64), "jpeg", base.quality)
                    writer.add_base_chunk(row, col, data)
        return path, texture

    def test_a_region_is_cut_from_the_whole(self, coded):
        with open_archive(coded[0]) as archive:
            base = archive.base
            assert base is not None
            whole = base.read(0, 0, 279, 199)
            rng = np.random.default_rng(0)
            for _ in range(80):
                x, y = int(rng.integers(-10, 279)), int(rng.integers(-10, 199))
                w, h = int(rng.integers(1, 90)), int(rng.integers(1, 90))
                found = base.read(x, y, w, h)
                canvas = np.full((600, 600, 3), 255, np.uint8)
                canvas[100:299, 100:379] = whole
                expected = canvas[100 + y : 100 + y + h, 100 + x : 100 + x + w]
                np.testing.assert_array_equal(found, expected)

    def test_only_px_beside_borders_change_and_they_come_nearer_to_the_slide(self, coded):
        path, texture = coded
        with open_archive(path) as archive:
            base = archive.base
            assert base is not None
            even, plain = base.read(0, 0, 279, 199), base._decoded(0, 0, 279, 199)
        changed = (even != plain).any(2)
        beside = np.zeros_like(changed)
        for at in (64, 128, 192):
            beside[at - 2 : at + 2] = True
            beside[:, at - 2 : at + 2] = True
        beside[:, 254:258] = True
        assert changed[beside].mean() > 0.5 and not changed[~beside].any()
        assert (even[130:190, 130:190] == 255).all()
        assert not changed[130:190, 126:128].any()  # white beyond: nothing to even out
        errors = [
            np.square(p[beside].astype(float) - texture[beside]).mean() for p in (plain, even)
        ]
        assert errors[1] < errors[0]

    def test_a_slope_stays_a_slope(self):
        slope = np.array([10, 20, 30, 40], np.uint8)[:, None, None].repeat(3, 2)
        lines = slope.copy()
        even_out(lines)
        assert np.abs(lines.astype(int) - slope).max() <= 1
        lines = np.array([100, 100, 112, 112], np.uint8)[:, None, None].repeat(3, 2)
        even_out(lines)
        assert lines[:, 0, 0].tolist() == [102, 105, 107, 110]


class TestOldArchives:
    def test_the_overview_of_version_1_0_is_the_same_and_a_base_layer(self):
        with open_archive(_GOLDEN) as archive:
            found, base = archive.overview(), archive.base
            assert found is not None and base is not None
            level, shown = found
            assert level == base.level == 5 and shown.shape == (69, 88, 3)
            data = archive.overview_bytes()
            assert data is not None
            assert hashlib.sha256(data).hexdigest() == (
                "f422b18da33305eb8900f3bdf7805c00475f0ef7eb43ad74309179902891467a"
            )
            assert (base.codec, base.quality, base.size) == ("jpeg", 75, (88, 69))
            np.testing.assert_array_equal(base.read(10, 20, 30, 40), shown[20:60, 10:40])
            assert (base.read(88, 0, 5, 5) == 255).all()


class TestCodecs:
    @pytest.mark.parametrize("codec", CODECS)
    def test_round_trip(self, pixels, codec):
        part = pixels[:256, :300]
        for quality in (None,) if codec == "png" else (20, 90):
            data = encode_image(part, codec, quality)
            assert data == encode_image(part, codec, quality)
            found = decode_image(data, codec, (256, 300, 3), "x")
            error = np.abs(found.astype(int) - part).mean()
            assert error == 0 if codec == "png" else 0 < error < 6
            with pytest.raises(ArchiveError, match="x can't be decoded"):
                decode_image(data, codec, (256, 256, 3), "x")
            with pytest.raises(ArchiveError, match="x can't be decoded"):
                decode_image(data[:50], codec, (256, 300, 3), "x")

    @pytest.mark.parametrize("codec", [c for c in CODECS if c != "png"])
    def test_quality_costs_bytes(self, pixels, codec):
        sizes = [len(encode_image(pixels[:256, :256], codec, q)) for q in (5, 40, 95)]
        assert sizes == sorted(sizes) and sizes[0] < 0.8 * sizes[2]

    def test_a_codec_that_is_not_there(self, tmp_path, pixels, monkeypatch):
        path = make(tmp_path / "a.zldm", pixels, "webp")
        with monkeypatch.context() as patch:
            patch.setattr("imagecodecs.WEBP", type("Missing", (), {"available": False}))
            with pytest.raises(ConfigError, match="lacks webp"):
                encode_image(pixels, "webp", 50)
            with open_archive(path) as archive:
                assert archive.base is not None
                with pytest.raises(ArchiveError, match=r"coded as 'webp'.* reads avif, jpegxl"):
                    archive.base.read(0, 0, 9, 9)
                assert archive.embeddings_of([2], [3]).shape == (1, 8)


class TestDamage:
    def test_a_flipped_bit_is_an_error_where_it_lies(self, whole, tmp_path):
        import zipfile

        with zipfile.ZipFile(whole) as file:
            offset = file.getinfo("overview/c/0/1/0").header_offset
        broken = bytearray(whole.read_bytes())
        broken[offset + 5000] ^= 1
        path = tmp_path / "b.zldm"
        path.write_bytes(broken)
        with open_archive(path) as archive:
            assert archive.base is not None
            archive.base.read(0, 0, 512, 512)
            with pytest.raises(DamagedError, match="overview/c/0/1/0 differs"):
                archive.base.read(0, 0, 513, 512)
        assert any("overview/c/0/1/0" in problem for problem in verify_archive(path))

    def test_a_missing_chunk_is_an_error_and_not_white(self, corner, tmp_path):
        def drop(members):
            del members["overview/c/0/0/0"]

        path = forge(corner, tmp_path / "f.zldm", members=drop, relist=False)
        with pytest.raises(DamagedError, match="overview/c/0/0/0 is listed but missing"):
            open_archive(path)
        path = forge(corner, tmp_path / "g.zldm", members=drop)
        with open_archive(path) as archive:
            assert archive.base is not None
            with pytest.raises(ArchiveError, match="overview/c/0/0/0 is missing for its tissue"):
                archive.base.read(0, 0, 9, 9)
        assert verify_archive(path) != []

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"imagecodecs_png", b"pickle"),
            (b'"fill_value":255', b'"fill_value":0'),
            (b'"shape":[1250', b'"shape":[1251'),
            (b'"chunk_shape":[512', b'"chunk_shape":[51200'),
        ],
    )
    def test_forged_metadata(self, corner, tmp_path, old, new):
        def change(members):
            members["overview/zarr.json"] = members["overview/zarr.json"].replace(old, new, 1)

        path = forge(corner, tmp_path / "f.zldm", members=change)
        problems = verify_archive(path)
        assert len(problems) == 1 and "overview/zarr.json declares" in problems[0]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"width": 1 << 30}, "base does not have the size"),
            ({"chunk": 1 << 20}, r"base\.chunk"),
            ({"quality": 500}, r"base\.quality"),
            ({"level": 9}, r"base\.level"),
        ],
    )
    def test_forged_manifest(self, corner, tmp_path, change, said):
        def root(root):
            root["attributes"]["base"] |= change

        path = forge(corner, tmp_path / "f.zldm", root=root)
        with pytest.raises(ArchiveError, match=said):
            open_archive(path)

    def test_a_picture_of_another_size_is_refused(self, corner, tmp_path):
        def change(members):
            members["overview/c/0/0/0"] = encode_image(
                np.zeros((4096, 4096, 3), np.uint8), "png", None
            )

        path = forge(corner, tmp_path / "f.zldm", members=change)
        with open_archive(path) as archive:
            assert archive.base is not None
            with pytest.raises(ArchiveError, match="overview/c/0/0/0 can't be decoded"):
                archive.base.read(0, 0, 9, 9)


class TestWriting:
    def test_same_bytes(self, tmp_path, pixels):
        for name in ("a", "b"):
            make(tmp_path / name, pixels, "avif")
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_wrong_use(self, tmp_path, pixels):
        with ArchiveWriter(tmp_path / "a", make_header(*_SIZE, 8), np.zeros(8)) as writer:
            writer.add_embeddings([(0, 0)], np.ones((1, 8)))
            with pytest.raises(ValueError, match="before the base layer"):
                writer.add_base_chunk(0, 0, b"")
            with pytest.raises(ValueError, match="base layer is"):
                writer.add_base(3, pixels)
            with pytest.raises(ConfigError, match="does not exist"):
                writer.start_base(2, "gif")
            with pytest.raises(ConfigError, match="lossless"):
                writer.start_base(2, "png", 50)
            with pytest.raises(ConfigError, match="expected 1 to 100"):
                writer.start_base(2, "avif", 101)
            writer.add_base(2, pixels)
            with pytest.raises(ValueError, match="already"):
                writer.start_base(2)

    def test_halve_rounds_to_nearest(self):
        block = np.array([[0, 0, 0, 1], [1, 1, 1, 0]], np.uint8)[..., None].repeat(3, 2)
        np.testing.assert_array_equal(halve(block, 1)[..., 0], [[1, 1]])
