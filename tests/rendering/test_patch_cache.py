"""Patches kept in memory and on disk."""

from pathlib import Path

import numpy as np

from zoomldm.rendering.patch_cache import PatchCache


def patches(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (256, 256, 3), np.uint8) for _ in range(count)]


def test_the_least_recently_used_goes_first() -> None:
    made = patches(3)
    store = PatchCache(memory=2 * made[0].nbytes)
    store.put((0, 0, 0), made[0])
    store.put((0, 0, 1), made[1])
    assert store.get((0, 0, 0)) is not None
    store.put((0, 0, 2), made[2])
    assert store.get((0, 0, 1)) is None
    np.testing.assert_array_equal(store.get((0, 0, 0)), made[0])


def test_what_leaves_memory_comes_back_from_disk_until_that_is_full(tmp_path: Path) -> None:
    made = patches(6)
    store = PatchCache(memory=made[0].nbytes, disk=3 * made[0].nbytes, folder=tmp_path)
    for i, patch in enumerate(made):
        store.put((1, 0, i), patch, spool=i != 1)
    kept = [store.get((1, 0, i)) for i in range(6)]
    for patch, stored in zip(made, kept, strict=True):
        if stored is not None:
            np.testing.assert_array_equal(stored, patch)
    assert kept[0] is not None
    assert kept[1] is None
    assert list(tmp_path.iterdir()) == []
    store.close()
    assert store.get((1, 0, 0)) is None


def test_a_disk_that_can_t_be_written_costs_no_pixels(tmp_path: Path) -> None:
    made = patches(3)
    store = PatchCache(memory=made[0].nbytes, disk=1 << 30, folder=tmp_path / "absent")
    for i, patch in enumerate(made):
        store.put((1, 0, i), patch, spool=True)
    assert store.get((1, 0, 0)) is None
    np.testing.assert_array_equal(store.get((1, 0, 2)), made[2])
