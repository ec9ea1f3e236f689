"""Table of the patch encoders known by name."""

from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal

from zoomldm.networks.patch_vit import ViTSizes

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_OPTIMUS = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)


@dataclass(frozen=True)
class Preprocessing:
    """How a tile becomes a network's input.

    Attributes:
        size: side in px that the whole tile is resized to, bilinear and antialiased.
        mean: mean of red, green and blue, subtracted from values in [0, 1].
        std: divisor of the result, per colour.
    """

    size: int = 224
    mean: tuple[float, float, float] = _IMAGENET[0]
    std: tuple[float, float, float] = _IMAGENET[1]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class EncoderSpec:
    """A third-party patch encoder.

    Attributes:
        id: its name here.
        dim: D, length of an embedding.
        architecture: common name of the architecture.
        source: repository on the Hugging Face hub, or URL of its file.
        licence: licence of the weights.
        gated: whether its terms must be accepted before download.
        preprocessing: preprocessing of its input.
        sizes: sizes of the transformer if this package's own network runs it, else None.
        library: module that runs it.
        pooling: how the embedding is taken from the transformer: its `class` token, that and the
            mean of its patches (`class and mean`), or `attention` pooling over all tokens.
        file: weights file in the repository, if it has an unusual name.
    """

    id: str
    dim: int
    architecture: str
    source: str
    licence: str
    gated: bool
    preprocessing: Preprocessing
    sizes: ViTSizes | None = None
    library: str = "zoomldm"
    pooling: Literal["class", "class and mean", "attention"] = "class"
    file: str | None = None

    @property
    def on_hub(self) -> bool:
        """Whether `source` is a repository on the hub."""
        return "://" not in self.source

    @property
    def installed(self) -> bool:
        """Whether the module that runs it is installed."""
        return find_spec(self.library) is not None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        shown = ("id", "dim", "architecture", "source", "licence", "gated", "library", "pooling")
        return {
            **{name: getattr(self, name) for name in shown},
            "preprocessing": self.preprocessing.as_dict(),
            "installed": self.installed,
        }


_BASE = ViTSizes(dim=768, depth=12, heads=12, hidden=3072)
_HUGE = ViTSizes(
    dim=1280, depth=32, heads=16, hidden=6832, patch=14, side=16, layer_scale=True, gated=True
)
_LARGE_14 = ViTSizes(
    dim=1024,
    depth=24,
    heads=16,
    hidden=4096,
    patch=14,
    side=16,
    registers=4,
    positions_of_class=False,
    layer_scale=True,
)
_GIANT = replace(_LARGE_14, dim=1536, depth=40, heads=24, hidden=8192, gated=True)

