"""Slides processed by a Ray cluster: one Ray task per slide, placed by Ray."""

import socket
import time
from typing import Any, Self
from urllib.parse import urlsplit

from zoomldm.cohort.pools import Ended
from zoomldm.cohort.state import versions
from zoomldm.cohort.work import Job, Ticket, work
from zoomldm.errors import ConfigError

_AHEAD = 2  # tickets under way per slot, so that the next one is there when one ends
_LOOK = 5.0  # seconds between two counts of the cluster
_KNOCK = 5.0  # seconds that a cluster has to answer
_ASK = 300.0  # seconds that a node has to report its version


class RayPool:
    """A Ray cluster. A worker or node that dies costs its slides an attempt; Ray replaces it.

    Args:
        job: what to do to each slide.
        address: `auto` for the cluster that this machine belongs to, or HOST:PORT of its head.
        cpus: CPUs that Ray reserves for a slide.
        gpus: GPUs that Ray reserves for a slide; the slide sees only these.

    Raises:
        ConfigError: Ray is missing, the cluster can't be reached, or no node is large enough.
    """

    def __init__(self, job: Job, address: str, cpus: float = 1.0, gpus: float = 0.0) -> None:
        self._job, self._cpus, self._gpus = job, cpus, gpus
        self._ray = _ray()
        self._address = address
        self._running: dict[Any, Ticket] = {}
        self._slots, self._counted = 1, float("-inf")
        self._own = False

    def __enter__(self) -> Self:
        ray = self._ray
        if not ray.is_initialized():
            _connect(ray, self._address)
            self._own = True
        try:
            self._check_size()
            check_versions(_versions_of(ray), versions())
            self._task = ray.remote(work).options(
                num_cpus=self._cpus,
                num_gpus=self._gpus,
                # The runner counts attempts: it knows whose claims are dead.
                max_retries=0,
                name=f"zoomldm {self._job.verb}",
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._own:
            self._ray.shutdown()
            self._own = False

    def _check_size(self) -> None:
        """Refuse slides that no current node can run, even if the cluster could grow."""
        nodes = [n["Resources"] for n in self._ray.nodes() if n["Alive"]]
        fit = any(n.get("CPU", 0) >= self._cpus and n.get("GPU", 0) >= self._gpus for n in nodes)
        if not fit:
            most = {k: max((n.get(k, 0) for n in nodes), default=0) for k in ("CPU", "GPU")}
            raise ConfigError(
                f"no node of the cluster has {self._cpus:g} CPUs and {self._gpus:g} GPUs for a "
                f"slide; the largest have {most['CPU']:g} and {most['GPU']:g}: pass a smaller "
                "--cpus-per-slide or --gpus-per-slide"
            )

    def capacity(self) -> int:
        """Twice the slides that the cluster can run now, to keep Ray's queue short."""
        if time.monotonic() - self._counted > _LOOK:
            self._counted = time.monotonic()
            slots = 0
            for node in self._ray.nodes():
                if node["Alive"]:
                    has = node["Resources"]
                    fits = [has.get("CPU", 0) / self._cpus] if self._cpus else []
                    fits += [has.get("GPU", 0) / self._gpus] if self._gpus else []
                    slots += int(min(fits, default=1))
            self._slots = max(1, slots)
        return _AHEAD * self._slots

    def submit(self, ticket: Ticket) -> None:
        """Give a ticket to Ray."""
        self._running[self._task.remote(self._job, ticket)] = ticket

    def wait(self, seconds: float) -> list[Ended]:
        """Tickets that came back, or whose worker or node died."""
        ray = self._ray
        references = list(self._running)
        if not references:
            return []
        first, rest = ray.wait(references, num_returns=1, timeout=seconds)
        more = ray.wait(rest, num_returns=len(rest), timeout=0)[0] if first and rest else []
        ended = []
        for reference in [*first, *more]:
            ticket = self._running.pop(reference)
            try:
                ended.append(Ended(ticket, ray.get(reference)))
            except ray.exceptions.RayError as error:
                ended.append(Ended(ticket, death=_death(error)))
        return ended


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--ray needs Ray, which is not installed; run pip install 'zoomldm[ray]'"
        ) from error
    return ray


def _connect(ray: Any, address: str) -> None:
    """Join a cluster.

    Raises:
        ConfigError: there is no cluster at the address, or it can't be joined.
    """
    if address != "auto":
        parts = urlsplit(address if "://" in address else f"ray-gcs://{address}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or not port:
            raise ConfigError(
                f"--ray {address}: expected auto, or HOST:PORT of a cluster's head, such as "
                "10.0.0.1:6379"
            )
        try:  # Ray itself would try for minutes
            socket.create_connection((host, port), _KNOCK).close()
        except OSError as error:
            raise ConfigError(
                f"--ray {address}: no cluster answers there ({error.strerror or error}); start "
                "one with `ray start --head`, or see `ray status` for its address"
            ) from error
    try:
        ray.init(
            address=address, log_to_driver=False, logging_level="ERROR", configure_logging=True
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"--ray {address}: no cluster can be joined ({reason}); start one with `ray start "
            "--head`, or give the HOST:PORT of its head"
        ) from error


def _versions_of(ray: Any) -> dict[str, dict[str, str]]:
    """Versions on each node of a cluster, by node name.

    Raises:
        ConfigError: a node has no zoomldm.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(versions).options(
                num_cpus=0, max_retries=1, scheduling_strategy=strategy
            )
            asked[f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})"] = task.remote()
    found = {}
    for name, reference in asked.items():
        try:
            found[name] = ray.get(reference, timeout=_ASK)
        except (ray.exceptions.NodeDiedError, ray.exceptions.WorkerCrashedError):
            continue  # gone meanwhile; no slide will be sent there
        except Exception as error:
            reason = " ".join(str(error).split())[-160:]
            raise ConfigError(
                f"node {name}: has no zoomldm that can be used ({reason}); install the same "
                "version there"
            ) from error
    return found


def check_versions(found: dict[str, dict[str, str]], wanted: dict[str, str]) -> None:
    """Refuse a cluster with a node that has another version of zoomldm.

    Args:
        found: versions by node.
        wanted: versions of the process that runs the cohort.

    Raises:
        ConfigError: a node has another version.
    """
    for name, there in found.items():
        if there.get("zoomldm") != wanted["zoomldm"]:
            raise ConfigError(
                f"node {name} has zoomldm {there.get('zoomldm')}, and the cohort is run by "
                f"{wanted['zoomldm']}; install the same version there"
            )


def _death(error: Exception) -> str:
    kind = type(error).__name__
    said = {
        "WorkerCrashedError": "its worker was killed",
        "NodeDiedError": "its node died",
        "OutOfMemoryError": "its node ran out of memory; pass a larger --cpus-per-slide",
        "TaskUnschedulableError": "the node that it was for is gone",
    }
    text = (str(error).strip().splitlines() or [""])[0][:160]
    return said.get(kind, f"{kind}: {text}")
