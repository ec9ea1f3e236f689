"""An archive's manifest: the attributes of its root `zarr.json`.

Every field is required when written; unknown keys are ignored when read, so that minor versions
may add keys.
"""

import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from zoomldm.errors import ArchiveError
from zoomldm.geometry.levels import COARSEST, grid_shape, level_size

FORMAT = "zldm"
FORMAT_VERSION = "3.1"
MAJORS = (1, 2, 3)
MANIFEST_NAME = "zarr.json"
MAX_TILES = 1 << 26

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Level = Annotated[int, Field(ge=0, le=COARSEST)]
Side = Annotated[int, Field(ge=1, le=1 << 31)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Byte = Annotated[int, Field(ge=0, le=255)]
Count = Annotated[int, Field(ge=0, le=1 << 53)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class SlideInfo(_Part):
    """The slide that was compressed; sizes are (width, height) in px, mpp in micrometres/px.

    `native_size` is the size of its finest stored level, `size` that of its 0.5 mpp raster.
    `icc` describes the colour profile that was applied, None if there was none. `turn` is the
    raster's orientation (see `zoomldm.geometry.orientation`; from version 1.1 on).
    `content` is a digest of the slide file's content (see `zoomldm.slides.content`; from
    version 1.2 on), None if unknown.
    """

    name: str
    file_bytes: Count
    native_size: tuple[Side, Side]
    size: tuple[Side, Side]
    mpp_x: Positive
    mpp_y: Positive
    mpp_source: str
    vendor: str
    icc: str | None
    turn: Annotated[int, Field(ge=0, le=7)] = 0
    content: Digest | None = None

    @property
    def version(self) -> str:
        """The lowest format version that can hold these fields."""
        if self.content:
            return "1.2"
        return "1.1" if self.turn else "1.0"


class TissueInfo(_Part):
    """How tissue was found, with the threshold and the mpp of the view used for it."""

    mode: str
    threshold: Finite
    view_mpp: Positive


class Network(_Part):
    """A network or pipeline: its id and the SHA-256 of its weights."""

    id: str
    digest: str


class Encoder(Network):
    """The patch encoder; `dim` is D, the embedding dimension."""

    dim: Annotated[int, Field(ge=1, le=1 << 16)]


class Grid(_Part):
    """Tiles of 256 px of the 0.5 mpp raster."""

    rows: Annotated[int, Field(ge=1, le=MAX_TILES)]
    cols: Annotated[int, Field(ge=1, le=MAX_TILES)]


class Quantisation(_Part):
    """How embeddings are stored; `cosine_min` is the worst tile's cosine with its original.

    `rank` is K, the number of axes of a `compact` archive, 0 in others. `asked` is the precision
    that was requested from the writer, if another one was used because it takes fewer bytes.
    """

    precision: Literal["compact", "int8", "float16"]
    cosine_min: Annotated[float, Field(ge=-1, le=1)]
    rank: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    asked: str | None = None

    @property
    def wanted(self) -> str:
        """The precision that was requested."""
        return self.asked or self.precision


class Overview(_Part):
    """The image in versions 1.0 and 1.1, a single JPEG: its level, quality and size in px."""

    level: Level
    codec: str
    quality: Annotated[int, Field(ge=1, le=100)]
    width: Side
    height: Side


class Base(_Part):
    """The base layer: its level, codec, quality, size and its chunks' side in px.

    `quality` is None if the codec is lossless. `ratio` is the ratio of the slide's bytes to the
    archive's for which the quality was chosen, None if the quality was given. `background` is
    the RGB where no chunk is stored (from versions 1.4 and 2.2 on), None if that is white.
    """

    level: Level
    codec: str
    quality: Annotated[int, Field(ge=1, le=100)] | None
    width: Side
    height: Side
    chunk: Annotated[int, Field(ge=1, le=8192)]
    ratio: Annotated[float, Field(gt=0)] | None = None
    background: tuple[Byte, Byte, Byte] | None = None


class Latents(_Part):
    """Latents of one level: `count` patches of (channels, height, width)."""

    level: Level
    count: Count
    channels: Annotated[int, Field(ge=1, le=4096)]
    height: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=4096)]


class Member(_Part):
    """One member of the zip: its size in bytes and SHA-256."""

    name: str
    size: Count
    sha256: Digest


class Origin(_Part):
    """The source of tiles in an edited archive: a pixel of an archive's 0.5 mpp raster.

    `archive` is the source's file name, `digest` its identity (see `Archive.digest`).
    """

    archive: str
    digest: Digest
    x: Count
    y: Count


class Edit(_Part):
    """A region that was edited after compression (from versions 1.3 and 2.1 on).

    `region` is x, y, w, h in px of the 0.5 mpp raster. A `transplant` has one origin, the corner
    of the inserted region. An `interpolation` has two, with `steps` between their tiles. `base`
    says what was done with the base layer.
    """

    kind: Literal["transplant", "interpolation"]
    region: tuple[Count, Count, Side, Side]
    origins: list[Origin]
    steps: Annotated[int, Field(ge=0)] = 0
    base: str


class Like(_Part):
    """The tile that an imaginary slide should resemble: its source and its embedding."""

    source: dict[str, str | int]
    embedding: Annotated[list[Finite], Field(min_length=1, max_length=1 << 16)]


Solver = Literal["ddim", "dpm-solver++"]


