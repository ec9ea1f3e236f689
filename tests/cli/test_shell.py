"""What all verbs share: start, help, exit codes."""

import subprocess
import sys

import pytest

VERBS = ("compress", "decompress", "info", "verify", "train", "doctor")


def test_importing_the_command_line_loads_nothing_heavy():
    code = (
        "import sys, zoomldm.cli\n"
        "heavy = {'torch', 'diffusers', 'zarr', 'openslide', 'tifffile', 'numpy', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_as_a_module(tmp_path):
    command = [sys.executable, "-m", "zoomldm", "info", str(tmp_path / "none.zldm")]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.startswith("zoomldm: ") and found.stderr.count("\n") == 1


def test_help(run):
    for arguments in ([], ["--help"]):
        outcome = run(*arguments)
        assert outcome.code == 0
        assert all(verb in outcome.out for verb in VERBS)
    for verb in VERBS:
        assert run(verb, "--help").code == 0


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["squeeze"], "squeeze"),
        (["compress"], "SLIDE"),
        (["compress", "a.svs"], "--out"),
        (["compress", "a.svs", "-o", "a.zldm", "--mpp", "half"], "--mpp"),
        (["compress", "a.svs", "-o", "a.zldm", "--colour"], "--colour"),
        (["decompress", "a.zldm", "-o", "a.tif", "--steps", "many"], "--steps"),
        (["info"], "ARCHIVE"),
    ],
)
def test_wrong_use_is_one_line(run, arguments, found):
    line = run(*arguments).line
    assert found in line and "--help" in line


def test_an_error_of_the_system_is_one_line(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "/tmp/x")

    monkeypatch.setattr("zoomldm.archive.verify_archive", full)
    assert run("verify", "a.zldm").line == "zoomldm: /tmp/x: No space left on device"


def test_an_interruption_says_so(run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoomldm.archive.verify_archive", stop)
    outcome = run("verify", "a.zldm")
    assert outcome.code == 130 and "interrupted" in outcome.err


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    from zoomldm import cli

    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("zoomldm.archive.verify_archive", fail)
    monkeypatch.setattr("sys.argv", ["zoomldm", "verify", "a.zldm"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_warnings_are_one_line(run, monkeypatch):
    import warnings

    def warn(*_):
        warnings.warn("odd\nslide", stacklevel=1)
        return []

    monkeypatch.setattr("zoomldm.archive.verify_archive", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("verify", "a.zldm").err == "zoomldm: warning: odd slide\n"
