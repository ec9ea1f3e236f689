"""A training run: find and split the data by case, train one stage, and store its networks."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState

from zoomldm.archive import Archive, Encoder
from zoomldm.cohort.cases import Split, labels_of_files
from zoomldm.data.folder import (
    Source,
    check_archives,
    common_encoder,
    find_split,
    identity,
)
from zoomldm.data.slide_patches import SlidePatches, cache_tiles
from zoomldm.errors import ConfigError, TargetError
from zoomldm.pipeline import SHIPPED, ZoomLDMPipeline, load_pipeline, pick_device, preset_kinds
from zoomldm.training.assembly import assemble
from zoomldm.training.loop import train as run_stage
from zoomldm.training.registry import STAGES, StageName, make_config, pick_stage
from zoomldm.training.stage import Data, Kinds, Stage, Start
from zoomldm.verbs import Progress, Report, silent


@dataclass(frozen=True)
class TrainOptions:
    """What to train, and how.

    Attributes:
        stage: `diffusion` (summarizer and denoiser), `embedding-diffusion` or
            `context-network`, from archives; `autoencoder`, `patch-encoder` or `judge`, from
            slides.
        preset: sizes of the networks and settings.
        settings: settings that replace the preset's, by name.
        finetune: start from the pipeline's weights instead of untrained ones.
        encoder: id of the patch encoder that made the archives, if it is not the pipeline's:
            the summarizer is built for its embeddings; with `finetune` only the layers that read
            them are new.
        holdout: cases to hold out.
        cases: CSV with the columns `file` and `case`.
        labels: CSV with the column `file` and `label_column`; the embedding diffusion then learns
            to sample tissue of a label.
        label_column: column of `labels`.
        minutes: stop with a checkpoint after this time; the same call resumes.
        device: see `pick_device`; of several processes each takes its own GPU, or all the CPU.

    Raises:
        ConfigError: no such stage, or labels or an encoder for a stage that takes none.
    """

    stage: StageName = "diffusion"
    preset: str = "demo"
    settings: Mapping[str, object] = field(default_factory=dict)
    finetune: bool = False
    encoder: str | None = None
    holdout: Sequence[str] = ()
    cases: Path | str | None = None
    labels: Path | str | None = None
    label_column: str = "label"
    minutes: float | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ConfigError(
                f"stage {self.stage!r} does not exist; stages are {', '.join(STAGES)}"
            )
        if self.labels and self.stage != "embedding-diffusion":
            raise ConfigError(
                f"--labels is for the stage embedding-diffusion, not for {self.stage}"
            )
        if self.encoder and self.stage != "diffusion":
            raise ConfigError(f"--encoder is for the stage diffusion, not for {self.stage}")


@dataclass(frozen=True)
class TrainReport(Report):
    """Result of a run.

    Attributes:
        stage: see TrainOptions.
        run: folder of the run.
        pipeline: folder of the pipeline with the averaged networks; for the judge, the folder of
            the judge alone.
        steps: steps of the schedule.
        training: slides trained on.
        held_out: slides held out.
    """

    stage: str
    run: str
    pipeline: str
    steps: int
    training: list[str]
    held_out: list[str]


def train(
    data: Path | str,
    out: Path | str,
    options: TrainOptions | None = None,
    *,
    pipeline: str | None = None,
    progress: Progress | None = None,
) -> TrainReport:
    """Train one stage, or resume it if `out` holds its checkpoints.

    Args:
        data: folder of archives (for `diffusion` made with --for-training), or its URL, which
            ends in `/`; or of slides; or a table (`slide,case,label,split`) of either, see
            `find_split`.
        out: folder of the run; created if its parent exists.
        options: see TrainOptions.
        pipeline: id or directory of the frozen networks; None takes the preset's own, or for
            stages on slides an untrained one. Its other networks go into the run's pipeline.
        progress: called as slides are read and steps are done.

    Raises:
        ConfigError: settings, cases or data that don't fit.
        ArchiveError: an archive without latents, or made by other networks.
        PipelineError: a pipeline that the stage can't take.
        TargetError: `out` can't be written, or another process trains there.
    """
    options, progress = options or TrainOptions(), progress or silent
    place = pick_device(options.device)
    if place.type == "cuda":
        torch.cuda.set_device(place)  # accelerate then uses it
    out, source = Path(out), STAGES[options.stage][0].source
    make_config(options.preset, options.stage, STAGES[options.stage][0])  # checks the preset
    cases = Path(options.cases) if options.cases else None
    archives = source == "archives"
    found, split = find_split(data, archives, options.stage, options.holdout, cases)
    files = {name: found[name] for name in [*split.training, *split.held_out]}
    labels: list[str] = []
    if options.labels:
        labels = labels_of_files(Path(options.labels), options.label_column, split.training)
    encoder = None
    if options.encoder:
        opened = [archive for archive in files.values() if isinstance(archive, Archive)]
        encoder = common_encoder(opened, options.encoder)
    stage, start = begin(options, pipeline, source, tuple(sorted(set(labels))), encoder)
    if start.config.threads:
        torch.set_num_threads(start.config.threads)
    base = stage.start(start)
    processes = PartialState(cpu=place.type == "cpu")
    _make_folder(out)
    with processes.main_process_first():
        given = _data(stage, base, out, files, split, progress)
        torch.manual_seed(start.config.seed)  # for the heads that a stage adds
        built = stage.from_data(base, start, dataclasses.replace(given, labels=tuple(labels)))
    networks = run_stage(
        built,
        start.config,
        out,
        extra={
            "stage": options.stage,
            "preset": options.preset,
            "training": split.training,
            "held_out": split.held_out,
            "data": identity(files),
            **_origin(stage, base, options.finetune),
            **({"labels": labels} if labels else {}),
            **({"encoder": encoder.digest} if encoder else {}),
        },
        minutes=options.minutes,
        device=options.device,
        progress=progress,
    )
    target = out / ("pipeline" if base is not None else options.stage)
    if processes.is_main_process:
        if base is None:
            stage.finish(networks, out)
        else:
            assemble(base, networks, target)
            if (out / "best").is_dir():
                assemble(base, out / "best", out / "best-pipeline")
    return TrainReport(
        options.stage, str(out), str(target), start.config.steps, split.training, split.held_out
    )


def begin(
    options: TrainOptions,
    pipeline: str | None,
    source: str,
    labels: tuple[str, ...] = (),
    encoder: Encoder | None = None,
    own: bool = True,
) -> tuple[type[Stage], Start]:
    """Return the stage that fits, and what it starts with.

    Args:
        options: see TrainOptions.
        pipeline: as in `train`.
        source: what the stage reads, `archives` or `slides`.
        labels: labels that it is to know.
        encoder: the archives' encoder, if it is not the pipeline's.
        own: whether to use the preset's own pipeline if none is named.
    """
    name = pipeline
    usual = options.preset if options.preset.startswith("tiny") else SHIPPED
    wanted = (source == "archives" or options.finetune) and options.stage != "judge"
    if name is None and own and wanted:
        name = usual
    given = load_pipeline(name) if name is not None else None
    kinds = preset_kinds(options.preset)
    if options.finetune and given is not None:
        kinds |= {part: type(getattr(given, part)) for part in kinds}
    stage = pick_stage(options.stage, kinds)
    config = make_config(options.preset, options.stage, stage, options.settings)
    return stage, Start(options.preset, given, options.finetune, config, labels, encoder)


def _data(
    stage: type[Stage],
    base: ZoomLDMPipeline | None,
    out: Path,
    files: Mapping[str, Source],
    split: Split,
    progress: Progress,
) -> Data:
    names = tuple(split.training)
    if stage.source == "archives":
        assert base is not None
        opened = {name: a for name, a in files.items() if isinstance(a, Archive)}
        check_archives(base, opened.values(), stage.latents)
        training, held_out = (tuple(opened[n] for n in s) for s in (split.training, split.held_out))
        return Data(out, names, archives=training, held_out_archives=held_out)
    slides = [path for path in files.values() if isinstance(path, Path)]
    cache_tiles(slides, out / "tiles", progress=progress)
    held_out = SlidePatches(out / "tiles", split.held_out) if split.held_out else None
    patches = SlidePatches(out / "tiles", split.training)
    return Data(out, names, patches=patches, held_out_patches=held_out)


def _origin(stage: type[Stage], base: ZoomLDMPipeline | None, finetune: bool) -> dict[str, str]:
    """What must stay the same for a run to resume: digests of the networks that it builds on."""
    if base is None:
        return {}
    names = [name for name in stage.needs if getattr(base, name) is not None]
    start = {"start": base.digest()} if finetune else {}
    return {"frozen": base.digest(*names) if names else "", **start}


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


__all__ = ["STAGES", "Kinds", "TrainOptions", "TrainReport", "assemble", "train"]
