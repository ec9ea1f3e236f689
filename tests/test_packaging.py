"""What pyproject.toml says is so."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]
MODULES = {"scikit-learn": "sklearn", "scikit-image": "skimage"}


def sources() -> list[str]:
    return [file.read_text() for file in (ROOT / "src").rglob("*.py")]


@pytest.mark.parametrize("extra", [e for e in EXTRAS if e not in ("dev", "docs", "all")])
def test_extras_are_used(extra: str) -> None:
    """`mil` brought pandas, which no file imported."""
    text = "\n".join(sources())
    for requirement in EXTRAS[extra]:
        name = re.split(r"[<>=!~\[ ;]", requirement, maxsplit=1)[0]
        if name == "zoomldm":  # another extra of ours
            continue
        module = re.escape(MODULES.get(name, name.replace("-", "_")))
        assert re.search(rf"^\s*(import|from) {module}\b", text, re.M), name


def test_extras_that_messages_name_exist() -> None:
    pages = [f.read_text() for f in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]]
    named = set(re.findall(r"zoomldm\[(\w+)\]", "\n".join([*sources(), *pages])))
    assert {"encoders", "mil"} <= named <= set(EXTRAS)
