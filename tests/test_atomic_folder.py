"""A folder that appears whole or not at all, whatever had its name."""

from pathlib import Path

import pytest

from zoomldm import files
from zoomldm.errors import TargetError
from zoomldm.files import atomic_folder


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("before", ["nothing", "empty", "old"])
def test_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, exchange: bool
) -> None:
    target = tmp_path / "networks"
    if before != "nothing":
        target.mkdir()
    if before == "old":
        (target / "old").write_text("old")
    if not exchange:
        monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())
    with atomic_folder(target) as fresh:
        (fresh / "new").write_text("new")
        assert not (target / "new").exists()
    assert names(target) == ["new"] and names(tmp_path) == ["networks"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "networks"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(target) as fresh:
        (fresh / "new").write_text("new")
        raise RuntimeError
    assert names(target) == ["old"] and names(tmp_path) == ["networks"]


def test_the_name_is_never_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when what had the name is being removed: the new folder has it already."""
    target = tmp_path / "networks"
    target.mkdir()
    (target / "old").write_text("old")
    seen: list[list[str]] = []
    remove = files.shutil.rmtree

    def noted(folder: Path, ignore_errors: bool = False) -> None:
        seen.append(names(target))
        remove(folder, ignore_errors=ignore_errors)

    monkeypatch.setattr(files.shutil, "rmtree", noted)
    with atomic_folder(target) as fresh:
        (fresh / "new").write_text("new")
    assert seen == [["new"]]


def test_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError, match="is a file"), atomic_folder(tmp_path / "file"):
        pass
    with pytest.raises(TargetError, match="create it first"), atomic_folder(tmp_path / "no" / "a"):
        pass
