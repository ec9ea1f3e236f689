"""The number of cores that this process may use."""

import os


def cores() -> int:
    """Number of cores that the process is bound to, or its share of them if one is set.

    A scheduler binds a job to part of a machine; the processes of a cohort get their share as
    OMP_NUM_THREADS.

    Examples:
        >>> cores() >= 1
        True
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(bound or 1, int(threads) if threads.isdecimal() else bound or 1))
