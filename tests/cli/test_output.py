"""Tables: text as it is, names whole at any width."""

import json
import math

import pytest
from rich.console import Console

from zoomldm.cli.output import print_json, print_table, progress

NAME = "TCGA-A2-A0CL-01Z-00-DX1.06C83A4B-3A1D-4F3F-8F56-1A2B3C4D5E6F [part 1] [/b].zldm"


@pytest.mark.parametrize("columns", [None, "200", "80", "20"])
def test_names_stay_whole_and_brackets_stay(monkeypatch, capsys, columns):
    """Rich took `[encoders]` for markup, and broke a name over five lines at 80 columns."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    print_table(f"[title] {NAME}", ["archive [x]", "tiles"], [[NAME, 12], ["[red]b", 3456]])
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert f"[title] {NAME}" in lines
    assert any(NAME in line for line in lines[1:])
    assert "[red]b" in out and "3456" in out
    assert ("archive [x]" in out) == (columns not in ("80", "20"))
    print_table("optional", ["", ""], [["timm", "no; pip install 'zoomldm[encoders]'"]])
    assert "pip install 'zoomldm[encoders]'" in capsys.readouterr().out


def test_progress_shows_names_as_they_are(monkeypatch):
    import io

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr("zoomldm.cli.output.Console", lambda **_: console)
    with progress() as advance:
        advance("HIPT [CLS]4K [/x]", 1, 2)
    assert "HIPT [CLS]4K [/x]" in screen.getvalue()


def test_json_has_no_nan(capsys):
    print_json({"a": [1.5, math.nan, (math.inf, 2)], "b": "x"})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": [1.5, None, [None, 2]],
        "b": "x",
    }
