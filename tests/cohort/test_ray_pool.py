"""A Ray cluster: workers that die cost an attempt, other versions are refused."""

import os
import sys

import pytest
from cohort_cluster import patient, started
from test_runner import Folder

from zoomldm.cohort.ray_pool import RayPool, check_versions
from zoomldm.cohort.runner import run_cohort
from zoomldm.errors import ConfigError


def test_nodes_of_another_version_are_refused() -> None:
    check_versions({"a": {"zoomldm": "1.0"}}, {"zoomldm": "1.0"})
    with pytest.raises(ConfigError, match=r"node b has zoomldm 0\.9, and the cohort is run by 1"):
        check_versions({"a": {"zoomldm": "1.0"}, "b": {"zoomldm": "0.9"}}, {"zoomldm": "1.0"})


@pytest.fixture
def cluster(monkeypatch):
    if not os.environ.get("ZOOMLDM_RAY"):
        pytest.skip("starts a Ray cluster, which fails where all cores are busy: set ZOOMLDM_RAY=1")
    patient()
    # Workers import what this process does, the tests' own modules too.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    ray = pytest.importorskip("ray")
    cluster = started(2)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_cluster_of_one_node(cluster, tmp_path) -> None:
    folder = Folder(tmp_path)
    items = folder.items("good", "bad", "die once", "good")
    job = folder.job()
    with pytest.raises(ConfigError, match="no node of the cluster has 99 CPUs"):
        run_cohort(job, items, RayPool(job, "auto", cpus=99), folder.state)
    result = run_cohort(job, items, RayPool(job, "auto"), folder.state)
    assert [item.key for item, _ in result.done] == ["s0", "s2", "s3"], result.failed
    assert [job.attempts(i) for i in items] == [1, 1, 2, 1]
    assert len(folder.copies()) == 3 and folder.leftovers() == []
