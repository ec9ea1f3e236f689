"""From a command to a run: data found and split by case, one stage trained, a pipeline made."""

import copy
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from zoomldm.archive import Archive, open_archive
from zoomldm.cohort.cases import Split, read_labels, split_cases
from zoomldm.data.archive_patches import ArchivePatches
from zoomldm.data.contexts import ContextStore
from zoomldm.data.crops import PatchCrops
from zoomldm.data.rasters import RasterPatches, load_raster
from zoomldm.data.slide_patches import SlidePatches, cache_tiles
from zoomldm.errors import ConfigError, PipelineError, TargetError
from zoomldm.networks.autoencoder import FoldedAutoencoder
from zoomldm.networks.context_dit import ContextDiT
from zoomldm.networks.lowpass import LowPassAutoencoder
from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.networks.patch_encoder import TileCNN
from zoomldm.networks.summarizers import CNNSummarizer
from zoomldm.pipeline import (
    KINDS,
    SHIPPED,
    ZoomLDMPipeline,
    build_pipeline,
    load_pipeline,
    pick_device,
)
from zoomldm.pipeline.compatibility import check_encoder, check_latents
from zoomldm.pipeline.presets import preset as preset_table
from zoomldm.training.config import STAGES, TrainConfig, make_config
from zoomldm.training.judging import train_judge
from zoomldm.training.loop import Stage, train
from zoomldm.training.perceptual import perceptual_features
from zoomldm.training.stages.autoencoder import AutoencoderStage
from zoomldm.training.stages.diffusion import DiffusionStage
from zoomldm.training.stages.embedding_diffusion import FIXED, EmbeddingDiffusionStage
from zoomldm.training.stages.lowpass_decoder import LowPassDecoderStage, fit_bands
from zoomldm.training.stages.octave import OctaveStage
from zoomldm.training.stages.patch_encoder import PatchEncoderStage

