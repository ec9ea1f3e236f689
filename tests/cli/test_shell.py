"""What all verbs share: start, help, exit codes."""

import logging
import os
import subprocess
import sys
from typing import get_args, get_type_hints

import pytest

VERBS = (
    *("compress", "decompress", "info", "verify", "sample", "features", "mil"),
    *("import", "train", "convert", "models", "doctor", "evaluate"),
)


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

    monkeypatch.setattr("zoomldm.cli.diagnosis.diagnose", full)
    assert run("doctor").line == "zoomldm: /tmp/x: No space left on device"


def test_an_interruption_says_so(run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoomldm.cli.diagnosis.diagnose", stop)
    outcome = run("doctor")
    assert outcome.code == 130 and "interrupted" in outcome.err


def test_a_full_gpu_is_one_line(run, monkeypatch):
    import torch

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("zoomldm.cli.diagnosis.diagnose", full)
    assert "the GPU's memory is full: pass a smaller --batch" in run("doctor").line


@pytest.mark.parametrize("named", [False, True])
def test_a_fault_of_ours_keeps_its_traceback(monkeypatch, named):
    from zoomldm import cli

    class FaultError(ZeroDivisionError):
        pass

    def fail(*_):
        error = FaultError()
        if named:  # as click's exceptions have, and others may
            error.format_message = lambda: "hidden"  # type: ignore[attr-defined]
        raise error

    monkeypatch.setattr("zoomldm.cli.diagnosis.diagnose", fail)
    monkeypatch.setattr("sys.argv", ["zoomldm", "doctor"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_warnings_are_one_line(run, monkeypatch):
    import warnings

    def warn(*_):
        warnings.warn("odd\nslide", stacklevel=1)
        return {"self_test": {"passed": True}}

    monkeypatch.setattr("zoomldm.cli.diagnosis.diagnose", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("doctor").err == "zoomldm: warning: odd slide\n"


def test_version(run):
    from zoomldm import __version__

    outcome = run("--version")
    assert (outcome.code, outcome.out) == (0, f"zoomldm {__version__}\n")


@pytest.mark.parametrize("where", [0, 1, 2])
def test_debug_says_where_an_error_comes_from(run, tmp_path, where):
    arguments = ["info", str(tmp_path / "none.zldm")]
    assert run(*arguments).err.count("\n") == 1
    arguments.insert(where, "--debug")
    outcome = run(*arguments)
    assert outcome.code == 2
    assert "Traceback" in outcome.err and "FileNotFoundError" in outcome.err
    last = outcome.err.splitlines()[-1]
    assert last.startswith("zoomldm: ") and "none.zldm: does not exist" in last
    assert "Traceback" not in run("info", "--", "--debug").err  # a file of that name


def test_log_file_holds_errors_in_full(run, tmp_path):
    log = tmp_path / "run.log"
    for _ in range(2):
        outcome = run("--log", log, "info", tmp_path / "none.zldm")
        assert outcome.err.count("\n") == 1
    assert log.read_text().count("Traceback (most recent call last)") >= 2
    assert "--log" in run("--log", tmp_path / "no" / "x.log", "info", "a.zldm").line


def test_the_library_s_warnings_are_one_line(run, monkeypatch):
    def warn(*_):
        logging.getLogger("zoomldm.x").warning("odd\n%s", "slide")
        logging.getLogger("zoomldm.x").info("not shown")
        return {"self_test": {"passed": True}}

    monkeypatch.setattr("zoomldm.cli.diagnosis.diagnose", warn)
    assert run("doctor").err == "zoomldm: warning: odd slide\n"
    assert "not shown" in run("doctor", "--debug").err


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        (["compress", "a.svs", "-o", "a.zldm", "--precision", "x"], ("int8", "float16")),
        (["compress", "a.svs", "-o", "a.zldm", "--tissue", "x"], ("otsu", "all")),
        (["decompress", "a.zldm", "-o", "a.tif", "--precision", "x"], ("float32", "bfloat16")),
        (["sample", "-o", "a", "--precision", "x"], ("float32", "bfloat16")),
        (["features", "a.zldm", "-o", "a", "--source", "x"], ("summarizer", "tiles", "unet")),
        (["features", "a.zldm", "-o", "a", "--format", "x"], ("h5", "pt", "npy")),
        (["features", "a.zldm", "-o", "a", "--precision", "x"], ("float32", "float16", "int8")),
        (["mil", "--features", "a", "-o", "a", "--protocol", "x"], ("hipt", "clean")),
        (["train", "--data", "a", "-o", "a", "--stage", "x"], ("diffusion", "autoencoder")),
    ],
)
def test_choices_are_listed(run, arguments, choices):
    line = run(*arguments).line
    assert "'x'" in line and all(f"'{choice}'" in line for choice in choices)
    assert all(choice in run(arguments[0], "--help").out for choice in choices)


def test_choices_are_the_library_s():
    from zoomldm.cli.train import train
    from zoomldm.training.config import TABLE
    from zoomldm.training.registry import STAGES

    def choices(name):
        return set(get_args(get_args(get_type_hints(train, include_extras=True)[name])[0]))

    assert choices("stage") == set(STAGES)
    assert choices("preset") == set(TABLE)


def test_every_output_is_out(run):
    for verb in VERBS:
        text = run(verb, "--help").out
        assert "--output" not in text
    for verb in (
        "compress",
        "decompress",
        "sample",
        "features",
        "import",
        "mil",
        "train",
        "convert",
    ):
        assert "-o, --out" in run(verb, "--help").out


@pytest.mark.parametrize(
    "verb", ["compress", "decompress", "sample", "features", "mil", "train", "evaluate networks"]
)
def test_every_verb_that_runs_networks_has_a_device(run, verb):
    assert "--device" in run(*verb.split(), "--help").out


def test_convert_takes_its_old_option(run, tmp_path):
    for option in ("-o", "--out", "--output"):
        line = run("convert", tmp_path / "none.ckpt", option, tmp_path / "p").line
        assert "none.ckpt" in line
    assert "--out" in run("convert", "a.ckpt").line


def test_shell_completion():
    code = "from zoomldm import cli; cli.main()"
    given = {"_ZOOMLDM_COMPLETE": "complete_bash", "COMP_WORDS": "zoomldm deco", "COMP_CWORD": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | given
    )
    assert found.stdout.split() == ["decompress"], found.stderr


def test_names_outside_the_terminal_s_alphabet(archive, tmp_path):
    """`info` of such a file was a traceback under PYTHONIOENCODING=ascii."""
    path = tmp_path / "\u0142\U0001f52c.zldm"
    path.write_bytes(archive.read_bytes())
    found = subprocess.run(
        [sys.executable, "-m", "zoomldm", "info", str(path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert found.returncode == 0 and "tissue_tiles" in found.stdout, found.stderr
