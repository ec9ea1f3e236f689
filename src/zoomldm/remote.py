"""Files by URL (`s3://`, `gs://`, `az://`, `https://`): read in parts, written whole or not at all.

Credentials and endpoints are found where each service's own tools look for them (`AWS_*`,
`GOOGLE_*`, `AZURE_*`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from zoomldm.errors import TargetError, ZoomLDMError

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_PROBE = ".zoomldm-write-check"
SCHEMES = ("s3", "gs", "az", "https", "http")


class RemoteError(ZoomLDMError):
    """A file behind a URL that does not exist, is refused, or can't be reached."""


class MissingError(RemoteError):
    """A file behind a URL that does not exist."""


class ChangedError(RemoteError):
    """A file behind a URL that changed since it was opened."""


class UnreachableError(RemoteError):
    """A file behind a URL that can't be reached now; another attempt may succeed."""


def is_url(source: object) -> bool:
    """Whether a source is a URL rather than a path."""
    return "://" in str(source)


@dataclass(frozen=True)
class RemotePath:
    """A URL with those properties of a `Path` that archives need.

    Attributes:
        url: the URL.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def _path(self) -> PurePosixPath:
        return PurePosixPath(unquote(urlsplit(self.url).path))

    @property
    def name(self) -> str:
        """The last part."""
        return self._path.name

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """The suffix of the last part."""
        return self._path.suffix


def check_target(url: str) -> str:
    """Return a URL if it can be written to: a file, or a folder, which ends in `/`.

    Raises:
        RemoteError: not a supported URL.
        TargetError: the URL of a web server.
    """
    if urlsplit(url).scheme in ("http", "https"):
        raise TargetError(f"{url}: web servers aren't written to; expected s3://, gs:// or az://")
    _place(url)
    return url


def check_writable(url: str) -> None:
    """Write an empty file beside a URL and remove it, as a check before hours of work.

    Raises:
        RemoteError: nothing can be written there.
    """
    store, key = _place(url.rpartition("/")[0] + "/" + _PROBE)
    with _one_line_errors(url):
        _obstore().put(store, key, b"")
    with suppress(Exception):  # without permission to remove, an empty file is left
        _obstore().delete(store, key)


def size_of(url: str) -> int | None:
    """Size in bytes of a file behind a URL, None if there is none.

    Raises:
        RemoteError: it can't be requested.
    """
    store, key = _place(url)
    with _one_line_errors(url):
        try:
            return int(_obstore().head(store, key)["size"])
        except FileNotFoundError:
            return None


def as_path(source: Path | RemotePath | str) -> Path | RemotePath:
    """A path, or a `RemotePath` for a URL."""
    if isinstance(source, RemotePath):
        return source
    return RemotePath(source) if isinstance(source, str) and is_url(source) else Path(source)


class RemoteFile:
    """A file behind a URL; only the requested parts are read, as long as it does not change.

    Args:
        path: the URL.
        known: its `identity`, if it was opened before; then there is no request until a read.

    Attributes:
        size: size in bytes.

    Raises:
        RemoteError: it does not exist, is refused, or can't be reached.
    """

    def __init__(self, path: RemotePath, known: tuple[Any, ...] | None = None) -> None:
        self._url, self._position = path.url, 0
        self._store, self._key = _place(path.url)
        self._buffer = (0, b"")
        if known is None:
            with _one_line_errors(self._url):
                meta = _obstore().head(self._store, self._key)
            known = (meta.get("e_tag"), int(meta["size"]), meta.get("last_modified"))
        self.identity = known
        self.size = int(known[1])

    def seek(self, offset: int) -> int:
        """Go to a position, in bytes from the start."""
        self._position = offset
        return offset

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes from the current position.

        Raises:
            RemoteError: it can't be read, or changed since it was opened.
        """
        start = self._position
        end = min(start + size, self.size)
        if end <= start:
            return b""
        first, buffer = self._buffer  # the last read, such as an end with the directory before it
        if not first <= start <= end <= first + len(buffer):
            e_tag, _, changed = self.identity
            options: dict[str, Any] = {"range": (start, end)}
            if e_tag is not None:
                options["if_match"] = e_tag
            elif isinstance(changed, datetime):
                options["if_unmodified_since"] = changed
            with _one_line_errors(self._url):
                found = _obstore().get(self._store, self._key, options=options)
                buffer = bytes(found.bytes())
            first = start
            self._buffer = first, buffer
        self._position = end
        return buffer[start - first : end - first]

    def __enter__(self) -> "RemoteFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._buffer = (0, b"")


