"""How many cores this process may use."""

import os


def cores() -> int:
    """Cores that the process is bound to, or its share of them where one was given.

    A scheduler binds a job to part of a machine; the processes of a cohort are given their share
    as OMP_NUM_THREADS.

    Examples:
        >>> cores() >= 1
        True
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(bound or 1, int(share) if share.isdecimal() else bound or 1))
