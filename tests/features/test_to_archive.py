"""Archives from features as TRIDENT, CLAM and STAMP write them, and what is refused."""

import json

import h5py
import numpy as np
import pytest
from cli.conftest import run  # noqa: F401

from features.conftest import make, pipeline  # noqa: F401
from zoomldm.archive import open_archive, verify_archive
from zoomldm.errors import ConfigError, TargetError
from zoomldm.features import FeatureOptions, extract_features
from zoomldm.features.to_archive import ImportOptions, archive_from_features

TILES = np.array([[0, 1], [0, 2], [3, 4], [2, 0]])  # row, column
RNG = np.random.default_rng(0)
VALUES = RNG.standard_normal((4, 24)).astype(np.float32)


def write(path, name="features", values=VALUES, coords=None, at=None, root=None, **own):
    with h5py.File(path, "w") as file:
        file.attrs.update(root or {})
        file[name] = values
        file[name].attrs.update(own)
        if coords is not None:
            file["coords"] = coords
            file["coords"].attrs.update(at or {})
    return path


def trident(path, side=512, values=VALUES, tiles=TILES, **at):
    attributes = {
        "patch_size": 256,
        "patch_size_level0": side,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 0,
        "name": "s",
        "savetodir": "x",
        "level0_width": 5000,
        "level0_height": 3000,
    }
    at = {k: v for k, v in (attributes | at).items() if v is not None}
    return write(path, values=values, coords=tiles[:, ::-1] * side, at=at, encoder="uni_v1")


def check(path, layout, encoder):
    assert verify_archive(path) == []
    with open_archive(path) as archive:
        assert np.argwhere(archive.mask).tolist() == sorted(TILES.tolist())
        got = archive.embeddings_of(*TILES.T)
        cosine = (
            (got * VALUES).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(VALUES, axis=1)
        )
        assert cosine.min() > 0.999
        assert not archive.background.any()
        assert archive.manifest.slide.vendor == layout
        assert (archive.manifest.encoder.id, archive.manifest.encoder.digest) == encoder
        return archive.manifest


def test_trident(tmp_path):
    path = trident(tmp_path / "s.h5")
    found = archive_from_features(path, tmp_path)
    assert (found.layout, found.tissue_tiles, found.grid) == ("TRIDENT", 4, (6, 10))
    manifest = check(tmp_path / "s.zldm", "TRIDENT", ("uni_v1", "unknown"))
    assert manifest.slide.size == (2500, 1500) and manifest.slide.native_size == (5000, 3000)
    assert manifest.slide.mpp_x == 0.25
    assert manifest.slide.mpp_source == "features: 20x taken as 0.5 mpp"
    data = (tmp_path / "s.zldm").read_bytes()
    archive_from_features(path, tmp_path / "s.zldm")
    assert (tmp_path / "s.zldm").read_bytes() == data
    archive_from_features(path, tmp_path, ImportOptions(mpp=0.2526, precision="float16"))
    with open_archive(tmp_path / "s.zldm") as archive:
        assert archive.manifest.slide.mpp_x == 0.2526
        assert archive.manifest.slide.mpp_source == "option"


def test_clam(tmp_path):
    coords = TILES[:, ::-1] * 512
    bare = write(tmp_path / "a.h5", values=VALUES[None], coords=coords.astype(np.int32))
    with pytest.raises(ConfigError, match=r"coords have no scale \(no attributes\); pass --mpp"):
        archive_from_features(bare, tmp_path)
    archive_from_features(bare, tmp_path, ImportOptions(mpp=0.25))
    check(tmp_path / "a.zldm", "CLAM", ("unknown", "unknown"))
    at = {"patch_size": 256, "patch_level": 1, "downsample": np.array([2.0, 2.0])}
    archive_from_features(
        write(tmp_path / "b.h5", coords=coords, at=at), tmp_path, ImportOptions(mpp=0.25)
    )
    at = {"patch_size": 512, "patch_level": 0, "level_dim": np.array([6000, 3000])}
    archive_from_features(
        write(tmp_path / "c.h5", coords=coords, at=at), tmp_path, ImportOptions(mpp=0.25)
    )
    manifest = check(tmp_path / "c.zldm", "CLAM", ("unknown", "unknown"))
    assert manifest.slide.size == (3000, 1500)


def stamp(path, um=128.0, px=256, **more):
    root = {"unit": "um", "tile_size_um": um, "tile_size_px": px, "extractor": "chief"}
    return write(path, "feats", VALUES.astype(np.float16), TILES[:, ::-1] * um, root=root | more)


