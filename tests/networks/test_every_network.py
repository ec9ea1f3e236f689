"""What holds for every network: any device, half precision, saved and loaded, batch as single."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from zoomldm.networks.autoencoder import FoldedAutoencoder
from zoomldm.networks.context_dit import ContextDiT
from zoomldm.networks.denoiser import Denoiser
from zoomldm.networks.embedding_dit import EmbeddingDiT
from zoomldm.networks.lowpass import LowPassAutoencoder
from zoomldm.networks.octave_denoiser import BASE, NONE, PARENT, OctaveDenoiser
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.networks.patch_vit import PatchViT, ViTSizes
from zoomldm.networks.precision import fitted, widened
from zoomldm.networks.released_autoencoder import VQAutoencoder
from zoomldm.networks.summarizer_vit import ViTSummarizer
from zoomldm.networks.summarizers import CNNSummarizer
from zoomldm.pipeline.presets import preset


def _of(name: str, part: str) -> dict[str, Any]:
    """Settings of a network of a preset, its kind apart."""
    return {k: v for k, v in preset(name)[part].items() if k != "kind"}


def apart(out: Tensor, expected: Tensor) -> float:
    """Mean difference, over the mean size."""
    assert out.isfinite().all()
    return float((out.cpu().float() - expected).abs().mean() / expected.abs().mean())


class NetworkTests:
    """Tests of a network; a subclass says how it is built and what it is given.

    Attributes:
        build: makes the network, small.
        inputs: of three items; floating ones are cast as the pipeline casts them.
        call: how the network is used, where that isn't by calling it.
        loose: largest difference in half precision, over the largest value.
    """

    build: ClassVar[Callable[[], nn.Module]]
    inputs: ClassVar[Callable[[], tuple[Tensor, ...]]]
    loose: ClassVar[float] = 0.1

    def call(self, network: Any, *given: Tensor) -> Tensor:
        return network(*given)

    def built(self) -> tuple[Any, tuple[Tensor, ...]]:
        torch.manual_seed(0)
        network, given = type(self).build(), type(self).inputs()
        for values in network.parameters():
            if not values.any():
                nn.init.normal_(values, std=0.05)
        return network.eval().requires_grad_(False), given

    def test_on_another_device(self) -> None:
        network, given = self.built()
        expected = self.call(network, *given)
        out = self.call(network.to("meta"), *(v.to("meta") for v in given))
        assert out.device.type == "meta" and out.shape == expected.shape

    @pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
    def test_half_precision(self, kind: torch.dtype) -> None:
        network, given = self.built()
        expected = self.call(network, *given)
        network = network.to(kind)
        cast = (fitted(v, network) if v.is_floating_point() else v for v in given)
        out = widened(self.call(network, *cast), network)
        assert out.dtype == torch.float32 and out.isfinite().all()
        assert apart(out, expected) < self.loose

    def test_saved_and_loaded(self, tmp_path: Path) -> None:
        network, given = self.built()
        if not hasattr(network, "save_pretrained"):
            pytest.skip("weights of others: saved by nobody here")
        network.save_pretrained(tmp_path)
        loaded = type(network).from_pretrained(tmp_path).eval()
        assert not list(tmp_path.glob("*.bin"))
        torch.testing.assert_close(self.call(loaded, *given), self.call(network, *given))

    @pytest.mark.gpu
    def test_on_a_gpu(self, gpu: torch.device, tmp_path: Path) -> None:
        """Forward, in half precision, and saved from there, beside the CPU's float32."""
        network, given = self.built()
        expected = self.call(network, *given)
        network, there = network.to(gpu), [v.to(gpu) for v in given]
        out = self.call(network, *there)
        assert out.device.type == gpu.type
        assert apart(out, expected) < 0.01  # convolutions in TensorFloat-32 have 10 bits
        if hasattr(network, "save_pretrained"):
            network.save_pretrained(tmp_path)
            loaded = type(network).from_pretrained(tmp_path).eval().to(gpu)
            torch.testing.assert_close(self.call(loaded, *there), out)
        for kind in (torch.bfloat16, torch.float16):
            half = copy.deepcopy(network).to(kind)
            cast = (fitted(v, half) if v.is_floating_point() else v for v in there)
            assert apart(widened(self.call(half, *cast), half), expected) < self.loose

    def test_batch_as_single(self) -> None:
        network, given = self.built()
        whole = self.call(network, *given)
        for i in range(len(whole)):
            alone = self.call(network, *(v[i : i + 1] for v in given))
            torch.testing.assert_close(alone[0], whole[i], rtol=1e-4, atol=1e-4)


