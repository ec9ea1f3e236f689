"""Pipelines on the hub, against a fake of its client."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from zoomldm.errors import PipelineError
from zoomldm.pipeline import build_pipeline, load_pipeline
from zoomldm.pipeline.hub import FILES, fetch_pipeline, model_card, push_pipeline

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories as folders, a cache, and whether the network is there."""

    def __init__(self, root: Path) -> None:
        self.root, self.cache, self.online = root / "hub", root / "cache", True
        self.fetched = 0
        self.created: list[tuple[str, bool]] = []
        for folder in (self.root, self.cache):
            folder.mkdir()

    def snapshot_download(self, repo, *, revision, allow_patterns, local_files_only=False) -> str:
        assert allow_patterns == FILES
        place = self.cache / repo.replace("/", "--") / COMMIT
        if local_files_only or not self.online:
            if not place.is_dir():
                raise errors.LocalEntryNotFoundError("not in the cache")
            return str(place)
        if not (self.root / repo).is_dir():
            raise errors.RepositoryNotFoundError("404", response=self.answer(404))
        if revision not in ("main", COMMIT):
            raise errors.RevisionNotFoundError("404", response=self.answer(404))
        self.fetched += 1
        shutil.copytree(self.root / repo, place, dirs_exist_ok=True)
        return str(place)

    def answer(self, status: int) -> SimpleNamespace:
        return SimpleNamespace(status_code=status, headers={}, request=None, url="")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    fake = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)

    class Api:
        def __init__(self, **_):
            pass

        def create_repo(self, repo, *, repo_type, private, exist_ok):
            if repo.startswith("others/"):
                raise errors.HfHubHTTPError("403", response=fake.answer(403))
            fake.created.append((repo, private))

        def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
            assert allow_patterns == FILES and commit_message
            shutil.copytree(folder_path, fake.root / repo_id, dirs_exist_ok=True)
            return SimpleNamespace(oid=COMMIT, commit_url=f"https://hub/{repo_id}/{COMMIT}")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return fake


def test_pushed_and_loaded_again(hub) -> None:
    pipeline = build_pipeline("tiny")
    pushed = push_pipeline(pipeline, "me/tiny", licence="MIT", data="Painted slides.")
    assert hub.created == [("me/tiny", True)] and pushed["pipeline"] == f"hf:me/tiny@{COMMIT}"
    files = {p.relative_to(hub.root / "me/tiny").as_posix() for p in hub.root.rglob("*.*")}
    assert {"model_index.json", "README.md"} <= files
    assert not [f for f in files if f.endswith((".bin", ".pt", ".py"))]
    again = load_pipeline(pushed["pipeline"])
    assert again.digest() == pipeline.digest() == pushed["digest"]
    load_pipeline(pushed["pipeline"])
    assert hub.fetched == 1  # a commit never changes
    hub.online = False
    assert fetch_pipeline(pushed["pipeline"]).name == COMMIT


def test_a_branch_is_told_to_be_one(hub, monkeypatch) -> None:
    messages = []
    monkeypatch.setattr(
        "zoomldm.pipeline.hub._log.warning", lambda text, *a: messages.append(text % a)
    )
    push_pipeline(build_pipeline("tiny"), "me/tiny", licence="mit")
    fetch_pipeline("hf:me/tiny")
    assert len(messages) == 1 and f"hf:me/tiny@{COMMIT} always is this one" in messages[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf:me", "expected hf:OWNER/NAME@REVISION"),
        ("hf:me/none", "the hub has no me/none"),
        ("hf:me/tiny@v9", "me/tiny has no revision v9"),
    ],
)
def test_names_that_are_none(hub, name: str, expected: str) -> None:
    push_pipeline(build_pipeline("tiny"), "me/tiny", licence="mit")
    with pytest.raises(PipelineError, match=expected):
        load_pipeline(name)


def test_offline_is_told(hub) -> None:
    hub.online = False
    for revision in (COMMIT, "main"):
        with pytest.raises(PipelineError, match="not in the cache and the hub can't be reached"):
            load_pipeline(f"hf:me/tiny@{revision}")


def test_pushes_that_are_refused(hub) -> None:
    pipeline = build_pipeline("tiny")
    with pytest.raises(PipelineError, match=r"refused it \(status 403\); log in with"):
        push_pipeline(pipeline, "others/tiny", licence="mit")
    with pytest.raises(PipelineError, match="expected OWNER/NAME"):
        push_pipeline(pipeline, "tiny", licence="mit")


def test_the_card_says_what_it_is() -> None:
    card = model_card(build_pipeline("tiny"), "me/tiny", "MIT", "Painted slides.")
    assert card.startswith("---\n") and "license: mit" in card and "library_name: zoomldm" in card
    assert "Painted slides." in card and "Not for diagnosis" in card and "| unet |" in card
