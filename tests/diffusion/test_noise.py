"""Noise depends on its place alone."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from zoomldm.diffusion.noise import noise


@settings(max_examples=30, deadline=None)
@given(st.integers(-70, 70), st.integers(-70, 70), st.integers(1, 33), st.integers(1, 33))
def test_windows_of_one_field_agree(y: int, x: int, height: int, width: int) -> None:
    field = noise(3, 1, 499, -80, -80, (2, 200, 200))
    window = noise(3, 1, 499, y, x, (2, height, width))
    np.testing.assert_array_equal(
        window, field[:, y + 80 : y + 80 + height, x + 80 : x + 80 + width]
    )


def test_every_part_of_the_key_counts() -> None:
    base = (0, 2, 499, 0, 0)
    fields = [noise(*base, (1, 16, 16))]
    for i, step in enumerate((1, 1, 50, 16, 16)):
        key = tuple(value + step * (i == j) for j, value in enumerate(base))
        fields.append(noise(*key, (1, 16, 16)))
    for i, one in enumerate(fields):
        for other in fields[:i]:
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.25


def test_is_standard_normal_and_never_changes() -> None:
    values = noise(0, 0, 499, 0, 0, (4, 128, 128))
    assert values.dtype == np.float32
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    assert abs((values**4).mean() - 3) < 0.15
    np.testing.assert_allclose(values[0, 0, :3], [-1.1608795, 0.6017079, -1.8277159], rtol=1e-5)
