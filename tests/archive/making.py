"""Small archives for the tests, and forged ones whose digests fit all the same."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from zoomldm.archive import Archive, Encoder, Header, Network, SlideInfo, TissueInfo
from zoomldm.archive.container import ContainerWriter
from zoomldm.archive.embeddings import Precision
from zoomldm.archive.manifest import MANIFEST_NAME
from zoomldm.archive.writer import write_archive
from zoomldm.geometry.levels import grid_shape, level_size


def make_header(width: int, height: int, dim: int) -> Header:
    return Header(
        slide=SlideInfo(
            name="a.svs",
            file_bytes=4_000_000,
            native_size=(2 * width, 2 * height),
            size=(width, height),
            mpp_x=0.25,
            mpp_y=0.25,
            mpp_source="openslide.mpp",
            vendor="aperio",
            icc=None,
        ),
        tissue=TissueInfo(mode="otsu", threshold=0.07, view_mpp=8.0),
        encoder=Encoder(id="demo", digest="0" * 64, dim=dim),
        autoencoder=Network(id="demo", digest="1" * 64),
        pipeline=None,
        creator="zoomldm test",
    )


def make_archive(
    path: Path,
    width: int = 9000,
    height: int = 5000,
    tiles: int = 120,
    dim: int = 48,
    *,
    seed: int = 0,
    precision: Precision = "int8",
    overview: bool = True,
    latents: bool = True,
) -> dict[str, np.ndarray]:
    """Write an archive of random numbers; returns what went in."""
    rng = np.random.default_rng(seed)
    rows, cols = grid_shape(width, height)
    cells = np.sort(rng.permutation(rows * cols)[:tiles])
    data = {
        "positions": np.stack([cells // cols, cells % cols], axis=1),
        "embeddings": rng.standard_normal((len(cells), dim)).astype(np.float32) * 3 + 0.2,
        "background": rng.standard_normal(dim).astype(np.float32),
    }
    level = 5
    wide, high = level_size(width, height, level)
    ramp = np.add.outer(np.arange(high), np.arange(wide))
    data["overview"] = np.stack([ramp % 256, ramp // 2 % 256, ramp // 3 % 256], 2).astype(np.uint8)
    stored = {}
    for k, count in ((0, 11), (3, 2)) if latents else ():
        data[f"offsets/{k}"] = rng.integers(-4, 9, (count, 2)).astype(np.int32)
        data[f"latents/{k}"] = rng.standard_normal((count, 4, 8, 8)).astype(np.float16)
        stored[k] = (data[f"offsets/{k}"], data[f"latents/{k}"])
    write_archive(
        path,
        make_header(width, height, dim),
        data["positions"],
        data["embeddings"],
        data["background"],
        precision=precision,
        overview=(level, data["overview"]) if overview else None,
        latents=stored,
    )
    return data


def read_everything(path: Path) -> list[np.ndarray]:
    """Every number that an archive gives out."""
    with Archive(path) as archive:
        parts = [archive.mask, archive.background]
        parts.append(archive.embeddings(-2, archive.rows + 2, -2, archive.cols + 2))
        picture = archive.overview()
        parts += [picture[1]] if picture else []
        for level in archive.latent_levels:
            offsets = archive.offsets(level)
            parts += [offsets, archive.latents(level, np.arange(len(offsets)))]
    return parts


def forge(
    source: Path,
    target: Path,
    *,
    root: Callable[[dict], None] = lambda root: None,
    members: Callable[[dict[str, bytes]], None] = lambda members: None,
    relist: bool = True,
) -> Path:
    """Copy an archive with other members or manifest, with digests that fit."""
    with zipfile.ZipFile(source) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    manifest = json.loads(parts.pop(MANIFEST_NAME))
    members(parts)
    with ContainerWriter(target) as writer:
        for name, data in parts.items():
            writer.add(name, data)
        if relist:
            manifest["attributes"]["members"] = [[m.name, m.size, m.sha256] for m in writer.members]
        root(manifest)
        writer.finish(json.dumps(manifest).encode())
    return target
