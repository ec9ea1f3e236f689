"""Whether an archive was made with a pipeline's patch encoder and autoencoder."""

import torch

from zoomldm.archive import Archive
from zoomldm.errors import ArchiveError
from zoomldm.networks.precision import dtype_of
from zoomldm.pipeline.pipeline import ZoomLDMPipeline


def check_encoder(archive: Archive, pipeline: ZoomLDMPipeline) -> None:
    """Refuse an archive made by a patch encoder other than the pipeline's.

    A pipeline trained on a third party's embeddings has no patch encoder of its own but records
    which one it was. Converted ones come without their encoder and accept every archive of their
    embedding dimension, since the encoder they were trained with is unknown.

    Raises:
        ArchiveError: names both encoders, or both dimensions.
    """
    encoder = archive.manifest.encoder
    if pipeline.patch_encoder is None:
        if archive.dim != pipeline.embedding_dim:
            raise ArchiveError(
                f"{archive.path}: embeddings of {archive.dim} dimensions (encoder {encoder.id!r}), "
                f"the pipeline takes {pipeline.embedding_dim}; compress with the patch encoder "
                "that it was trained with"
            )
        known = (pipeline.config["source"] or {}).get("encoder")
        if known and known["digest"] != encoder.digest:
            raise ArchiveError(
                f"{archive.path}: was made by patch encoder {encoder.id!r} "
                f"({encoder.digest[:12]}), the pipeline was trained with {known['id']!r} "
                f"({known['digest'][:12]}); compress with that one"
            )
        return
    own = pipeline.digest("patch_encoder")
    if encoder.digest not in (own, pipeline.digest_before_rounding("patch_encoder")):
        raise ArchiveError(
            f"{archive.path}: was made by patch encoder {encoder.id!r} "
            f"({encoder.digest[:12]}), but the pipeline's is {own[:12]}; give the pipeline that it "
            f"was compressed with{_rounded(pipeline.patch_encoder)}"
        )


def check_generated(archive: Archive, pipeline: ZoomLDMPipeline) -> None:
    """Refuse an imaginary slide whose contexts come from other networks than the pipeline's.

    Raises:
        ArchiveError: names the network.
        PipelineError: the pipeline has no embedding diffusion.
    """
    spec = archive.manifest.generated
    for name in ("summarizer", "embedding_diffusion") if spec else ():
        stored, own = getattr(spec, name), pipeline.digest(name)
        if stored != own:
            raise ArchiveError(
                f"{archive.path}: is drawn by {name.replace('_', ' ')} {stored[:12]}, the "
                f"pipeline's is {own[:12]}; give the pipeline that it was sampled with"
                f"{_rounded(getattr(pipeline, name))}"
            )


def check_latents(archive: Archive, pipeline: ZoomLDMPipeline) -> None:
    """Refuse an archive without latents, or with those of another autoencoder.

    Raises:
        ArchiveError: says which of the two.
    """
    autoencoder, own = archive.manifest.autoencoder, pipeline.digest("vae")
    if not archive.manifest.latents or autoencoder is None:
        raise ArchiveError(
            f"{archive.path}: holds no latents; compress its slide again with --for-training"
        )
    if autoencoder.digest not in (own, pipeline.digest_before_rounding("vae")):
        raise ArchiveError(
            f"{archive.path}: its autoencoder is {autoencoder.id} ({autoencoder.digest[:12]}), "
            f"the pipeline's is {own[:12]}; give the pipeline that made it, or compress "
            f"again with this one{_rounded(pipeline.vae)}"
        )


def _rounded(network: object) -> str:
    """Advice if the cause may be that a network was loaded in half precision."""
    kind = dtype_of(network)
    if kind == torch.float32:
        return ""
    return f" (it is in {kind}: load it in float32, then .to({kind}) keeps whose archives it reads)"
