"""Windows on their lattice: weights add up to one, blends keep their parent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoomldm.generation.windows import (
    SIDE,
    STRIDE,
    Field,
    blended,
    keys_over,
    window_count,
    windows_over,
)


@given(st.integers(1, 5000))
def test_windows_cover_the_axis(pixels: int) -> None:
    count = window_count(pixels)
    assert (count - 1) * STRIDE + SIDE >= pixels
    assert count == 1 or (count - 2) * STRIDE + SIDE < pixels


@given(st.integers(-200, 900), st.integers(1, 300), st.integers(1, 12))
def test_windows_over_a_span_are_those_that_overlap_it(start: int, length: int, count: int) -> None:
    found = set(windows_over(start, start + length, count))
    overlap = {i for i in range(count) if i * STRIDE < start + length and i * STRIDE + SIDE > start}
    assert overlap <= found
    assert found - overlap <= {0, count - 1}
    assert found


def cut(luma: np.ndarray, chroma: np.ndarray, i: int, j: int) -> Field:
    y, x = i * STRIDE, j * STRIDE
    return Field(
        luma[y : y + SIDE, x : x + SIDE],
        chroma[:, y // 2 : (y + SIDE) // 2, x // 2 : (x + SIDE) // 2],
    )


@pytest.mark.parametrize("region", [(0, 0, 176, 232), (10, 50, 100, 20), (-8, 170, 30, 100)])
def test_windows_of_one_field_blend_to_it(region: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(0)
    counts = (3, 4)
    tall, wide = (n - 1) * STRIDE + SIDE if (n := counts[0]) else 0, 3 * STRIDE + SIDE
    luma = rng.standard_normal((tall, wide)).astype(np.float32)
    chroma = rng.standard_normal((2, tall // 2, wide // 2)).astype(np.float32)
    top, left, height, width = region
    windows = {k: cut(luma, chroma, *k) for k in keys_over(*region, counts)}
    field = blended(windows, *region, counts)
    rows = np.clip(np.arange(top, top + height), 0, tall - 1)
    cols = np.clip(np.arange(left, left + width), 0, wide - 1)
    np.testing.assert_allclose(field.luma, luma[np.ix_(rows, cols)], atol=1e-6)
    assert field.chroma.shape == (2, height // 2, width // 2)


def test_a_blend_of_children_averages_down_to_the_common_parent() -> None:
    """Two windows disagree in detail, not in their 2 x 2 means; neither does their blend."""
    rng = np.random.default_rng(1)
    parent = rng.standard_normal((SIDE // 2, (STRIDE + SIDE) // 2)).astype(np.float32)
    windows = {}
    for j in range(2):
        detail = rng.standard_normal((SIDE, SIDE)).astype(np.float32)
        means = detail.reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3))
        own = parent[:, j * STRIDE // 2 : j * STRIDE // 2 + SIDE // 2]
        luma = detail + (own - means).repeat(2, 0).repeat(2, 1)
        windows[0, j] = Field(luma, np.zeros((2, SIDE // 2, SIDE // 2), np.float32))
    field = blended(windows, 0, 0, SIDE, STRIDE + SIDE, (1, 2), even=2)
    means = field.luma.reshape(SIDE // 2, 2, -1, 2).mean((1, 3))
    np.testing.assert_allclose(means, parent, atol=1e-5)


@pytest.mark.parametrize("even", [1, 2])
def test_weights_rise_smoothly_from_one_window_to_the_next(even: int) -> None:
    def flat(value: float) -> Field:
        return Field(*(np.full(n, value, np.float32) for n in ((SIDE, SIDE), (2, 32, 32))))

    field = blended({(0, 0): flat(0), (0, 1): flat(1)}, 0, 0, SIDE, 120, (1, 2), even)
    rise = field.luma[0, STRIDE - 1 : SIDE + 1]
    assert rise[0] == 0
    assert rise[-1] == 1
    np.testing.assert_allclose(rise + rise[::-1], 1, atol=1e-6)
    steps = np.diff(rise[::even])
    assert steps[0] == min(steps)
    assert max(steps) == steps[len(steps) // 2] < even * 1.5 / 8 + 1e-6
    np.testing.assert_array_equal(rise[1:-1].reshape(-1, even).std(1), 0)