def test_stamp(tmp_path):
    archive_from_features(stamp(tmp_path / "s.h5"), tmp_path)
    manifest = check(tmp_path / "s.zldm", "STAMP", ("chief", "unknown"))
    assert manifest.slide.size == (5 * 256, 4 * 256)
    for bad, message in (
        (stamp(tmp_path / "a.h5", um=256.0), "tiles of 256 um in 256 px; expected 128 um in 256"),
        (stamp(tmp_path / "b.h5", px=224), "tiles of 128 um in 224 px"),
        (stamp(tmp_path / "c.h5", unit="px"), "says unit 'px' and tile_size_um 128"),
    ):
        with pytest.raises(ConfigError, match=message):
            archive_from_features(bad, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overlap": 64}, "tiles overlap by 64 px"),
        ({"patch_size": 512, "side": 1024}, "tiles of 512 px at 20x; expected 256 px at 20x"),
        ({"target_magnification": 10}, "256 px at 10x"),
        ({"patch_size_level0": None, "patch_size": None}, "don't say patch_size_level0"),
        ({"target_magnification": None}, "neither magnification nor mpp"),
        ({"tiles": np.array([[0, 0], [0, 1.5], [1, 2], [2, 2]])}, "off the grid of tiles 512 wide"),
        ({"tiles": np.array([[0, 0], [0, 1], [0, 1], [2, 2]])}, "2 features of one tile"),
        ({"level0_width": 1000}, "beyond the slide's 500 x 1500"),
        ({"values": np.where(VALUES > 2, np.nan, VALUES)}, "hold NaN or infinity"),
        ({"values": VALUES[:3]}, "3 features and 4 coordinates"),
    ],
)
def test_refused_with_a_reason(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        archive_from_features(trident(tmp_path / "s.h5", **change), tmp_path)
    assert not list(tmp_path.glob("*.zldm"))


def test_other_refusals(tmp_path):
    for path, message in (
        (write(tmp_path / "a.h5"), "no dataset 'coords'"),
        (write(tmp_path / "b.h5", name="x"), r"has \['x'\], expected a dataset 'features'"),
        (tmp_path / "none.h5", "not readable as h5 features"),
    ):
        with pytest.raises(ConfigError, match=message):
            archive_from_features(path, tmp_path)
    with pytest.raises(ConfigError, match=r"tiles of 512 px at 0\.5 mpp are 256\.0 um wide"):
        archive_from_features(trident(tmp_path / "s.h5"), tmp_path, ImportOptions(mpp=0.5))
    with pytest.raises(TargetError, match="no such folder"):
        archive_from_features(trident(tmp_path / "s.h5"), tmp_path / "none")


def test_one_tile(tmp_path):
    """Neighbours can't tell its size; passing --mpp again was no way out."""
    bare = write(tmp_path / "a.h5", values=VALUES[:1], coords=np.array([[512, 0]]))
    with pytest.raises(ConfigError, match="holds one tile, and coords don't say patch_size"):
        archive_from_features(bare, tmp_path, ImportOptions(mpp=0.25))
    sized = write(
        tmp_path / "b.h5", values=VALUES[:1], coords=np.array([[512, 0]]), at={"patch_size": 512}
    )
    assert archive_from_features(sized, tmp_path, ImportOptions(mpp=0.25)).tissue_tiles == 1


@pytest.mark.parametrize(
    "change",
    [
        {"level0_width": 5e9, "level0_height": 5e9},
        {"tiles": TILES * 10_000_000, "level0_width": None, "level0_height": None},
    ],
)
def test_sizes_that_no_slide_has(tmp_path, change):
    with pytest.raises(ConfigError, match=r"expected 1 to 2,147,483,648") as refused:
        archive_from_features(trident(tmp_path / "s.h5", **change), tmp_path)
    assert "\n" not in str(refused.value)


def test_our_own_tiles_come_back(make, pipeline, tmp_path):  # noqa: F811
    path = make(mpp=0.5048, size=(30000, 2600), boxes=((0, 9, 1, 110),))
    extract_features(path, tmp_path, FeatureOptions(source="tiles"))
    archive_from_features(
        tmp_path / "a.h5", tmp_path / "b.zldm", ImportOptions(precision="float16")
    )
    with open_archive(path) as one, open_archive(tmp_path / "b.zldm") as other:
        assert (other.rows, other.cols) == (one.rows, one.cols)
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(one.background, other.background)
        assert one.manifest.encoder == other.manifest.encoder
        assert other.manifest.slide.native_size == one.manifest.slide.native_size
        rows, cols = np.nonzero(one.mask)
        worst = np.abs(one.embeddings_of(rows, cols) - other.embeddings_of(rows, cols)).max()
        assert worst < 5e-3
    archive_from_features(tmp_path / "a.h5", tmp_path / "d.zldm", encoder="tiny")
    with open_archive(tmp_path / "d.zldm") as given, open_archive(path) as one:
        assert given.manifest.encoder == one.manifest.encoder
        np.testing.assert_array_equal(given.background, one.background)
    report = extract_features(
        tmp_path / "b.zldm", tmp_path, pipeline=pipeline
    )  # the encoder still fits
    with pytest.raises(ConfigError, match="of the summarizer, but an archive holds those of tiles"):
        archive_from_features(report.output, tmp_path / "c.zldm")


def named(path, name, dim):
    """TRIDENT's file of features of so many numbers."""
    values = RNG.standard_normal((4, dim)).astype(np.float32)
    trident(path, values=values)
    with h5py.File(path, "a") as file:
        file["features"].attrs["encoder"] = name
    return path


@pytest.mark.parametrize(
    ("name", "dim", "found"),
    [
        ("uni_v1", 1024, "uni"),
        ("mahmood-uni2", 1536, "uni2"),
        ("conch_v15", 768, "conch-v1.5"),
        ("hoptimus1", 1536, "h-optimus-1"),
        ("virchow2", 1280, "virchow2"),  # its class token alone: not our virchow2
        ("ctranspath", 768, "ctranspath"),
    ],
)
def test_encoders_under_the_names_of_other_tools(tmp_path, name, dim, found):
    report = archive_from_features(named(tmp_path / "a.h5", name, dim), tmp_path)
    assert (report.encoder.id, report.encoder.dim, report.encoder.digest) == (found, dim, "unknown")


def test_the_encoder_that_the_file_names(run, tmp_path, monkeypatch):  # noqa: F811
    file, asked = named(tmp_path / "a.h5", "uni_v1", 1024), []

    class Fake:
        batch, digest, embedding_dim = 1, "d" * 64, 1024

        def __init__(self, id):
            self.id = id

        def encode_tiles(self, tiles):
            return np.full((len(tiles), 1024), tiles.mean(), np.float32)

    def load(name, *options):
        asked.append(name)
        return Fake(name)

    monkeypatch.setattr("zoomldm.encoders.load_encoder", load)
    monkeypatch.setattr("zoomldm.features.to_archive.load_encoder", load)
    with pytest.raises(ConfigError, match=r"says that uni_v1 made its features, not virchow2; gi"):
        archive_from_features(file, tmp_path, encoder=Fake("virchow2"))
    other = named(tmp_path / "b.h5", "uni_v1", 1024)
    done = run("import", file, other, "-o", tmp_path, "--encoder", "auto", "--json")
    assert done.code == 0 and asked == ["uni"]  # once for both
    with open_archive(tmp_path / "a.zldm") as archive:
        assert (archive.manifest.encoder.id, archive.manifest.encoder.digest) == ("uni", "d" * 64)
        assert archive.background.min() > 254
    archive_from_features(file, tmp_path / "c.zldm", encoder="auto")
    assert asked == ["uni", "uni"]
    line = run("import", named(tmp_path / "d.h5", "chief", 768), "-o", tmp_path,
               "--encoder", "auto").line  # fmt: skip
    assert "names the patch encoder 'chief', with 768 numbers a tile, which is none of uni" in line
    line = run("import", file, "-o", tmp_path, "--encoder-precision", "float16").line
    assert "--encoder-precision float16 needs --encoder" in line


@pytest.mark.parametrize(
    "option", [("--turn", 1), ("--base", "none"), ("--tissue", "all"), ("--for-training",)]
)
def test_options_of_slides_are_refused(run, tmp_path, option):  # noqa: F811
    """They were dropped without a word."""
    file = trident(tmp_path / "a.h5")
    line = run("compress", "--from-features", file, "-o", tmp_path, *option).line
    assert f"{option[0]} is for slides" in line
    assert run("compress", "--from-features", file, "-o", tmp_path, "--mpp", 0.25).code == 0


def test_the_command(run, tmp_path):  # noqa: F811
    good, bad = trident(tmp_path / "a.h5"), trident(tmp_path / "b.h5", overlap=1)
    done = run("import", good, bad, "-o", tmp_path, "--json")
    assert done.code == 3
    found = json.loads(done.out)
    assert found["archives"][0]["archive"] == str(tmp_path / "a.zldm")
    assert "overlap" in found["failed"][0]["error"]
    assert "overlap" in run("compress", "--from-features", bad, "-o", tmp_path).line
    done = run("compress", "--from-features", good, "-o", tmp_path / "c.zldm")
    assert done.code == 0 and "TRIDENT" in done.out
    line = run("compress", "--from-features", good, "-o", tmp_path, "--encoder", "tiny").line
    assert "features of 24 numbers, but that patch encoder gives 32" in line
