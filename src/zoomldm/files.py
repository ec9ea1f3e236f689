"""Outputs that appear whole or not at all: a temporary file beside the target, then a rename."""

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from zoomldm.errors import TargetError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PART = ".part"


def _check(target: Path) -> None:
    """Refuse a target that can't become a regular file.

    Raises:
        TargetError: no such folder, or something other than a file has the name.
    """
    parent = target.parent
    if not parent.is_dir():
        found = "is not a folder" if parent.exists() else "does not exist"
        raise TargetError(f"{target}: folder {parent} {found}; create it first")
    if target.is_dir():
        raise TargetError(f"{target}: is a folder; expected a file name to write to")
    if target.exists() and not target.is_file():
        raise TargetError(f"{target}: is not a regular file; give another name")


def _refusal(target: Path, error: OSError) -> TargetError:
    reason = error.strerror or type(error).__name__
    if error.errno in _FULL:
        return TargetError(f"{target}: can't be written ({reason}); free some space and run again")
    return TargetError(f"{target}: can't be written ({reason}); choose a folder you may write to")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems can't flush a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `target`; flush it and rename it to `target` on success.

    The temporary file exists, is empty and has an unpredictable name. On any exception it is
    removed and `target` stays as it was.

    Raises:
        TargetError: missing folder, not writable, or full.
    """
    target = Path(target)
    _check(target)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}{_PART}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise _refusal(target, error) from error
    try:
        try:
            yield temporary
        except OSError as error:
            if error.errno in _FULL:
                raise _refusal(target, error) from error
            raise
        try:
            descriptor = os.open(temporary, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(target)
            _sync_folder(target.parent)
        except OSError as error:
            raise _refusal(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _lock(path: Path) -> int | None:
    """Descriptor of the locked lock file, or None where another process holds it."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder unlinks its lock file: a lock on an unlinked file is worth nothing.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextmanager
def claim(target: Path | str) -> Iterator[Path]:
    """Hold `target` for this process alone, so that two never write to one name.

    The lock ends with the process, however it ends. What a killed holder of the same name left
    behind is removed.

    Raises:
        TargetError: another process holds it, or its folder is missing or not writable.
    """
    target = Path(target)
    _check(target)
    path = target.with_name(f".{target.name}.lock")
    try:
        descriptor = _lock(path)
    except OSError as error:
        raise _refusal(target, error) from error
    if descriptor is None:
        raise TargetError(
            f"{target}: another process is writing to it; wait for it or give another name"
        )
    try:
        for left in target.parent.glob(f".{escape(target.name)}.{'[0-9a-f]' * 16}{_PART}"):
            with suppress(OSError):
                left.unlink()
        yield target
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(descriptor)
