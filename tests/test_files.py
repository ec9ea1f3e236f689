"""Outputs appear whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from zoomldm.errors import TargetError
from zoomldm.files import atomic_path, claim, kept_apart

SOURCE = Path(__file__).parents[1] / "src"


def child(code: str, *arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        **options,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_success(tmp_path):
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    with atomic_path(target) as part:
        assert part.parent == tmp_path and part != target
        part.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new" and names(tmp_path) == ["out.bin"]


def test_failure_keeps_the_old(tmp_path):
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    with pytest.raises(KeyError), atomic_path(target) as part:
        part.write_bytes(b"half")
        raise KeyError
    assert target.read_bytes() == b"old" and names(tmp_path) == ["out.bin"]


def test_mode_follows_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("manager", [atomic_path, claim])
class TestTargets:
    def refused(self, manager, target: Path) -> str:
        with pytest.raises(TargetError) as error, manager(target):
            pass
        assert str(target) in str(error.value) and "\n" not in str(error.value)
        return str(error.value)

    def test_no_folder(self, manager, tmp_path):
        assert "does not exist; create it" in self.refused(manager, tmp_path / "none" / "a.zldm")
        assert names(tmp_path) == []

    def test_folder_is_a_file(self, manager, tmp_path):
        (tmp_path / "file").touch()
        assert "is not a folder" in self.refused(manager, tmp_path / "file" / "a.zldm")

    def test_target_is_a_folder(self, manager, tmp_path):
        assert "is a folder" in self.refused(manager, tmp_path)

    def test_target_is_a_device(self, manager):
        assert "regular file" in self.refused(manager, Path("/dev/null"))

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
    def test_unwritable_folder(self, manager):
        assert "can't be written" in self.refused(manager, Path("/proc/a.zldm"))


def test_full_target(tmp_path):
    code = """
        import resource, sys
        from zoomldm.errors import TargetError
        from zoomldm.files import atomic_path
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            with atomic_path(sys.argv[1]) as part:
                part.write_bytes(bytes(5000))
        except TargetError as error:
            print(error)
    """
    out, err = child(code, str(tmp_path / "a.zldm")).communicate(timeout=60)
    assert "can't be written" in out and "free some space" in out, err
    assert names(tmp_path) == []


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        (tmp_path / "missing").read_bytes()


HOLD = """
    import sys, time
    from zoomldm.files import atomic_path, claim
    with claim(sys.argv[1]), atomic_path(sys.argv[1]) as part:
        part.write_bytes(b"half")
        print("held", flush=True)
        time.sleep(60)
