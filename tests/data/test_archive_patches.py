"""Training patches from archives: what they are, and which are kept out."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training.archives import make_archive

from zoomldm.archive import open_archive
from zoomldm.data.archive_patches import ArchivePatches
from zoomldm.errors import ArchiveError, ConfigError
from zoomldm.geometry.lattice import tiles_within
from zoomldm.geometry.withheld import is_withheld, withheld_block
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline


@pytest.fixture(scope="module")
def pipeline() -> ZoomLDMPipeline:
    return build_pipeline("tiny")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory, pipeline: ZoomLDMPipeline) -> list[Path]:
    folder = tmp_path_factory.mktemp("archives")
    return [
        make_archive(folder / "a.zldm", pipeline, 9, 7, seed=0),
        make_archive(folder / "b.zldm", pipeline, 5, 6, seed=1),
    ]


@given(
    st.integers(0, 2**32 - 1), st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([1, 2, 4, 8])
)
def test_tiles_within_counts(seed: int, row: int, col: int, side: int) -> None:
    mask = np.random.default_rng(seed).random((6, 5)) < 0.5
    expected = sum(
        mask[r, c]
        for r in range(max(row, 0), min(row + side, 6))
        for c in range(max(col, 0), min(col + side, 5))
    )
    assert tiles_within(mask, np.array([row]), np.array([col]), side)[0] == expected


def test_withheld_rule() -> None:
    mask = np.ones((4, 4), bool)
    block = np.zeros((4, 4), bool)
    block[3] = True  # a quarter of the whole
    at = np.array([0]), np.array([0])
    assert not is_withheld(mask, block, 1, *at)[0]
    assert is_withheld(mask, block, 2, *at)[0]
    assert not is_withheld(mask, block, 4, *at)[0]
    block[2, 0] = True
    assert is_withheld(mask, block, 4, *at)[0]


@pytest.mark.parametrize("memory", [1 << 30, 0])
def test_patches_are_what_the_archive_holds(archives: list[Path], memory: int) -> None:
    opened = [open_archive(p) for p in archives]
    store = ArchivePatches(opened, memory=memory)
    assert store.levels == list(range(8))
    for level in (0, 1, 3, 7):
        patches = store.patches[level][[0, -1]]
        grids, latents = store.grids(level, patches), store.latents(level, patches)
        assert grids.shape == (2, 2**level, 2**level, 32)
        for place, (number, index, row, col) in enumerate(patches):
            archive = opened[number]
            assert tuple(archive.offsets(level)[index]) == (row, col)
            expected = archive.grid(level, row, col).astype(np.float16)
            np.testing.assert_array_equal(grids[place], expected)
            np.testing.assert_array_equal(latents[place], archive.latents(level, [index])[0])


def test_every_patch_is_trained_on_or_withheld(archives: list[Path]) -> None:
    opened = [open_archive(p) for p in archives]
    store, whole = ArchivePatches(opened), ArchivePatches(opened, withheld_fraction=0)
    for level in range(8):
        both = np.concatenate([store.patches[level], store.withheld[level]])
        assert sorted(map(tuple, both)) == sorted(map(tuple, whole.patches[level]))
        assert not len(whole.withheld[level])
    blocks = [withheld_block(a.mask) for a in opened]
    for level in range(4):
        for number, _, row, col in store.patches[level]:
            one = np.array([row]), np.array([col])
            assert tiles_within(blocks[number], *one, 2**level)[0] == 0
    assert len(store.withheld[0]) == sum(b.sum() for b in blocks)


def test_no_latents_is_an_error(tmp_path: Path, pipeline: ZoomLDMPipeline) -> None:
    path = make_archive(tmp_path / "bare.zldm", pipeline, levels=())
    with pytest.raises(ArchiveError, match=r"bare\.zldm: holds no latents.*--for-training"):
        ArchivePatches([open_archive(path)])


def test_archives_of_different_pipelines_refused(
    tmp_path: Path, archives: list[Path], pipeline: ZoomLDMPipeline
) -> None:
    other = build_pipeline("tiny")
    other.register_to_config()
    other.vae.register_to_config(latent_channels=2)
    path = make_archive(tmp_path / "other.zldm", other)
    with pytest.raises(ConfigError, match=r"differ in embeddings or latents.*one pipeline"):
        ArchivePatches([open_archive(archives[0]), open_archive(path)])


def test_the_fullest_patches_have_most_tissue(archives: list[Path]) -> None:
    store = ArchivePatches([open_archive(p) for p in archives])
    for level in store.levels:
        chosen = store.fullest(level, 2)
        assert 1 <= len(chosen) <= 2

        def tissue(patch: np.ndarray, side: int = 2**level) -> int:
            row, col = patch[2:, None]
            return int(tiles_within(store.archives[patch[0]].mask, row, col, side)[0])

        everyone = sorted(map(tissue, store.patches[level]))
        assert min(map(tissue, chosen)) >= everyone[-max(2, -(-len(everyone) // 4))]
