"""Outputs that appear complete or not at all: a temporary file beside the target, then a rename."""

import ctypes
import errno
import hashlib
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from glob import escape
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from zoomldm.errors import TargetError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
# Errors of file systems without locks: Lustre without the option flock, some NFS and FUSE.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}
_KEPT_APART: ContextVar[bool] = ContextVar("kept_apart", default=False)
_PART = ".part"
_LOCK = ".lock"
_MARKER = ".writing"  # not the lock's name: a refused lock leaves an empty file of that name
_HERE, _RENAME_EXCHANGE = -100, 2  # AT_FDCWD and a flag of renameat2(2)
_TOKEN = 16  # hexadecimal digits that make a temporary name unpredictable
_NAME_BYTES = 255  # the limit of nearly all file systems


def _followed(target: Path) -> Path:
    """The target, or what it links to: an output written to a link goes where the link points.

    Raises:
        TargetError: circular links.
    """
    try:
        return target.resolve() if target.is_symlink() else target
    except (OSError, RuntimeError) as error:  # RuntimeError: Python up to 3.12
        if isinstance(error, OSError) and error.errno != errno.ELOOP:
            return target  # the checks that follow report what is wrong with it
        raise TargetError(
            f"{target}: is a link that leads back to itself; give another name"
        ) from error


def _name_limit(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows has no such call
        return _NAME_BYTES


def _check(target: Path) -> None:
    """Refuse a target that can't become a regular file.

    Raises:
        TargetError: no such folder, too long a name, or a name of something other than a file.
    """
    parent = target.parent
    if not parent.is_dir():
        found = "is not a folder" if parent.exists() else "does not exist"
        raise TargetError(f"{target}: folder {parent} {found}; create it first")
    length, limit = len(os.fsencode(target.name)), _name_limit(parent)
    if length > limit:
        raise TargetError(
            f"{target}: its name has {length} bytes; {parent} takes up to {limit}: "
            "give a shorter one with -o"
        )
    if target.is_dir():
        raise TargetError(f"{target}: is a folder; expected a file name to write to")
    if target.exists() and not target.is_file():
        raise TargetError(f"{target}: is not a regular file; give another name")


def _hidden_stem(target: Path) -> str:
    """The prefix of a target's temporary file names; a short hash if its own name is long."""
    rest = 2 + _TOKEN + len(_PART)
    if len(os.fsencode(target.name)) + rest <= _name_limit(target.parent):
        return f".{target.name}"
    return f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}"


def _refusal(target: Path, error: OSError) -> TargetError:
    reason = error.strerror or type(error).__name__
    if error.errno in _FULL:
        return TargetError(f"{target}: can't be written ({reason}); free some space and run again")
    return TargetError(f"{target}: can't be written ({reason}); choose a folder you may write to")


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders can't be opened there
        return
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
    """Yield a temporary path beside `target`; on success, flush it and rename it to `target`.

    The temporary file exists, is empty and has an unpredictable name. On any exception it is
    removed and `target` stays unchanged. If `target` is a symbolic link, it stays one, and the file
    it points to is written.

    Raises:
        TargetError: missing folder, not writable, name too long, or disk full.
    """
    target = _followed(Path(target))
    _check(target)
    temporary = target.with_name(f"{_hidden_stem(target)}.{secrets.token_hex(_TOKEN // 2)}{_PART}")
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