ENDINGS = frozenset(
    [
        *(".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".svslide"),
        *(".bif", ".czi", ".dcm"),
    ]
)
_PARTS = {"autoencoder": "vae", "patch-encoder": "patch_encoder"}
_FROZEN = {  # networks that a stage on archives takes as they are
    "diffusion": ("vae", "patch_encoder"),
    "embedding-diffusion": ("summarizer", "patch_encoder"),
}


@dataclass(frozen=True)
class TrainReport:
    """What a run came to.

    Attributes:
        stage: autoencoder, patch-encoder, diffusion, embedding-diffusion or judge.
        run: folder of the run.
        pipeline: folder of the pipeline with the averaged networks in it; of the judge alone
            where that was trained.
        steps: steps that the schedule has.
        training: slides trained on.
        held_out: slides kept out.
    """

    stage: str
    run: str
    pipeline: str
    steps: int
    training: list[str]
    held_out: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def train_stage(
    stage: str,
    preset: str,
    data: Path | str,
    out: Path | str,
    *,
    holdout: Sequence[str] = (),
    cases: Path | str | None = None,
    changes: Mapping[str, Any] | None = None,
    pipeline: str | None = None,
    finetune: bool = False,
    labels: Path | str | None = None,
    label_column: str = "label",
    minutes: float | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> TrainReport:
    """Train one stage, or go on with it if `out` holds its checkpoints.

    Args:
        stage: `diffusion` (summarizer and denoiser) or `embedding-diffusion`, from archives;
            `autoencoder`, `patch-encoder` or `judge`, from slides.
        preset: sizes of the networks and settings.
        data: folder of archives (for `diffusion` made with --for-training), or of slides.
        out: folder of the run; made if its parent exists.
        holdout: cases to keep out.
        cases: CSV with the columns `file` and `case`.
        changes: settings other than the preset's, by name.
        pipeline: id or directory of the frozen networks; None takes the preset's own, for the
            first two stages an untrained one. Its other networks go into the run's pipeline.
        finetune: begin with the weights that `pipeline` has in place of untrained ones.
        labels: CSV with the column `file` and `label_column`; the embedding diffusion then learns
            to draw tissue of a label.
        label_column: of `labels`.
        minutes: stop after so long, checkpointed.
        device: see `pick_device`; of several processes each takes its own GPU, or all the CPU.
        quiet: no progress display.

    Raises:
        ConfigError: settings, cases or data that don't fit.
        ArchiveError: an archive without latents, or made by other networks.
        PipelineError: a pipeline that the stage can't take.
        TargetError: `out` can't be written, or another process trains there.
    """
    config = make_config(preset, stage, changes)
    place = pick_device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)  # which accelerate then takes
    data, out = Path(data), Path(out)
    sources = _sources(stage, data)
    split = split_cases(sources, holdout, Path(cases) if cases else None)
    if labels and stage != "embedding-diffusion":
        raise ConfigError(f"--labels is for the stage embedding-diffusion, not for {stage}")
    if stage == "judge":
        if pipeline or finetune:
            raise ConfigError("--stage judge takes no pipeline: a judge has no part in any")
        _make_folder(out)
        folder, steps, training, kept = train_judge(
            preset,
            sources,
            out,
            holdout=holdout,
            cases=Path(cases) if cases else None,
            changes=changes,
            extra={"data": _identity(sources)},
            minutes=minutes,
            quiet=quiet,
        )
        return TrainReport(stage, str(out), str(folder), steps, training, kept)
    named = read_labels(Path(labels), label_column, split.training) if labels else []
    if config.threads:
        torch.set_num_threads(config.threads)
    base = _base(stage, preset, pipeline, config, finetune, sorted(set(named)))
    start = {"start": base.digest()} if finetune else {}
    processes = PartialState(cpu=place.type == "cpu")
    _make_folder(out)
    files = {name: sources[name] for name in [*split.training, *split.held_out]}
    if stage in _FROZEN:
        latents = stage == "diffusion" and not isinstance(base.unet, OctaveDenoiser)
        opened = _opened(base, files, latents)
        training, kept = ([opened[n] for n in names] for names in (split.training, split.held_out))
        if stage == "diffusion" and isinstance(base.unet, OctaveDenoiser):
            with processes.main_process_first():
                built = _octave_stage(base, out / "rasters", training, kept)
        elif stage == "diffusion":
            built = _diffusion_stage(base, config, training, kept)
        else:
            built = _embedding_stage(base, config, training, kept, named, finetune)
    else:
        with processes.main_process_first():
            cache_tiles(list(files.values()), out / "tiles", quiet=quiet)
        built = _tile_stage(stage, base, out / "tiles", split, config.seed)
    extra = {
        "stage": stage,
        "preset": preset,
        "training": split.training,
        "held_out": split.held_out,
        "frozen": _frozen_digest(base, stage),
        "data": _identity(files),
        **start,
        **({"labels": named} if named else {}),
    }
    networks = train(built, config, out, extra=extra, minutes=minutes, device=device, quiet=quiet)
    if processes.is_main_process:
        assemble(base, networks, out / "pipeline")
    return TrainReport(
        stage, str(out), str(out / "pipeline"), config.steps, split.training, split.held_out
    )


def assemble(
    base: ZoomLDMPipeline, networks: Path, out: Path, *, half: bool = False
) -> ZoomLDMPipeline:
    """Write a pipeline directory: `base` with the networks that a run wrote in place of its own.

    Args:
        base: gives every network that `networks` does not hold, and the scheduler.
        networks: a run's `networks/`: folders `unet`, `summarizer`, `autoencoder`,
            `patch_encoder` or `embedding_diffusion`.
        out: the directory; replaced if it exists.
        half: store weights as float16. Networks that made archives must have been stored so
            before, for their digest changes with their weights.
    """
    names = ("unet", "vae", "summarizer", "patch_encoder", "embedding_diffusion")
    parts = {name: getattr(base, name) for name in names}
    for name, part in parts.items():
        folder = networks / ("autoencoder" if name == "vae" else name)
        if part is not None and folder.is_dir():
            parts[name] = type(part).from_pretrained(str(folder))
    if half:
        parts = {name: part and copy.deepcopy(part).half() for name, part in parts.items()}
    made = ZoomLDMPipeline(**parts, scheduler=base.scheduler)
    fresh = out.with_name(f".{out.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    made.save_pretrained(str(fresh))
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    return made


def _sources(stage: str, data: Path) -> dict[str, Path]:
    """Files to train on by the name of their slide."""
    if not data.is_dir():
        what = "is not a folder" if data.exists() else "no such folder"
        raise ConfigError(f"{data}: {what}; --data takes a folder of archives or slides")
    visible = sorted(p for p in data.iterdir() if p.is_file() and not p.name.startswith("."))
    archives = [p for p in visible if p.suffix.lower() == ".zldm"]
    slides = [p for p in visible if p.suffix.lower() in ENDINGS]
    found, other = (archives, slides) if stage in _FROZEN else (slides, archives)
    wanted, others = ("archives", "slides") if stage in _FROZEN else ("slides", "archives")
    if not found:
        hint = f"; it holds {len(other)} {others}" if other else ""
        todo = (
            "make them with `zoomldm compress --for-training`"
            if stage in _FROZEN
            else f"the stage {stage} takes slides"
        )
        raise ConfigError(f"{data}: holds no {wanted}{hint}; {todo}")
    if stage not in _FROZEN:
        return {p.name: p for p in found}
    named: dict[str, Path] = {}
    for path in found:
        with open_archive(path) as archive:
            name, turn = archive.manifest.slide.name, archive.turn
        if turn:
            name = f"{Path(name).stem}.turn{turn}{Path(name).suffix}"
        if name in named:
            raise ConfigError(f"{named[name]} and {path} are of one slide, {name}; remove one")
        named[name] = path
    return named


def _frozen_digest(base: ZoomLDMPipeline, stage: str) -> str:
    names = [name for name in _FROZEN.get(stage, ()) if getattr(base, name) is not None]
    return base.digest(*names) if names else ""


def _base(
    stage: str,
    preset: str,
    pipeline: str | None,
    config: TrainConfig,
    finetune: bool,
    labels: list[str],
) -> ZoomLDMPipeline:
    """The frozen networks, and those that this stage trains: untrained, or given ones."""
    fresh = build_pipeline(preset, config.seed)
    if pipeline is None and stage in _PARTS and not finetune:
        return fresh
    given = load_pipeline(pipeline or (preset if preset.startswith("tiny") else SHIPPED))
    table = preset_table(preset)
    if stage in _PARTS:
        own = getattr(given, _PARTS[stage])
        if finetune and not isinstance(own, FoldedAutoencoder | LowPassAutoencoder | TileCNN):
            found = "none" if own is None else f"a {type(own).__name__}"
            raise PipelineError(f"--finetune: the stage {stage} can't train {found}")
        parts = {
            name: getattr(fresh if name == _PARTS[stage] and not finetune else given, name)
            for name in ("unet", "vae", "summarizer", "patch_encoder")
        }
        if stage == "autoencoder":  # contexts stay as they are, and so does what draws them
            parts["embedding_diffusion"] = given.embedding_diffusion
        return ZoomLDMPipeline(**parts, scheduler=given.scheduler)
    if stage == "embedding-diffusion":
        if not finetune:
            settings = table["embedding_diffusion"] | {"labels": labels}
            return _with_embedding_diffusion(given, settings, config.seed)
        before = given.embedding_diffusion
        if not isinstance(before, ContextDiT):
            raise PipelineError("pipeline has no embedding diffusion of ours to go on with")
        if before.labels != labels:
            raise ConfigError(
                f"--finetune: the pipeline's embedding diffusion knows the labels {before.labels}, "
                f"now they are {labels}; give the same, or leave --finetune out"
            )
        return given
    parts = {"vae": given.vae, "patch_encoder": given.patch_encoder}
    if config.freeze_summarizer:  # contexts stay as they are, and so does what draws them
        parts["embedding_diffusion"] = given.embedding_diffusion
    if finetune:
        return ZoomLDMPipeline(
            **parts, unet=given.unet, summarizer=given.summarizer, scheduler=given.scheduler
        )
    channels, side, _ = given.latent_shape
    settings = {**table["unet"], "latent_channels": channels, "sample_size": side}
    kind = KINDS[settings.pop("kind", "unet")]
    if (kind is OctaveDenoiser) != isinstance(given.vae, LowPassAutoencoder):
        raise PipelineError(
            f"preset {preset} has a {kind.__name__}, the pipeline's latents are those of a "
            f"{type(given.vae).__name__}; give a pipeline of the same kind, or another preset"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        summarizer = CNNSummarizer(**{**table["summarizer"], "dim": given.embedding_dim})
        if config.freeze_summarizer:
            summarizer = _eight_by_eight(given)
            settings["context_dim"] = summarizer.context_shape[1]
        unet = kind(**settings)
    return ZoomLDMPipeline(**parts, unet=unet, summarizer=summarizer, scheduler=fresh.scheduler)


def _with_embedding_diffusion(
    given: ZoomLDMPipeline, settings: dict[str, Any], seed: int
) -> ZoomLDMPipeline:
    """The pipeline with an untrained embedding diffusion that fits its summarizer."""
    summarizer = _eight_by_eight(given)
    settings = {k: v for k, v in settings.items() if k != "kind"} | {
        "context_dim": summarizer.context_shape[1],
        "reference_dim": given.embedding_dim,
    }
    names = ("unet", "vae", "summarizer", "patch_encoder", "scheduler")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ZoomLDMPipeline(
            **{name: getattr(given, name) for name in names},
            embedding_diffusion=ContextDiT(**settings),
        )


def _eight_by_eight(given: ZoomLDMPipeline) -> CNNSummarizer:
    if isinstance(given.summarizer, CNNSummarizer):
        return given.summarizer
    raise PipelineError(
        f"pipeline has a {type(given.summarizer).__name__} for a summarizer; networks are trained "
        "on contexts of 8 x 8 tokens: give a pipeline of `zoomldm train`"
    )


def _make_folder(out: Path) -> None:
    if out.is_dir():
        return
    if out.exists():
        raise TargetError(f"{out}: is a file; expected a folder for the run")
    if not out.parent.is_dir():
        raise TargetError(f"{out}: folder {out.parent} does not exist; create it first")
    try:
        out.mkdir(exist_ok=True)  # several processes may start at once
    except OSError as error:
        raise TargetError(f"{out}: can't be made ({error.strerror})") from error


def _identity(files: dict[str, Path]) -> str:
    """Digest of what is trained on: archives by their content, slides by name and size."""
    sha = hashlib.sha256()
    for name, path in files.items():
        if path.suffix.lower() == ".zldm":
            with open_archive(path) as archive:
                mark = archive.digest
        else:
            mark = str(path.stat().st_size)
        sha.update(f"{name}\0{mark}\0".encode())
    return sha.hexdigest()


def _opened(base: ZoomLDMPipeline, files: dict[str, Path], latents: bool) -> dict[str, Archive]:
    """Archives that the pipeline's frozen networks made, by slide."""
    opened: dict[str, Archive] = {}
    for name, path in files.items():
        archive = opened[name] = open_archive(path)
        check_encoder(archive, base)
        if latents:
            check_latents(archive, base)
    return opened


def _diffusion_stage(
    base: ZoomLDMPipeline, config: TrainConfig, training: list[Archive], held_out: list[Archive]
) -> Stage:
    kept = ArchivePatches(held_out, share=0) if held_out else None
    return DiffusionStage(
        base,
        ArchivePatches(training),
        kept,
        level_power=config.level_power,
        freeze_summarizer=config.freeze_summarizer,
    )


def _octave_stage(
    base: ZoomLDMPipeline, folder: Path, training: list[Archive], held_out: list[Archive]
) -> Stage:
    folder.mkdir(exist_ok=True)
    patches = RasterPatches([load_raster(a, folder) for a in training])
    kept = RasterPatches([load_raster(a, folder, share=0) for a in held_out]) if held_out else None
    return OctaveStage(base.vae, base.summarizer, base.unet, patches, kept)


def _embedding_stage(
    base: ZoomLDMPipeline,
    config: TrainConfig,
    training: list[Archive],
    held_out: list[Archive],
    named: list[str],
    finetune: bool,
) -> Stage:
    kept = ContextStore(base, held_out, share=0, most=FIXED) if held_out else None
    withheld = ContextStore(base, training, withheld=True, most=FIXED)
    contexts = ContextStore(base, training)
    places = [base.embedding_diffusion.labels.index(name) for name in named] or None
    stage = EmbeddingDiffusionStage(base, contexts, withheld, kept, config.level_power, places)
    if not finetune:
        stage.standardise()
    return stage


def _tile_stage(stage: str, base: ZoomLDMPipeline, cache: Path, split: Split, seed: int) -> Stage:
    tiles = SlidePatches(cache, split.training)
    kept = SlidePatches(cache, split.held_out) if split.held_out else None
    torch.manual_seed(seed)  # the heads that a stage adds
    if stage == "autoencoder" and isinstance(base.vae, LowPassAutoencoder):
        source, other = PatchCrops(tiles), PatchCrops(kept) if kept else None
        fit_bands(base.vae, source, seed)
        return LowPassDecoderStage(base.vae, source, other, perceptual_features())
    if stage == "autoencoder":
        autoencoder: FoldedAutoencoder = base.vae.requires_grad_(True)
        return AutoencoderStage(autoencoder, tiles, kept)
    encoder: TileCNN = base.patch_encoder.requires_grad_(True)
    return PatchEncoderStage(encoder, tiles, kept)


__all__ = ["STAGES", "TrainReport", "assemble", "train_stage"]
