"""The region option of `zoomldm decompress`."""

import pytest

from zoomldm.cli.decompress import parse_region
from zoomldm.errors import RegionError


def test_a_region_is_four_whole_numbers() -> None:
    assert parse_region("1, 2,30,40") == (1, 2, 30, 40)
    assert parse_region("-1,0,5,5") == (-1, 0, 5, 5)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1.5,2,3,4"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(RegionError, match="four whole numbers"):
        parse_region(text)
