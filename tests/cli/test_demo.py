"""README's first command."""

from pathlib import Path

from cli.conftest import Run


def test_demo_makes_no_parents(run: Run, tmp_path: Path) -> None:
    assert "made" in run("demo", "--out", tmp_path / "none" / "made").line
