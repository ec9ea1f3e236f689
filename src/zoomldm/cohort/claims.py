"""Claims: lock files that show which process works on a slide, without operating-system locks.

A claim is a file `KEY.N` that exactly one process can create. It records its maker, and its
modification time is the heartbeat. A claim whose maker is dead is not removed but outbid: the
process taking over creates `KEY.N+1`, again exclusively, so that only one of several processes
that notice goes on. The claim with the highest number counts.
"""

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HEARTBEAT = 5.0  # seconds between two beats
STALE = 60.0  # seconds without a beat after which a claim of another machine counts as dead


def host() -> str:
    """This machine and its process id namespace, within which a pid tells who is alive."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def started(pid: int) -> str | None:
    """Start time of a process on this machine, None if it doesn't exist (or is a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
        try:  # not Linux: any process with this pid counts as the same one
            os.kill(pid, 0)
        except OSError:
            return None
        return "unknown"
    return None if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True)
class Standing:
    """The claim that counts for a slide.

    Attributes:
        number: number of the claim; -1 if there is none.
        dead: whether its maker is known to be dead; only known for processes of this machine.
        pulse: changes with each heartbeat.
        holder: description of the maker, for people.
    """

    number: int
    dead: bool = False
    pulse: tuple[int, int] = (0, 0)
    holder: str = ""


def _files(folder: Path, key: str) -> dict[int, Path]:
    found = {}
    with suppress(FileNotFoundError):
        for path in (folder / key).iterdir():
            if path.name.isdigit():
                found[int(path.name)] = path
    return found


def standing(folder: Path, key: str) -> Standing:
    """The claim that counts for a slide."""
    files = _files(folder, key)
    if not files:
        return Standing(-1)
    number = max(files)
    try:
        stat = files[number].stat()
        maker = json.loads(files[number].read_text() or "{}")
    except FileNotFoundError:  # released meanwhile
        return Standing(-1)
    except (OSError, ValueError):
        return Standing(number, holder="another process")
    here = maker.get("host") == host()
    dead = here and started(maker.get("pid", -1)) != maker.get("started")
    who = f"process {maker.get('pid', '?')} on {str(maker.get('host', '?')).split(' ')[0]}"
    return Standing(number, dead, (number, stat.st_mtime_ns), who)


class Claim:
    """A claim held by this process; its heartbeat runs until `release`."""

    def __init__(self, folder: Path, key: str, number: int) -> None:
        self._folder, self._key, self.number = folder, key, number
        self._path = folder / key / str(number)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with suppress(OSError):
                os.utime(self._path)

    @property
    def holds(self) -> bool:
        """Whether nobody has taken over meanwhile, e.g. because this machine was suspended."""
        files = _files(self._folder, self._key)
        return bool(files) and max(files) == self.number

    def release(self) -> None:
        """Release the slide."""
        self._stop.set()
        # Lowest first, so that the highest number always belongs to a live process.
        files = _files(self._folder, self._key)
        for number in sorted(n for n in files if n <= self.number):
            with suppress(OSError):
                files[number].unlink()
        with suppress(OSError):  # the folder may hold another claim by now
            (self._folder / self._key).rmdir()


def take(folder: Path, key: str, number: int = 0) -> Claim | None:
    """Claim a slide; None if another process was faster.

    Args:
        folder: folder of the claims; must exist.
        key: key of the slide.
        number: 0, or one more than the number of the dead claim to take over.

    Raises:
        OSError: the claim can't be written.
    """
    process = os.getpid()
    maker = {
        "host": host(),
        "pid": process,
        "started": started(process),
        "token": secrets.token_hex(8),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    for _ in range(10):
        try:
            (folder / key).mkdir(exist_ok=True)
            target = folder / key / str(number)
            descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            break
        except FileExistsError:
            return None
        except FileNotFoundError:  # a process releasing its claim just removed the folder
            continue
    else:
        return None
    try:
        os.write(descriptor, json.dumps(maker).encode())
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            target.unlink()
        raise
    finally:
        os.close(descriptor)
    if max(_files(folder, key), default=number) > number:  # outbid between listing and taking
        with suppress(OSError):
            target.unlink()
        return None
    return Claim(folder, key, number)


class Watch:
    """Detects dead claims of other machines by missing heartbeats, on this machine's clock.

    Clocks of two machines may differ by hours, so file times are only compared with themselves.
    """

    def __init__(self, stale: float = STALE) -> None:
        self.stale = stale
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}

    def dead(self, key: str, found: Standing) -> bool:
        """Whether the claim that counts is dead, as far as this watch has observed."""
        if found.dead:
            return True
        now = time.monotonic()
        pulse, since = self._seen.get(key, (None, now))
        if pulse != found.pulse:
            self._seen[key] = found.pulse, now
            return False
        return now - since > self.stale

    def bury(self, key: str, found: Standing) -> None:
        """Record that the maker of a claim is known to be dead."""
        self._seen[key] = found.pulse, float("-inf")
