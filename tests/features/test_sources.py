"""What features are made of."""

import numpy as np
import pytest
import torch

from zoomldm.archive import Network, open_archive
from zoomldm.errors import ArchiveError, ConfigError
from zoomldm.features.sources import _cells, denoiser_features, summarizer_features, tile_features
from zoomldm.geometry.lattice import tissue_patches

WIDE = {
    "size": (70000, 3000),  # three patches at 0.15625x
    "boxes": ((0, 1, 0, 3), (0, 2, 130, 140), (0, 1, 256, 262)),
}


def test_patches_hold_tissue_and_lie_edge_to_edge():
    mask = np.zeros((5, 9), bool)
    mask[0, 0] = mask[4, 8] = mask[3, 7] = True
    assert tissue_patches(mask, 0).tolist() == [[0, 0, 1], [3, 7, 1], [4, 8, 1]]
    assert tissue_patches(mask, 2).tolist() == [[0, 0, 1], [0, 1, 1], [1, 2, 1]]
    assert tissue_patches(mask, 7).tolist() == [[0, 0, 3]]


def test_summarizer_gives_64_tokens_a_patch_with_their_cells(make, pipeline):
    with open_archive(make(**WIDE)) as archive:
        found = summarizer_features(archive, pipeline, 7)
        assert found.values.shape == (3 * 64, 32) and found.patches == 3
        assert found.side == 128 * 256 // 8
        expected = pipeline.context(archive.grid(7, 0, 128)[None], 7)[0].numpy()
        np.testing.assert_allclose(found.values[64:128], expected, atol=1e-6)
        assert found.places[64].tolist() == [32768, 0]
        assert found.places[64 + 8 * 2 + 3].tolist() == [32768 + 3 * 4096, 2 * 4096]


def test_fixed_takes_the_two_with_most_tissue(make, pipeline):
    with open_archive(make(**WIDE)) as archive:
        whole = summarizer_features(archive, pipeline, 7)
        fixed = summarizer_features(archive, pipeline, 7, fixed=True)
    assert fixed.values.shape == (128, 32)
    assert fixed.mask is not None and fixed.mask.all()
    np.testing.assert_array_equal(fixed.values[:64], whole.values[64:128])
    np.testing.assert_array_equal(fixed.values[64:], whole.values[128:])


def test_fixed_fills_up_with_zeros(make, pipeline):
    with open_archive(make()) as archive:
        fixed = summarizer_features(archive, pipeline, 7, fixed=True)
    assert fixed.values.shape == (128, 32) and fixed.mask is not None
    assert fixed.mask[:64].all() and not fixed.mask[64:].any()
    assert fixed.values[:64].any(1).all() and not fixed.values[64:].any()


def test_small_patches_in_groups_equal_single_ones(make, pipeline):
    with open_archive(make()) as archive:
        found = summarizer_features(archive, pipeline, 0)
        assert found.values.shape == (20 * 64, 32) and found.side == 32
        one = pipeline.context(archive.grid(0, 3, 5)[None], 0)[0].numpy()
        np.testing.assert_allclose(found.values[-64:], one, atol=1e-5)


def test_cells_of_the_released_summarizer():
    context = torch.arange(65.0)[None, :, None]
    for level, first, across in ((0, 33, 1), (1, 31, 2), (2, 25, 4), (3, 1, 8), (7, 1, 8)):
        cells, side = _cells(context, level)
        assert side == across
        assert cells[0, :, 0].tolist() == list(range(first, first + across**2))


def test_tiles_are_the_stored_embeddings(make):
    with open_archive(make()) as archive:
        found = tile_features(archive)
        assert found.values.shape == (20, 32)
        np.testing.assert_array_equal(found.values[7], archive.embeddings(1, 2, 3, 4)[0, 0])
        assert found.places[7].tolist() == [3 * 256, 256]


def test_unet_hears_a_layer_at_a_timestep(make, pipeline):
    with open_archive(make(overview=4)) as archive:
        low = denoiser_features(archive, pipeline, 4, "mid", 0)
        assert low.values.shape == (1, 32) and low.origin == "overview"
        again = denoiser_features(archive, pipeline, 4, "mid", 0)
        np.testing.assert_array_equal(low.values, again.values)
        high = denoiser_features(archive, pipeline, 4, "mid", 900)
        assert np.abs(high.values - low.values).max() > 1e-3
        assert denoiser_features(archive, pipeline, 4, "down.0", 0).values.shape == (1, 16)
        fixed = denoiser_features(archive, pipeline, 4, "up.1", 0, fixed=True)
        assert fixed.values.shape == (2, 16) and fixed.mask is not None
        assert fixed.mask.tolist() == [True, False]
        assert not pipeline.unet.unet.mid_block._forward_hooks


def test_unet_takes_stored_latents_first(make, pipeline):
    shape = pipeline.latent_shape
    offsets = np.array([[0, 0], [0, 4], [0, 2], [4, 4]])
    latents = np.random.default_rng(1).standard_normal((4, *shape))
    with open_archive(make(latents={2: (offsets, latents)})) as archive:
        found = denoiser_features(archive, pipeline, 2, "mid", 0)
        assert found.values.shape == (2, 32) and found.origin == "latents"
        heard = []
        hook = pipeline.unet.unet.mid_block.register_forward_hook(
            lambda _m, _i, out: heard.append(out.mean((2, 3)).numpy())
        )
        time = torch.zeros(1, dtype=torch.long)
        from zoomldm.diffusion.noise import noise

        epsilon = torch.from_numpy(noise(0, 2, 0, 0, shape[2], shape))[None]
        clean = torch.from_numpy(latents[1:2].astype(np.float16)).float()
        with torch.no_grad():
            noisy = pipeline.scheduler.add_noise(clean, epsilon, time)
            pipeline.unet(noisy, time, pipeline.context(archive.grid(2, 0, 4)[None], 2))
        hook.remove()
        np.testing.assert_allclose(found.values[1:], heard[0], atol=1e-5)


def test_unet_says_what_is_missing(make, pipeline):
    with open_archive(make("b")) as archive:
        with pytest.raises(ArchiveError, match=r"nothing to noise at 5x: no latents of that"):
            denoiser_features(archive, pipeline, 2, "mid", 0)
        with pytest.raises(ConfigError, match=r"layer 'up\.9' does not exist; layers are down.0, "):
            denoiser_features(make_view(make), pipeline, 4, "up.9", 0)
        with pytest.raises(ConfigError, match="timestep is 1000; expected 0 to 999"):
            denoiser_features(archive, pipeline, 2, "mid", 1000)
    latents = {2: (np.array([[0, 0]]), np.zeros((1, *pipeline.latent_shape)))}
    with (
        open_archive(make("c", overview=4, latents=latents)) as archive,
        pytest.raises(ArchiveError, match=r"no latents of 1 of its .* base layer begins at 1\.25x"),
    ):
        denoiser_features(archive, pipeline, 2, "mid", 0)
    other = Network(id="other", digest="f" * 64)
    with (
        open_archive(make("d", latents=latents, autoencoder=other)) as archive,
        pytest.raises(ArchiveError, match=r"another autoencoder \('other', ffffffffffff\), and it"),
    ):
        denoiser_features(archive, pipeline, 2, "mid", 0)


def make_view(make):
    return open_archive(make("view", overview=4))
