"""The rooms of docs/architecture.md: imports run downward only, and files stay of one noun."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "zoomldm"

# From the top down; each may import what stands below it, and nothing else.
ORDER = (
    *("__main__", "cli", "viewer"),
    *("mil", "evaluation", "training"),
    *("editing", "compression", "sampling", "rendering", "features"),
    *("released", "encoders", "generation", "data", "pipeline"),
    *("cohort", "writers", "slides", "archive"),
    *("diffusion", "networks", "geometry"),
    *("verbs", "files", "remote", "caching", "cores", "tables", "statistics", "pixels", "errors"),
)
LONGEST = 400
# Files that may be longer for now, and up to what.
LONGER: dict[str, int] = {}


def room_of(path: Path, source: Path = SOURCE) -> str:
    """Folder of a file, or its own name where it lies at the root."""
    parts = path.relative_to(source).with_suffix("").parts
    return parts[0]


def imports(text: str) -> Iterator[tuple[int, str]]:
    """Line and room of every import of the package in a source text, lazy ones too."""
    for node in ast.walk(ast.parse(text)):
        modules: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "zoomldm":
            modules = [f"zoomldm.{a.name}" for a in node.names if a.name != "__version__"]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [node.module or ""]
        elif isinstance(node, ast.Import):
            modules = [a.name for a in node.names]
        for module in modules:
            if module.startswith("zoomldm."):
                yield node.lineno, module.split(".")[1]


def upward(source: Path = SOURCE) -> list[str]:
    """Imports that run upward or sideways, and rooms without a place in the order."""
    found = []
    for path in sorted(source.rglob("*.py")):
        room = room_of(path, source)
        if room == "__init__":
            continue  # the public names, which look up every room when they are used
        if room not in ORDER:
            found.append(f"{path.relative_to(source)}: {room} is no room of ORDER")
            continue
        for line, other in imports(path.read_text(encoding="utf-8")):
            if other not in ORDER:
                found.append(f"{path.relative_to(source)}:{line}: {other} is no room of ORDER")
            elif other != room and ORDER.index(other) < ORDER.index(room):
                found.append(f"{path.relative_to(source)}:{line}: {room} imports {other} above it")
    return found


def too_long(source: Path = SOURCE) -> list[str]:
    """Files with more lines than they may have."""
    found = []
    for path in sorted(source.rglob("*.py")):
        name, lines = path.relative_to(source).as_posix(), len(path.read_text("utf-8").splitlines())
        if lines > LONGER.get(name, LONGEST):
            found.append(f"{name} has {lines} lines; split it by its nouns")
    return found


def module_circles(source: Path = SOURCE) -> list[str]:
    """Modules that import each other at load time, within a room too."""
    graph: dict[str, set[str]] = {}
    for path in source.rglob("*.py"):
        parts = ("zoomldm", *path.relative_to(source).with_suffix("").parts)
        name = ".".join(parts).removesuffix(".__init__")
        graph[name] = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zoomldm"):
                graph[name] |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
            elif isinstance(node, ast.Import):
                graph[name] |= {a.name for a in node.names}
    # A room's front door stands for the room, and its own modules go past it.
    done: set[str] = set()
    found: list[str] = []

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append(" -> ".join([*path[path.index(name) :], name]))
            return
        if name in done:
            return
        for other in sorted(graph[name] & graph.keys() - {name, "zoomldm"}):
            if not name.startswith(f"{other}."):
                visit(other, [*path, name])
        done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


def test_arrows_run_downward() -> None:
    assert not upward(), "\n".join(upward())


def test_no_module_circles() -> None:
    assert not module_circles(), "\n".join(module_circles())


def test_files_stay_short() -> None:
    assert not too_long(), "\n".join(too_long())


@pytest.mark.parametrize(
    ("text", "room"),
    [
        ("from zoomldm.sampling.sampler import Sampler", "sampling"),
        ("import zoomldm.mil.run", "mil"),
        ("from zoomldm import cli", "cli"),
        ("def f():\n    from zoomldm.training import train", "training"),
    ],
)
def test_an_upward_import_is_found(tmp_path: Path, text: str, room: str) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "pipeline.py").write_text(text)
    (found,) = upward(tmp_path)
    assert f"pipeline imports {room} above it" in found


def test_a_loose_module_a_circle_and_a_long_file_are_found(tmp_path: Path) -> None:
    (tmp_path / "loose.py").write_text("x = 1\n" * (LONGEST + 1))
    (tmp_path / "mil").mkdir()
    (tmp_path / "mil" / "a.py").write_text("from zoomldm.mil.b import x")
    (tmp_path / "mil" / "b.py").write_text("from zoomldm.mil import a")
    assert upward(tmp_path) == ["loose.py: loose is no room of ORDER"]
    assert too_long(tmp_path) == [f"loose.py has {LONGEST + 1} lines; split it by its nouns"]
    assert module_circles(tmp_path) == ["zoomldm.mil.a -> zoomldm.mil.b -> zoomldm.mil.a"]
