"""Work ahead of what is asked for, in order."""

import threading
import time

import pytest
from damage import damage_tile
from synthetic import paint_slide

from zoomldm.slides import SlideReadError, open_slide
from zoomldm.slides.ahead import in_order


class TestInOrder:
    def test_results_come_in_order(self):
        gate = threading.Event()

        def work(part):
            if part == 0:
                gate.wait(5)  # the first ends last
            else:
                gate.set()
            return part * part

        found = list(in_order(work, range(20), 4))
        assert found == [(i, i * i) for i in range(20)]

    def test_no_more_is_begun_than_is_held(self):
        begun = []
        parts = in_order(begun.append, range(100), 3)
        next(parts)
        parts.close()
        assert len(begun) <= 5

    def test_more_is_begun_where_that_is_asked_for(self):
        begun = []
        parts = in_order(begun.append, range(100), 2, ahead=20)
        next(parts)
        for _ in range(500):
            if len(begun) == 21:
                break
            time.sleep(0.01)
        parts.close()
        assert len(begun) == 21
        assert len(list(in_order(begun.append, range(30), 2, ahead=50))) == 30

    def test_an_error_is_raised_at_its_part(self):
        def work(part):
            if part == 2:
                raise ValueError("broken")
            return part

        parts = in_order(work, range(50), 2)
        assert next(parts)[0] == 0
        assert next(parts)[0] == 1
        with pytest.raises(ValueError, match="broken"):
            next(parts)

    def test_nothing_to_do(self):
        assert list(in_order(str, [], 2)) == []


def test_one_region_that_can_not_be_read_takes_no_other_with_it(tmp_path):
    """A handle of OpenSlide that met an error fails in all threads."""
    path = paint_slide(tmp_path / "a.tif", 2560, 2816, levels=1, tissue=1.0)
    damage_tile(path, 27)
    boxes = [(x, y) for y in range(0, 2816, 256) for x in range(0, 2560, 256)] * 3
    with open_slide(path) as slide:

        def fails(box):
            try:
                slide.read(0, *box, 256, 256)
            except SlideReadError:
                return True
            return False

        alone = {box for box in boxes[: len(boxes) // 3] if fails(box)}
        found = {box for box, failed in in_order(fails, boxes, 8) if failed}
    assert alone
    assert found == alone
