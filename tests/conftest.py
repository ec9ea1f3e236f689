"""Fixtures shared by all tests."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from bucket import Bucket

torch.set_num_threads(1)  # small tensors: threads cost more than they bring

_SHARED = Path(os.environ.get("ZOOMLDM_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real slides and fixtures beside the checkout; skips where it is absent."""
    if not (_SHARED / "README.md").exists():
        pytest.skip(f"real slides not present at {_SHARED} (set ZOOMLDM_SHARED)")
    return _SHARED


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """The GPU that tests marked `gpu` run on; ZOOMLDM_GPU=cpu tries them where there is none."""
    name = os.environ.get("ZOOMLDM_GPU", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here; where one is, `pytest -m gpu` runs these tests")
    return torch.device(name)


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Callable[[str], None]]:
    """Runs code in another process, which knows nothing of this one; started once for all tests."""
    one_thread = "import torch; torch.set_num_threads(1)\n"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield lambda code: pool.apply(exec, (one_thread + code, {}))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Files behind http://, and as buckets of s3://; skips where obstore is not installed."""
    pytest.importorskip("obstore")
    from zoomldm.remote import _store

    server = Bucket()
    _store.cache_clear()
    for name in [n for n in os.environ if n.startswith(("AWS_", "HTTP_PROXY", "http_proxy"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", os.environ.get("ZOOMLDM_S3", server.url))
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.close()
    _store.cache_clear()
