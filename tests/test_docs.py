"""What README and docs/ show: commands that exist, with options that they have, and live links."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from zoomldm.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND: Any = typer.main.get_command(app)  # click's, whichever copy of it typer has


def commands(text: str) -> list[str]:
    """Commands of a page: lines of code blocks, and code within lines."""
    blocks = re.findall(r"^```(?:sh|bash|console|text)?\n(.*?)^```", text, re.M | re.S)
    indented = re.findall(r"^    (zoomldm .*)$", text, re.M)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`(zoomldm [^`]*)`", text)
    found = [*lines, *indented, *inline]
    return [" ".join(c.split()) for c in found if c.lstrip("$ ").startswith("zoomldm ")]


def options(words: list[str]) -> tuple[Any, set[str]]:
    """The command that words name, and the options among them."""
    command = COMMAND
    for word in words:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
    # `evaluate SLIDE...` is `evaluate networks SLIDE...`
    command = getattr(command, "commands", {}).get("networks", command)
    return command, {w.split("=")[0] for w in words if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", w)}


def unknown(text: str) -> list[str]:
    """Verbs and options of a command that do not exist."""
    try:
        words = shlex.split(text.lstrip("$ "), comments=True)[1:]
    except ValueError:  # an apostrophe of the prose
        words = text.split()[1:]
    words = [w.strip("[](),.;") for w in words if w not in ("...", "|", "...]")]
    shared = {"--help", "--debug", "--log", "--version", "--install-completion"}
    if not words or words[0].startswith(("-", "<", "{")) or words[0].isupper():
        return []
    if words[0] not in COMMAND.commands:
        return [f"{text}: no verb {words[0]!r}"]
    command, given = options(words)
    has = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | shared
    return [f"{text}: {command.name} has no {option}" for option in sorted(given - has)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    wrong = [line for text in commands(page.read_text()) for line in unknown(text)]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_command_is_found() -> None:
    (good,) = commands("    zoomldm compress SLIDE... -o OUT\n")
    assert not unknown(good)
    assert unknown("zoomldm squash a.svs") == ["zoomldm squash a.svs: no verb 'squash'"]
    assert unknown("zoomldm compress a.svs --out b --best") == [
        "zoomldm compress a.svs --out b --best: compress has no --best"
    ]
    assert len(commands("```sh\nzoomldm info a.zldm\n```\nand `zoomldm verify`")) == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_in_the_site() -> None:
    listed = set(re.findall(r"[\w./-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert {p.name for p in (ROOT / "docs").glob("*.md")} == listed
