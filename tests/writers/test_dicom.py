"""DICOM written and opened by pydicom, wsidicom, OpenSlide and, where it is there, dciodvfy."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import openslide
import pytest
from painted import PROVENANCE, Painted, content, write

from zoomldm.errors import ConfigError, TargetError
from zoomldm.writers.dicom import Dicom

pydicom = pytest.importorskip("pydicom")
SIZES = [(2300, 1400), (1150, 700), (575, 350), (288, 175)]


@pytest.fixture(scope="module")
def source() -> Painted:
    return Painted(2300, 1400, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, source: Painted) -> Path:
    return write(tmp_path_factory.mktemp("dicom") / "a.dcm", Dicom(), source)


def test_openslide_reads_every_level(folder: Path, source: Painted) -> None:
    with openslide.OpenSlide(folder / "level-0-20x.dcm") as slide:
        assert slide.properties["openslide.vendor"] == "dicom"
        assert list(slide.level_dimensions) == SIZES
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        for level, picture in enumerate(source.pictures):
            found = slide.read_region((0, 0), level, SIZES[level]).convert("RGB")
            assert np.abs(np.asarray(found, int) - picture).mean() < 6


def test_wsidicom_reads_every_level(folder: Path, source: Painted) -> None:
    wsidicom = pytest.importorskip("wsidicom")
    with wsidicom.WsiDicom.open(folder) as slide:
        assert [(level.size.width, level.size.height) for level in slide.levels] == SIZES
        assert slide.levels[1].mpp.width == pytest.approx(1.0)
        found = np.asarray(slide.read_region((700, 300), 0, (600, 500)).convert("RGB"), int)
        assert np.abs(found - source.pictures[0][300:800, 700:1300]).mean() < 6


def test_what_an_instance_says(folder: Path) -> None:
    found = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    assert [ds.SyntheticData for ds in found] == ["YES", "YES", "NO", "NO"]
    first, last = found[0], found[-1]
    assert list(first.ImageType) == ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    assert first.LossyImageCompression == "01" and first.LossyImageCompressionRatio > 1
    assert first.DerivationDescription.startswith("Synthetic: pixels generated")
    assert last.DerivationDescription.startswith("Not synthetic")
    assert "seed=3" in first.DerivationDescription
    assert first.NumberOfFrames == 9 * 6
    assert len({ds.SOPInstanceUID for ds in found}) == 4
    assert len({ds.SeriesInstanceUID for ds in found}) == 1
    for ds in found:
        assert ds.PatientName == ds.PatientID == ds.PatientBirthDate == ""
        assert "patient-7" not in str(ds) and "a.zldm" not in str(ds)
        for data in (ds.SOPInstanceUID, ds.StudyInstanceUID):
            assert pydicom.uid.UID(data).is_valid
    note = json.loads((folder / "zoomldm.json").read_text())
    assert note == {k: v for k, v in PROVENANCE.items() if k not in ("archive", "slide")}


def test_dciodvfy_finds_no_fault(folder: Path) -> None:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
    for path in folder.glob("*.dcm"):
        done = subprocess.run([program, str(path)], capture_output=True, text=True)
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
        # Synthetic Data is younger than the version of the standard that it knows.
        assert [e for e in errors if "(0x0008,0x001c)" not in e] == []


def test_going_on_gives_the_same_bytes(tmp_path: Path, folder: Path, source: Painted) -> None:
    stopped = Painted(2300, 1400, 4, fail_at=7, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.dcm", Dicom(), stopped)
    assert content(write(tmp_path / "a.dcm", Dicom(), source)) == content(folder)


def test_other_pixels_have_other_uids(tmp_path: Path, folder: Path, source: Painted) -> None:
    other = write(tmp_path / "a.dcm", Dicom(quality=80), source)
    uids = [pydicom.dcmread(f / "level-0-20x.dcm").SOPInstanceUID for f in (folder, other)]
    assert uids[0] != uids[1]


def test_a_folder_that_is_not_ours_and_a_missing_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Painted
) -> None:
    (tmp_path / "a.dcm").mkdir()
    (tmp_path / "a.dcm" / "1.dcm").write_bytes(b"a scan")
    with pytest.raises(TargetError, match="was not written by zoomldm"):
        write(tmp_path / "a.dcm", Dicom(), source)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'zoomldm\[dicom\]'"):
        write(tmp_path / "b.dcm", Dicom(), source)
