"""The patch encoders known by name, as one table."""

from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from zoomldm.networks.patch_vit import ViTSizes

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preparation:
    """How a tile becomes a network's input.

    Attributes:
        size: side in px that the whole tile is resized to, bilinear and antialiased.
        mean: of red, green and blue, subtracted from values in [0, 1].
        std: what they are divided by then.
    """

    size: int = 224
    mean: tuple[float, float, float] = _IMAGENET[0]
    std: tuple[float, float, float] = _IMAGENET[1]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class EncoderFacts:
    """A patch encoder that others trained.

    Attributes:
        id: its name here.
        dim: D, length of an embedding.
        architecture: in the field's words.
        source: repository on the Hugging Face hub, or the address of its file.
        licence: of the weights.
        gated: whether its terms must be accepted before it can be downloaded.
        preparation: of its input.
        sizes: of the transformer where it is read by our own network, else None.
        library: module that runs it.
    """

    id: str
    dim: int
    architecture: str
    source: str
    licence: str
    gated: bool
    preparation: Preparation
    sizes: ViTSizes | None = None
    library: str = "zoomldm"

    @property
    def on_hub(self) -> bool:
        """Whether `source` is a repository of the hub."""
        return "://" not in self.source

    @property
    def installed(self) -> bool:
        """Whether the module that runs it is there."""
        return find_spec(self.library) is not None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        shown = ("id", "dim", "architecture", "source", "licence", "gated", "library")
        return {
            **{name: getattr(self, name) for name in shown},
            "preparation": self.preparation.as_dict(),
            "installed": self.installed,
        }


_TABLE = (
    EncoderFacts(
        id="uni",
        dim=1024,
        architecture="ViT-L/16",
        source="MahmoodLab/UNI",
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        preparation=Preparation(),
        sizes=ViTSizes(dim=1024, depth=24, heads=16, hidden=4096, layer_scale=True),
    ),
    EncoderFacts(
        id="uni2",
        dim=1536,
        architecture="ViT-H/14, SwiGLU, 8 registers",
        source="MahmoodLab/UNI2-h",
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        preparation=Preparation(),
        sizes=ViTSizes(
            dim=1536,
            depth=24,
            heads=24,
            hidden=8192,
            patch=14,
            side=16,
            registers=8,
            positions_of_class=False,
            layer_scale=True,
            gated=True,
        ),
    ),
    EncoderFacts(
        id="phikon",
        dim=768,
        architecture="ViT-B/16",
        source="owkin/phikon",
        licence="Owkin non-commercial",
        gated=False,
        preparation=Preparation(),
        library="transformers",
    ),
    EncoderFacts(
        id="hipt",
        dim=384,
        architecture="ViT-S/16",
        source=(
            "https://github.com/mahmoodlab/HIPT/blob/master/HIPT_4K/Checkpoints/"
            "vit256_small_dino.pth"
        ),
        licence="Apache-2.0 with Commons Clause",
        gated=False,
        preparation=Preparation(256, *_HALF),
        sizes=ViTSizes(),
    ),
    EncoderFacts(  # of the released NAIP system; its own card crops where we resize the whole tile
        id="dinov2",
        dim=1024,
        architecture="ViT-L/14, 4 registers",
        source="facebook/dinov2-with-registers-large",
        licence="Apache-2.0",
        gated=False,
        preparation=Preparation(),
        library="transformers",
    ),
)
ENCODERS: dict[str, EncoderFacts] = {facts.id: facts for facts in _TABLE}