_TABLE = (
    EncoderSpec(
        id="uni",
        dim=1024,
        architecture="ViT-L/16",
        source="MahmoodLab/UNI",
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        preprocessing=Preprocessing(),
        sizes=ViTSizes(dim=1024, depth=24, heads=16, hidden=4096, layer_scale=True),
    ),
    EncoderSpec(
        id="uni2",
        dim=1536,
        architecture="ViT-H/14, SwiGLU, 8 registers",
        source="MahmoodLab/UNI2-h",
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        preprocessing=Preprocessing(),
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
    EncoderSpec(
        id="phikon",
        dim=768,
        architecture="ViT-B/16",
        source="owkin/phikon",
        licence="Owkin non-commercial",
        gated=False,
        preprocessing=Preprocessing(),
        library="transformers",
    ),
    EncoderSpec(
        id="hipt",
        dim=384,
        architecture="ViT-S/16",
        source=(
            "https://github.com/mahmoodlab/HIPT/blob/master/HIPT_4K/Checkpoints/"
            "vit256_small_dino.pth"
        ),
        licence="Apache-2.0 with Commons Clause",
        gated=False,
        preprocessing=Preprocessing(256, *_HALF),
        sizes=ViTSizes(),
    ),
    EncoderSpec(  # of the released NAIP system; its card crops, here the whole tile is resized
        id="dinov2",
        dim=1024,
        architecture="ViT-L/14, 4 registers",
        source="facebook/dinov2-with-registers-large",
        licence="Apache-2.0",
        gated=False,
        preprocessing=Preprocessing(),
        library="transformers",
    ),
    EncoderSpec(  # TITAN's patch encoder; the image tower alone
        id="conch-v1.5",
        dim=768,
        architecture="ViT-L/16, attention pool",
        source="MahmoodLab/conchv1_5",
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        preprocessing=Preprocessing(448),
        sizes=ViTSizes(dim=1024, depth=24, heads=16, hidden=4096, layer_scale=True),
        pooling="attention",
        file="pytorch_model_vision.bin",
    ),
    EncoderSpec(
        id="h-optimus-0",
        dim=1536,
        architecture="ViT-g/14, SwiGLU, 4 registers",
        source="bioptimus/H-optimus-0",
        licence="Apache-2.0",
        gated=True,
        preprocessing=Preprocessing(224, *_OPTIMUS),
        sizes=_GIANT,
    ),
    EncoderSpec(
        id="h-optimus-1",
        dim=1536,
        architecture="ViT-g/14, SwiGLU, 4 registers",
        source="bioptimus/H-optimus-1",
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        preprocessing=Preprocessing(224, *_OPTIMUS),
        sizes=_GIANT,
    ),
    EncoderSpec(
        id="h0-mini",
        dim=768,
        architecture="ViT-B/14, SwiGLU, 4 registers",
        source="bioptimus/H0-mini",
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        preprocessing=Preprocessing(224, *_OPTIMUS),
        sizes=replace(_GIANT, dim=768, depth=12, heads=12, hidden=4096),
    ),
    EncoderSpec(
        id="virchow",
        dim=2560,
        architecture="ViT-H/14, SwiGLU",
        source="paige-ai/Virchow",
        licence="Apache-2.0",
        gated=True,
        preprocessing=Preprocessing(),
        sizes=_HUGE,
        pooling="class and mean",
    ),
    EncoderSpec(
        id="virchow2",
        dim=2560,
        architecture="ViT-H/14, SwiGLU, 4 registers",
        source="paige-ai/Virchow2",
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        preprocessing=Preprocessing(),
        sizes=replace(_HUGE, registers=4, positions_of_registers=True),
        pooling="class and mean",
    ),
    EncoderSpec(
        id="prov-gigapath",
        dim=1536,
        architecture="ViT-g/16, SwiGLU",
        source="prov-gigapath/prov-gigapath",
        licence="Apache-2.0",
        gated=True,
        preprocessing=Preprocessing(),
        sizes=ViTSizes(dim=1536, depth=40, heads=24, hidden=8192, layer_scale=True, gated=True),
    ),
    EncoderSpec(
        id="phikon-v2",
        dim=1024,
        architecture="ViT-L/16",
        source="owkin/phikon-v2",
        licence="Owkin non-commercial",
        gated=False,
        preprocessing=Preprocessing(),
        library="transformers",
    ),
    EncoderSpec(
        id="midnight-12k",
        dim=3072,
        architecture="ViT-g/14, SwiGLU",
        source="kaiko-ai/midnight",
        licence="MIT",
        gated=False,
        preprocessing=Preprocessing(224, *_HALF),
        library="transformers",
        pooling="class and mean",
    ),
    EncoderSpec(  # licence from the hub's card; its code is under MIT
        id="gpfm",
        dim=1024,
        architecture="ViT-L/14",
        source="majiabo/GPFM",
        licence="CC-BY-NC-4.0",
        gated=False,
        preprocessing=Preprocessing(),
        sizes=ViTSizes(
            dim=1024, depth=24, heads=16, hidden=4096, patch=14, side=16, layer_scale=True
        ),
        file="GPFM.pth",
    ),
    *(
        EncoderSpec(
            id=f"kaiko-{name}",
            dim=sizes.dim,
            architecture=f"ViT-{name[3].upper()}/{sizes.patch}"
            + (", 4 registers" if sizes.registers else ""),
            source=f"1aurent/vit_{word}_patch{sizes.patch}_{tail}.kaiko_ai_towards_large_pathology_fms",
            licence="Kaiko non-commercial",
            gated=False,
            preprocessing=Preprocessing(224, *_HALF),
            sizes=sizes,
        )
        for name, word, tail, sizes in (
            ("vits16", "small", "224", ViTSizes()),
            ("vits8", "small", "224", ViTSizes(patch=8, side=28)),
            ("vitb16", "base", "224", _BASE),
            ("vitb8", "base", "224", replace(_BASE, patch=8, side=28)),
            ("vitl14", "large", "reg4_224", _LARGE_14),
        )
    ),
)
ENCODERS: dict[str, EncoderSpec] = {spec.id: spec for spec in _TABLE}

# Names in TRIDENT and STAMP files, in lower case and with hyphens, where they differ from the id.
# STAMP prefixes the maker (mahmood-uni2).
_OTHERWISE = {
    "uni-v1": "uni",
    "uni-v2": "uni2",
    "uni2-h": "uni2",
    "conch-v15": "conch-v1.5",
    "conch1-5": "conch-v1.5",
    "hoptimus0": "h-optimus-0",
    "hoptimus1": "h-optimus-1",
    "gigapath": "prov-gigapath",
    "virchow-full": "virchow",
    "midnight12k": "midnight-12k",
}


def known_as(name: str) -> str | None:
    """Return the id of the encoder named in another tool's feature file; None if unknown here.

    Examples:
        >>> from zoomldm.encoders.table import known_as
        >>> known_as("uni_v1"), known_as("mahmood-conch1_5"), known_as("ctranspath")
        ('uni', 'conch-v1.5', None)
    """
    plain = name.strip().lower().replace("_", "-").removeprefix("mahmood-")
    found = _OTHERWISE.get(plain, plain)
    return found if found in ENCODERS else None