"""


def test_two_processes_on_one_target(tmp_path):
    target = tmp_path / "a.zldm"
    holder = child(HOLD, str(target))
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(TargetError, match="another process"), claim(target):
            pass
        with claim(tmp_path / "other.zldm"):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate(timeout=60)
    assert len(names(tmp_path)) == 2  # what the kill left: lock and part
    with claim(target), atomic_path(target) as part:
        part.write_bytes(b"whole")
    assert names(tmp_path) == ["a.zldm"] and target.read_bytes() == b"whole"


def test_claim_leaves_other_files(tmp_path):
    (tmp_path / ".a.zldm.notes.part").touch()
    (tmp_path / ".ab.zldm.0123456789abcdef.part").touch()
    with claim(tmp_path / "a.zldm"):
        pass
    assert names(tmp_path) == [".a.zldm.notes.part", ".ab.zldm.0123456789abcdef.part"]


def test_claim_ends_with_its_block(tmp_path):
    for _ in range(2):
        with claim(tmp_path / "a"):
            pass
    with pytest.raises(TargetError), claim(tmp_path / "a"), claim(tmp_path / "a"):
        pass
    assert names(tmp_path) == []


def test_importable_without_fcntl():
    """As on Windows, where an archive is to be read at least."""
    code = """
        import sys
        sys.modules["fcntl"] = None
        import zoomldm.files, zoomldm.archive
        print("read")
    """
    out, err = child(code).communicate(timeout=120)
    assert out == "read\n", err


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks(tmp_path, monkeypatch, number):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    target = tmp_path / "a.zldm"
    with pytest.warns(UserWarning, match="no locks") as caught, claim(target):
        assert len(caught) == 1 and str(tmp_path) in str(caught[0].message)
        with pytest.raises(TargetError, match="another process"), claim(target):
            pass
        with atomic_path(target) as part:
            part.write_bytes(b"whole")
    assert names(tmp_path) == ["a.zldm"]


def test_without_locks_a_cohort_s_claim_is_enough(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    target = tmp_path / "a.zldm"
    with kept_apart(), claim(target):
        assert names(tmp_path) == []  # nothing that a machine that dies could leave
        with atomic_path(target) as part:
            part.write_bytes(b"whole")
    assert names(tmp_path) == ["a.zldm"]


def test_killed_without_locks(tmp_path):
    code = """
        import errno, fcntl, os, sys
        from zoomldm.files import claim
        def refuse(*_):
            raise OSError(errno.ENOLCK, "No locks available")
        fcntl.flock = refuse
        with claim(sys.argv[1]):
            if sys.argv[2] == "die":
                os.kill(os.getpid(), 9)
            print("held")
    """
    child(code, str(tmp_path / "a.zldm"), "die").communicate(timeout=60)
    assert len(names(tmp_path)) == 1
    out, err = child(code, str(tmp_path / "a.zldm"), "live").communicate(timeout=60)
    assert out == "held\n", err
    assert names(tmp_path) == []


@pytest.mark.parametrize("length", [230, 250, 255])
def test_long_names(tmp_path, length):
    target = tmp_path / ("n" * (length - 5) + ".zldm")
    for data in (b"old", b"new"):
        with claim(target), atomic_path(target) as part:
            part.write_bytes(data)
    assert target.read_bytes() == b"new" and names(tmp_path) == [target.name]


def test_killed_with_a_long_name(tmp_path):
    target = tmp_path / ("n" * 250)
    holder = child(HOLD, str(target))
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=60)
    assert len(names(tmp_path)) == 2
    with claim(target):
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == []


def test_what_is_written_beside_is_cleaned_up_too(tmp_path):
    target, beside, other = (tmp_path / name for name in ("a.tif", "a.tif.json", "b.tif"))
    for name in (target, beside, other):
        (tmp_path / f".{name.name}.{'0' * 16}.part").touch()
    with claim(target, beside), atomic_path(beside) as part:
        part.write_bytes(b"new")
    assert names(tmp_path) == [f".b.tif.{'0' * 16}.part", "a.tif.json"]


@pytest.mark.parametrize("manager", [atomic_path, claim])
def test_name_that_is_too_long(tmp_path, manager):
    with (
        pytest.raises(TargetError, match=r"its name has 256 bytes; .* up to 255: give a shorter"),
        manager(tmp_path / ("é" * 128)),
    ):
        pass
    assert names(tmp_path) == []


def test_written_through_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    link, place = tmp_path / "a.zldm", tmp_path / "disk" / "b.zldm"
    link.symlink_to(place)
    for data in (b"old", b"new"):  # at first the link dangles
        with claim(link), pytest.raises(TargetError, match="another"), claim(place):
            pass
        with claim(link) as target, atomic_path(target) as part:
            assert part.parent == place.parent
            part.write_bytes(data)
        assert link.is_symlink() and place.read_bytes() == data
    assert names(tmp_path / "disk") == ["b.zldm"]


@pytest.mark.parametrize("manager", [atomic_path, claim])
def test_links_in_a_circle(tmp_path, manager):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(TargetError, match="leads back to itself"), manager(tmp_path / "a"):
        pass


def test_dangling_link_into_no_folder(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "none" / "b")
    with pytest.raises(TargetError, match="does not exist"), claim(tmp_path / "a"):
        pass
