"""A Ray cluster in processes of this machine, which starts on a busy one too."""

import os
import socket
from collections.abc import Callable
from typing import Any

# A node waits 15 s for the ports of its agents unless it is told them: too little when all cores
# are busy.
_PORTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)


def node(slots: int) -> dict[str, Any]:
    """Settings of a node with so many slots, on ports that are free."""
    held = [socket.socket() for _ in _PORTS]
    try:
        for part in held:
            part.bind(("127.0.0.1", 0))
        ports = {name: s.getsockname()[1] for name, s in zip(_PORTS, held, strict=True)}
    finally:
        for part in held:
            part.close()
    return {
        "num_cpus": slots,
        "include_dashboard": False,
        "object_store_memory": 100 << 20,  # no slide goes through it
        **ports,
    }


def patient() -> None:
    """Let Ray wait longer for its own processes; before it is imported."""
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "300000")
    os.environ.setdefault("RAY_health_check_timeout_ms", "60000")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def patiently(start: Callable[[], Any], tries: int = 3) -> Any:
    """Start a cluster, or a node of one; a node that Ray gives up after 30 s is tried again."""
    while True:
        tries -= 1
        try:
            return start()
        except Exception:
            if not tries:
                raise


def started(slots: int) -> Any:
    """A cluster of one node."""
    from ray.cluster_utils import Cluster

    return patiently(lambda: Cluster(initialize_head=True, head_node_args=node(slots)))
