"""Windows and tiles kept in memory and on disk."""

from pathlib import Path

import numpy as np

from zoomldm.caching import Recent
from zoomldm.generation.windows import SIDE, Field
from zoomldm.rendering.render_cache import RenderCache, Rendered, Spool


def patches(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (256, 256, 3), np.uint8) for _ in range(count)]


def window() -> Field:
    rng = np.random.default_rng(1)
    half = SIDE // 2
    return Field(
        rng.standard_normal((SIDE, SIDE), np.float32),
        rng.standard_normal((2, half, half), np.float32),
    )


def test_what_leaves_memory_comes_back_from_disk_until_that_is_full(tmp_path: Path) -> None:
    values = patches(6)
    size = values[0].nbytes
    store = RenderCache(Recent(size), disk=Spool(4 * size, tmp_path))
    for i, patch in enumerate(values):
        store.put("patch", 0, i, value=patch, lasting=i != 1)
    found = [store.get("patch", 0, i) for i in reversed(range(6))][::-1]
    assert [value is not None for value in found] == [True, False, True, True, False, True]
    for patch, stored in zip(values, found, strict=True):
        if stored is not None:
            np.testing.assert_array_equal(stored, patch)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []  # the file has no name
    store.close()
    assert store.get("patch", 0, 0) is None


def test_windows_come_back_from_disk_bit_by_bit(tmp_path: Path) -> None:
    store, value = RenderCache(Recent(0), disk=Spool(1 << 20, tmp_path)), window()
    store.put("window", 0, 0, 0, value=value, lasting=True)
    found = store.get("window", 0, 0, 0)
    assert isinstance(found, Field)
    for plane, stored in zip(value, found, strict=True):
        np.testing.assert_array_equal(stored, plane)


def test_a_disk_that_can_t_be_written_costs_no_pixels(tmp_path: Path) -> None:
    values = patches(3)
    store = RenderCache(Recent(values[0].nbytes), disk=Spool(1 << 30, tmp_path / "absent"))
    for i, patch in enumerate(values):
        store.put("patch", 0, i, value=patch, lasting=True)
    assert store.get("patch", 0, 0) is None
    np.testing.assert_array_equal(store.get("patch", 0, 2), values[2])  # type: ignore[arg-type]


def test_two_sources_share_one_memory() -> None:
    memory: Recent[Rendered] = Recent(1 << 20)
    one, other = RenderCache(Recent(0)), RenderCache(Recent(0))
    one.share("one", memory)
    other.share("other", memory)
    one.put("tile", 0, 0, value=patches(1)[0])
    assert other.get("tile", 0, 0) is None
    other.close()
    assert one.get("tile", 0, 0) is not None
