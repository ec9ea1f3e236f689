"""Pipelines behind URLs: fetched once, again where they changed, refused in one line."""

import json
from pathlib import Path

import pytest
from bucket import Bucket

from zoomldm.errors import PipelineError
from zoomldm.pipeline import build_pipeline, load_pipeline
from zoomldm.pipeline.behind_url import cache_folder, fetch_url

URL = "s3://b/models/mine/"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    build_pipeline("tiny", seed=2).save_pretrained(str(folder))
    (folder / "unet" / "pytorch_model.bin").write_bytes(b"a pickle")
    return folder


@pytest.fixture
def served(bucket: Bucket, saved: Path, tmp_path: Path, monkeypatch) -> Bucket:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for path in saved.rglob("*"):
        if path.is_file():
            name = path.relative_to(saved).as_posix()
            bucket.files[f"b/models/mine/{name}"] = path.read_bytes()
    return bucket


def gets(bucket: Bucket) -> list[str]:
    return [path.split("mine/")[1] for method, path in bucket.asked if method == "GET"]


def test_it_is_fetched_once_and_again_where_it_changed(served: Bucket, saved: Path) -> None:
    assert load_pipeline(URL).digest() == load_pipeline(str(saved)).digest()
    assert "unet/diffusion_pytorch_model.safetensors" in gets(served)
    assert "unet/pytorch_model.bin" not in gets(served)
    served.reset()
    folder = fetch_url(URL.rstrip("/"))
    assert gets(served) == ["model_index.json"] and not list(folder.rglob("*.bin"))
    key = "b/models/mine/unet/config.json"
    served.files[key] += b"\n"
    other = fetch_url(URL)
    assert other != folder and (other / "unet/config.json").read_bytes() == served.files[key]
    assert fetch_url(f"{served.url}/b/models/mine") not in (folder, other)


def test_what_is_refused_is_one_line_and_leaves_nothing(served: Bucket) -> None:
    index = json.loads(served.files["b/models/mine/model_index.json"])
    for value, expected in (
        (b"no", "is not JSON"),
        (b"[]", "is no list"),
        (json.dumps({**index, "../x": ["a", "b"]}).encode(), "is no name of a network"),
    ):
        served.files["b/models/mine/model_index.json"] = value
        with pytest.raises(PipelineError, match=expected) as error:
            load_pipeline(URL)
        assert "\n" not in str(error.value)
    with pytest.raises(PipelineError, match="does not exist"):
        load_pipeline("s3://b/none/")
    served.refuse = 403
    with pytest.raises(PipelineError, match="credentials"):
        load_pipeline(URL)
    assert not cache_folder().exists()