class TestDenoiser(NetworkTests):
    build = staticmethod(lambda: Denoiser(**preset("tiny")["unet"]))
    inputs = staticmethod(
        lambda: (torch.randn(3, 4, 32, 32), torch.tensor([1, 500, 999]), torch.randn(3, 64, 32))
    )


class TestFoldedAutoencoder(NetworkTests):
    build = staticmethod(lambda: FoldedAutoencoder(**preset("tiny")["vae"]))
    inputs = staticmethod(lambda: (torch.rand(3, 3, 64, 64) * 2 - 1,))


class TestLowPassEncoder(NetworkTests):
    build = staticmethod(lambda: LowPassAutoencoder(**_of("tiny-octaves", "vae")))
    inputs = staticmethod(lambda: (torch.rand(3, 3, 64, 64) * 2 - 1,))

    def call(self, network: Any, *given: Tensor) -> Tensor:
        return network.encode(*given)


class TestLowPassDecoder(NetworkTests):
    build = staticmethod(lambda: LowPassAutoencoder(**_of("tiny-octaves", "vae")))
    inputs = staticmethod(
        lambda: (torch.randn(3, 6, 8, 8), torch.randn(3, 2, 8, 8), torch.tensor([0, 3, 7]))
    )

    def call(self, network: Any, *given: Tensor) -> Tensor:
        return network.decode(*given)


class TestOctaveDenoiser(NetworkTests):
    build = staticmethod(lambda: OctaveDenoiser(**_of("tiny-octaves", "unet")))
    inputs = staticmethod(
        lambda: (
            torch.randn(3, 6, 32, 32),
            torch.tensor([1, 500, 999]),
            torch.randn(3, 64, 32),
            torch.tensor([0, 3, 7]),
            torch.randn(3, 6, 32, 32),
            torch.tensor([PARENT, BASE, NONE]),
            torch.tensor([0.1, 0.3, 0.0]),
        )
    )


class TestVQAutoencoder(NetworkTests):
    build = staticmethod(lambda: VQAutoencoder(codebook=16, widths=(32, 32), depth=1))
    inputs = staticmethod(lambda: (torch.rand(3, 3, 32, 32) * 2 - 1,))

    def call(self, network: Any, *given: Tensor) -> Tensor:
        return network.encode(*given)  # entries of the codebook are near each other


class TestCNNSummarizer(NetworkTests):
    build = staticmethod(lambda: CNNSummarizer(**preset("tiny")["summarizer"]))
    inputs = staticmethod(lambda: (torch.randn(3, 16, 16, 32), torch.tensor([4, 4, 4])))


class TestCNNSummarizerThatUnpacks(TestCNNSummarizer):
    build = staticmethod(lambda: CNNSummarizer(**preset("tiny-octaves")["summarizer"]))
    inputs = staticmethod(lambda: (torch.randn(3, 2, 2, 32), torch.tensor([1, 1, 1])))


class TestViTSummarizer(NetworkTests):
    build = staticmethod(lambda: ViTSummarizer(dim=8, width=32, hidden=16, context_dim=32, depth=1))
    inputs = staticmethod(lambda: (torch.randn(3, 4, 4, 8), torch.tensor([2, 2, 2])))


class TestTileCNN(NetworkTests):
    build = staticmethod(lambda: TileCNN(**preset("tiny")["patch_encoder"]))
    inputs = staticmethod(lambda: (torch.rand(3, 3, 256, 256),))


class TestPatchViT(NetworkTests):
    build = staticmethod(
        lambda: PatchViT(ViTSizes(dim=64, depth=1, heads=1, hidden=64, side=2, layer_scale=True))
    )
    inputs = staticmethod(lambda: (torch.randn(3, 3, 64, 64),))


class TestContextDiT(NetworkTests):
    build = staticmethod(
        lambda: ContextDiT(context_dim=12, reference_dim=6, width=16, depth=2, heads=2)
    )
    inputs = staticmethod(
        lambda: (
            torch.randn(3, 64, 12),
            torch.tensor([5, 500, 999]),
            torch.tensor([0, 3, 8]),
            torch.randn(3, 6),
            torch.randn(3, 16, 12),
        )
    )


class TestContextDiTWithAxes(TestContextDiT):
    build = staticmethod(
        lambda: ContextDiT(
            context_dim=12,
            reference_dim=6,
            width=16,
            depth=2,
            heads=2,
            axes=8,
            unpack=4,
            qk_norm=True,
            neighbours=True,
        )
    )


class TestEmbeddingDiT(NetworkTests):
    build = staticmethod(lambda: EmbeddingDiT(context_dim=32, width=64, depth=1, heads=1))
    inputs = staticmethod(
        lambda: (torch.randn(3, 65, 32), torch.tensor([5, 500, 999]), torch.tensor([0, 3, 7]))
    )