class Generated(_Part):
    """What an imaginary slide is sampled from (from version 3.0 on); it has no embeddings.

    `summarizer` and `embedding_diffusion` are digests of the networks that define its contexts
    and sample them, from level `coarsest` down, by `solver` (from version 3.1 on). Levels sampled
    with guidance take `steps` and `guidance`, finer ones `finer_steps`. `reference` and `label`
    say what tissue is requested, None if nothing is. `attempt` numbers the noise of the coarsest
    level.
    """

    seed: Annotated[int, Field(ge=0, lt=1 << 63)]
    attempt: Annotated[int, Field(ge=0, lt=1000)]
    coarsest: Level
    steps: Annotated[int, Field(ge=1, le=1000)]
    finer_steps: Annotated[int, Field(ge=1, le=1000)]
    solver: Solver = "ddim"
    guidance: Annotated[float, Field(ge=0, le=100)]
    label: str | None
    reference: Like | None
    summarizer: Digest
    embedding_diffusion: Digest


class Header(_Part):
    """The part of the manifest that the writer's caller supplies.

    `autoencoder` and `pipeline` are None if the archive was made without them; `creator` names the
    program and its version. `edits` lists later changes to the grid, in order. `generated`
    describes what an imaginary slide is sampled from, None for a real slide.
    """

    slide: SlideInfo
    tissue: TissueInfo
    encoder: Encoder
    autoencoder: Network | None
    pipeline: Network | None
    creator: str
    edits: list[Edit] = []
    generated: Generated | None = None


class Manifest(Header):
    """The whole manifest of an archive.

    `tissue_tiles` counts the stored tiles. `unreadable` lists the (row, col) of tissue tiles
    that the slide's reader could not decode and that are therefore background here. An archive has
    an `overview` (before version 1.2), a `base` layer or neither.
    """

    format: Literal["zldm"]
    version: str
    grid: Grid
    tissue_tiles: Count
    unreadable: list[tuple[int, int]]
    quantisation: Quantisation
    overview: Overview | None
    base: Base | None = None
    latents: list[Latents]
    members: list[Member]

    @property
    def base_bytes(self) -> int:
        """Bytes of the base layer's chunks, or of the overview's single chunk."""
        return sum(m.size for m in self.members if m.name.startswith("overview/c/"))

    @model_validator(mode="after")
    def _geometry(self) -> Self:
        width, height = self.slide.size
        expected = grid_shape(width, height)
        if (self.grid.rows, self.grid.cols) != expected:
            raise ValueError(f"grid is not {expected} as the raster's size gives")
        if self.grid.rows * self.grid.cols > MAX_TILES:
            raise ValueError(f"grid is over the limit of {MAX_TILES} tiles")
        for name, view in (("overview", self.overview), ("base", self.base)):
            if view and (view.width, view.height) != level_size(width, height, view.level):
                raise ValueError(f"{name} does not have the size of its level")
        given = self.generated.reference if self.generated else None
        if given and len(given.embedding) != self.encoder.dim:
            raise ValueError("the reference of an imaginary slide is not of the encoder's length")
        if self.overview and self.base:
            raise ValueError("both an overview and a base layer; expected one of them at most")
        levels = [part.level for part in self.latents]
        if len(set(levels)) != len(levels):
            raise ValueError("latents list a level twice")
        return self


def dump_manifest(manifest: Manifest) -> bytes:
    """The root `zarr.json`: a Zarr v3 group with the manifest as attributes, compact JSON."""
    attributes = manifest.model_dump(mode="json")
    if not manifest.slide.turn:
        del attributes["slide"]["turn"]
    if not manifest.slide.content:
        del attributes["slide"]["content"]
    if not manifest.base:
        del attributes["base"]
    elif not manifest.base.background:
        del attributes["base"]["background"]
    if not manifest.edits:
        del attributes["edits"]
    if not manifest.generated:
        del attributes["generated"]
    for key in ("rank", "asked"):
        if not attributes["quantisation"][key]:
            del attributes["quantisation"][key]
    attributes["members"] = [[m.name, m.size, m.sha256] for m in manifest.members]
    return dump_json({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def dump_json(value: dict[str, Any]) -> bytes:
    """Compact ASCII JSON in the order of the keys; no NaN or infinity."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ArchiveError: it is not one; `what` names it.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{what} is not JSON") from error
    if not isinstance(value, dict):
        raise ArchiveError(f"{what} is not a JSON object")
    return value


def parse_manifest(data: bytes, path: object) -> Manifest:
    """Parse the root `zarr.json`.

    Raises:
        ArchiveError: not a manifest, of a newer major version, or with values out of range.
    """
    what = f"{path}: member {MANIFEST_NAME}"
    root = parse_json(data, what)
    attributes = root.get("attributes")
    if not isinstance(attributes, dict) or attributes.get("format") != FORMAT:
        raise ArchiveError(f"{path}: is not a .zldm archive (no format {FORMAT!r} in its manifest)")
    version = str(attributes.get("version"))
    if not re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}", version):
        raise ArchiveError(f"{path}: format version {version!r} is none; expected {FORMAT_VERSION}")
    if int(version.split(".")[0]) not in MAJORS:
        raise ArchiveError(
            f"{path}: is of format version {version}; this zoomldm reads "
            f"{', '.join(f'{m}.x' for m in MAJORS)}; update zoomldm"
        )
    members = attributes.get("members")
    if not isinstance(members, list) or not all(
        isinstance(m, list) and len(m) >= 3 for m in members
    ):
        raise ArchiveError(f"{what} has no list of members")
    named = [{"name": m[0], "size": m[1], "sha256": m[2]} for m in members]
    try:
        return Manifest.model_validate(attributes | {"members": named})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise ArchiveError(f"{what} is malformed at {where}: {first['msg']}") from error