@contextmanager
def atomic_folder(target: Path | str) -> Iterator[Path]:
    """Yield an empty folder beside `target`; on success it replaces `target`.

    An existing folder is exchanged with it in one step if the system can (Linux), and removed
    afterwards: a process killed at any moment leaves a complete folder of that name. On any
    exception the new folder is removed and `target` stays unchanged.

    Raises:
        TargetError: no such parent, the name belongs to a file, not writable, or disk full.
    """
    target = _followed(Path(target))
    if not target.parent.is_dir():
        raise TargetError(f"{target}: folder {target.parent} does not exist; create it first")
    if target.exists() and not target.is_dir():
        raise TargetError(f"{target}: is a file; expected a folder or a new name")
    temporary = target.with_name(f"{_hidden_stem(target)}.{secrets.token_hex(_TOKEN // 2)}{_PART}")
    try:
        temporary.mkdir()
        try:
            yield temporary
        except OSError as error:
            if error.errno in _FULL:
                raise _refusal(target, error) from error
            raise
        _give_name(temporary, target)
    except OSError as error:
        raise _refusal(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # the new folder, or the replaced one


def move_folder(folder: Path, target: Path) -> None:
    """Move a finished folder, on the same file system, to its name; replaces an existing folder.

    Raises:
        TargetError: not writable.
    """
    try:
        _give_name(folder, target)
    except OSError as error:
        raise _refusal(target, error) from error
    shutil.rmtree(folder, ignore_errors=True)


def _give_name(folder: Path, target: Path) -> None:
    _sync_folder(folder)
    if target.is_dir():
        _exchange(folder, target)
    else:
        folder.rename(target)
    _sync_folder(target.parent)


def _exchange(one: Path, other: Path) -> None:
    """Exchange the names of two folders, in one step if the system has a call for that."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
        if call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE) == 0:
            return
    except (AttributeError, OSError, TypeError):  # not Linux, or a C library without it
        pass
    aside = one.with_name(f"{one.name}.old")
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)


@contextmanager
def kept_apart() -> Iterator[None]:
    """Context in which another lock separates processes, so that no marker file is needed.

    On file systems without locks, a marker would outlive a machine that dies; a cohort's lock has a
    heartbeat.
    """
    token = _KEPT_APART.set(True)
    try:
        yield
    finally:
        _KEPT_APART.reset(token)


def _lock(target: Path) -> BaseFileLock | None:
    """Acquire the lock of a target; None if another process holds it.

    If the file system has no locks, a marker file that is created exclusively replaces the lock;
    one left by a killed process of this machine is taken over.

    Raises:
        OSError: no lock file can be created.
    """
    path = target.with_name(_hidden_stem(target) + _LOCK)
    # filelock mistakes a file that can't be created for one that another process holds.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o666))
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        with suppress(OSError):
            path.unlink(missing_ok=True)
        if _KEPT_APART.get():
            return FileLock(path)  # never acquired: the cohort's lock replaces it
        warnings.warn(
            f"{target.parent}: this file system has no locks ({error.strerror}); a marker file is "
            "used, which keeps processes of one machine apart",
            stacklevel=5,
        )
        lock = SoftFileLock(path.with_suffix(_MARKER), thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
    return lock


def _release(lock: BaseFileLock) -> None:
    """Release a lock and leave none of its files behind."""
    if not isinstance(lock, SoftFileLock):
        # Before the release: a process that locks the old file finds it unlinked and tries again.
        # Windows can't unlink an open file, and removes it itself.
        with suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


@contextmanager
def claim(target: Path | str, *beside: Path) -> Iterator[Path]:
    """Lock `target` for this process, so that two processes never write to one name.

    The lock ends with the process, however it ends. Temporary files that a killed holder of the
    same lock left behind are removed. A file system without locks causes a warning.

    Args:
        target: the output to lock.
        beside: further outputs that only the holder writes; their leftovers are removed as well.

    Raises:
        TargetError: another process holds the lock, or the folder is missing or not writable.
    """
    target = Path(target)
    place = _followed(target)
    _check(place)
    try:
        lock = _lock(place)
    except OSError as error:
        raise _refusal(target, error) from error
    if lock is None:
        marker = place.with_name(_hidden_stem(place) + _MARKER)
        also = f" (if none does, remove {marker})" if marker.exists() else ""
        raise TargetError(
            f"{target}: another process is writing to it; wait for it or give another name{also}"
        )
    try:
        for name in (place, *map(_followed, beside)):
            for left in name.parent.glob(f"{escape(_hidden_stem(name))}.{'[0-9a-f]' * 16}{_PART}"):
                with suppress(OSError):
                    left.unlink()
        yield target
    finally:
        _release(lock)
