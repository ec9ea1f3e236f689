"""The examples in docstrings, in README and in examples/ do what they say."""

import doctest
import inspect
import json
import re
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from synthetic import paint_slide
from tiny import filled_pipeline

import zoomldm
from zoomldm.pipeline import ZoomLDMPipeline

ROOT = Path(__file__).parents[1]
MODULES = (
    *("verbs", "tables", "pixels", "statistics", "geometry.levels", "geometry.orientation"),
    *("generation.options", "archive.verify"),
)
PUBLIC = [name for name in zoomldm.__all__ if inspect.isfunction(getattr(zoomldm, name))]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples begin with: a slide, its archive, a pipeline that draws."""
    folder = tmp_path_factory.mktemp("made")
    paint_slide(folder / "slide.tif", 1000, 800, tissue=0.8)
    filled_pipeline().save_pretrained(str(folder / "pipeline"))
    zoomldm.compress(folder / "slide.tif", folder / "slide.zldm", pipeline=str(folder / "pipeline"))
    return folder


@pytest.fixture
def place(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own with them, in which an example runs."""
    for path in inputs.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    (tmp_path / "features").mkdir()
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def run(examples: list[doctest.DocTest]) -> None:
    """Run examples; what they print must be what they say."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    said: list[str] = []
    for example in examples:
        doctest.DocTestRunner(optionflags=flags, verbose=False).run(example, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_have_an_example_that_runs(name: str, place: Path) -> None:
    function = getattr(zoomldm, name)
    finder = doctest.DocTestFinder(recurse=False)
    found = finder.find(function, name, globs={"zoomldm": zoomldm})
    assert found and found[0].examples, f"zoomldm.{name} has no example"
    run(found)


def test_examples_stand_under_their_heading() -> None:
    """The site took those without for quotes, and lists that they print for links."""
    bare = [f for f in (ROOT / "src").rglob("*.py") if re.search(r"\n *\n *>>> ", f.read_text())]
    assert not bare


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_modules(module: str, place: Path) -> None:
    found = doctest.DocTestFinder().find(import_module(f"zoomldm.{module}"))
    assert any(test.examples for test in found)
    run([test for test in found if test.examples])


def test_readme(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python, on a small slide with the pipeline of the tests."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    (place / "slide.zldm").unlink()
    paint_slide(place / "slide.svs", 6400, 6400, tissue=0.02)
    pipeline = zoomldm.load_pipeline(str(place / "pipeline"))

    def small(*_: object, **__: object) -> ZoomLDMPipeline:
        return pipeline

    for module in ("compression.compress", "rendering.exports", "rendering.opening"):
        monkeypatch.setattr(f"zoomldm.{module}.load_pipeline", small)
    monkeypatch.setattr("zoomldm.rendering.opening._loaded", {})
    exec(compile(code, "README.md", "exec"), {})
    assert {"slide.zldm", "region.tif"} <= {path.name for path in place.iterdir()}


@pytest.mark.parametrize("page", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks(page: Path, place: Path) -> None:
    cells = json.loads(page.read_text())["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    assert len(code) > 3 and not any(c.get("outputs") for c in cells)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, text in enumerate(code, 1):
        exec(compile(text, f"{page.name}, cell {number}", "exec"), names)
