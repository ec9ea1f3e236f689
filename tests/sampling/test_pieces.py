"""Pieces of a drawing: found again by a run that would draw the same."""

import pytest

from zoomldm.errors import TargetError
from zoomldm.sampling import pieces
from zoomldm.sampling.pieces import resumable_pieces


def test_pieces_of_other_provenance_or_of_another_way_of_drawing_are_refused(tmp_path, monkeypatch):
    target = tmp_path / "a.png"
    with pytest.raises(KeyboardInterrupt), resumable_pieces(target, {"seed": 1}) as stored:
        stored.put("x", b"1")
        raise KeyboardInterrupt
    with pytest.raises(TargetError), resumable_pieces(target, {"seed": 2}):
        pass
    with monkeypatch.context() as patch:
        patch.setattr(pieces, "RULES", pieces.RULES + 1)
        with pytest.raises(TargetError), resumable_pieces(target, {"seed": 1}):
            pass
    with resumable_pieces(target, {"seed": 1}) as stored:
        assert stored.get("x") == b"1"
    assert list(tmp_path.iterdir()) == []