def download(url: str, target: Path) -> None:
    """Download a file behind a URL to a local one.

    Raises:
        RemoteError: see `RemoteFile`.
    """
    store, key = _place(url)
    with _one_line_errors(url), target.open("wb") as file:
        for part in _obstore().get(store, key).stream(min_chunk_size=4 << 20):
            file.write(part)


@contextmanager
def local_copy(source: str) -> Iterator[Path]:
    """Yield a path unchanged, or for a URL a temporary copy under its own name.

    Raises:
        RemoteError: see `RemoteFile`.
    """
    path = as_path(source)
    if isinstance(path, Path):
        yield path
        return
    with TemporaryDirectory(prefix="zoomldm-") as folder:
        copy = Path(folder) / path.name
        download(path.url, copy)
        yield copy


def upload(source: Path, url: str) -> None:
    """Upload a finished local file to a URL; nothing is visible there until it is complete.

    Raises:
        RemoteError: it can't be written there.
    """
    store, key = _place(url)
    with _one_line_errors(url):
        _obstore().put(store, key, source)


def listed(url: str, endings: frozenset[str]) -> list[str]:
    """URLs of the files in a folder (a URL that ends in `/`), sorted by name.

    Raises:
        RemoteError: see `RemoteFile`; web servers can't list folders.
    """
    if urlsplit(url).scheme in ("http", "https"):
        raise RemoteError(f"{url}: web servers don't list folders; name the files, or give a table")
    store, key = _place(url)
    found: list[str] = []
    with _one_line_errors(url):
        for part in _obstore().list_with_delimiter(store, key.rstrip("/") or None)["objects"]:
            name = PurePosixPath(cast("str", part["path"])).name
            if PurePosixPath(name).suffix.lower() in endings:
                found.append(f"{url.rstrip('/')}/{name}")
    return sorted(found)


def _place(url: str) -> tuple[Any, str]:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise RemoteError(
            f"{url}: URLs of {parts.scheme or 'no scheme'} aren't read; expected "
            f"{'://, '.join(SCHEMES[:-1])}://, with a bucket or host"
        )
    return _store(f"{parts.scheme}://{parts.netloc}"), unquote(parts.path.lstrip("/"))


@lru_cache(maxsize=64)
def _store(root: str) -> Any:
    """The store of a bucket or host; one for each, because a store keeps its connections."""
    _obstore()
    from obstore.store import from_url  # type: ignore[import-not-found]

    options = {"timeout": "60s", "connect_timeout": "10s"}
    endpoint = next((os.environ[n] for n in _ENDPOINTS if n in os.environ), root)
    if endpoint.startswith("http://"):
        options["allow_http"] = "true"
    with _one_line_errors(root):
        return from_url(
            root,
            client_options=cast("Any", options),
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
        )


def _obstore() -> Any:
    try:
        import obstore  # type: ignore[import-not-found]
    except ImportError as error:
        raise RemoteError(
            "files by URL need obstore, which is not installed; run pip install 'zoomldm[remote]'"
        ) from error
    return obstore


@contextmanager
def _one_line_errors(url: str) -> Iterator[None]:
    """Raise a store's errors as one-line errors."""
    try:
        yield
    except ZoomLDMError:
        raise
    except FileNotFoundError as error:
        raise MissingError(f"{url}: does not exist, or its bucket doesn't") from error
    except Exception as error:
        kind, text = type(error).__name__, " ".join(str(error).split())
        if kind == "PreconditionError":
            raise ChangedError(f"{url}: changed since it was opened; open it again") from error
        if kind in ("PermissionDeniedError", "UnauthenticatedError") or _is_expired(text):
            kind = kind if kind != "GenericError" else "Expired"
            raise RemoteError(
                f"{url}: refused ({kind.removesuffix('Error')}); credentials are missing, expired "
                "or not for this bucket: log in again with the service's own tool, or set its "
                "variables (AWS_ACCESS_KEY_ID, ...)"
            ) from error
        if isinstance(error, OSError) and error.filename:  # an error of the local file
            raise TargetError(f"{error.filename}: {error.strerror}") from error
        raise UnreachableError(
            f"{url}: can't be reached ({text[:160]}); check the address and the network"
        ) from error


def _is_expired(text: str) -> bool:
    """Whether an error is S3's for an expired token: a 400, with no text for HEAD requests."""
    return any(name in text for name in ("ExpiredToken", "InvalidToken", "400 Bad Request"))
