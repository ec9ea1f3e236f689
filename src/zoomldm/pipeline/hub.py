"""Pipelines on the Hugging Face hub: `hf:OWNER/NAME@REVISION`, cached and pinned; pushing."""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoomldm.errors import PipelineError

if TYPE_CHECKING:
    from zoomldm.pipeline.pipeline import ZoomLDMPipeline

_log = logging.getLogger(__name__)

PREFIX = "hf:"
# Nothing else is downloaded: no pickles, no code.
FILES = ["model_index.json", "*/*.json", "*/*.safetensors", "README.md"]
_NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch_pipeline(name: str) -> Path:
    """Folder of a pipeline on the hub: from the cache, else downloaded into it.

    A revision that is a commit never changes and is looked up in the cache first; for a branch or
    tag the hub is queried if it can be reached.

    Args:
        name: `hf:OWNER/NAME@REVISION`; without a revision the branch `main`, which may change.

    Raises:
        PipelineError: not such a name, no such repository or revision, no access to it, or neither
            in the cache nor reachable.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise PipelineError(f"pipeline {name!r}: expected hf:OWNER/NAME@REVISION")
    repo, revision = match["repo"], match["revision"] or "main"
    from huggingface_hub import errors, snapshot_download

    options: dict[str, Any] = {"revision": revision, "allow_patterns": FILES}
    try:
        if _COMMIT.fullmatch(revision):
            try:
                return Path(snapshot_download(repo, local_files_only=True, **options))
            except (errors.LocalEntryNotFoundError, FileNotFoundError):
                pass
        folder = Path(snapshot_download(repo, **options))
    except errors.RevisionNotFoundError as error:
        raise PipelineError(f"pipeline {name}: {repo} has no revision {revision}") from error
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise PipelineError(
            f"pipeline {name}: the hub has no {repo}, or it is gated; check the "
            "name, accept its terms on its page and log in with `hf auth login`"
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise PipelineError(
            f"pipeline {name}: is not in the cache and the hub can't be reached; fetch it where it "
            "can, or copy its folder here and give that as --pipeline"
        ) from error
    if match["revision"] is None and _COMMIT.fullmatch(folder.name):
        _log.warning(
            "pipeline %s: is commit %s now and may change; %s@%s always is this one",
            *(name, folder.name[:12], name, folder.name),
        )
    return folder


def push_pipeline(
    pipeline: "ZoomLDMPipeline",
    repo: str,
    *,
    licence: str,
    private: bool = True,
    data: str = "",
    message: str | None = None,
) -> dict[str, Any]:
    """Upload a pipeline to the hub, with a model card.

    Args:
        pipeline: the pipeline.
        repo: `OWNER/NAME`, created if it doesn't exist.
        licence: licence of the weights, by the hub's identifier (`mit`, `cc-by-nc-4.0`).
        private: whether a newly created repository is private.
        data: what it was trained on, in a sentence or two, for the card.
        message: commit message.

    Returns:
        `repo`, `commit`, `url`, `digest` of the pipeline, and `pipeline`, the name that always
        loads this version.

    Raises:
        PipelineError: not such a name, no write access to it, or the hub can't be reached.
    """
    from tempfile import TemporaryDirectory

    from huggingface_hub import HfApi, errors

    if not _NAME.fullmatch(f"hf:{repo}") or "@" in repo:
        raise PipelineError(f"{repo!r}: expected OWNER/NAME of a repository on the hub")
    api = HfApi(library_name="zoomldm")
    with TemporaryDirectory(prefix="zoomldm-") as folder:
        pipeline.save_pretrained(folder, safe_serialization=True)
        (Path(folder) / "README.md").write_text(
            model_card(pipeline, repo, licence, data), encoding="utf-8"
        )
        try:
            api.create_repo(repo, repo_type="model", private=private, exist_ok=True)
            info = api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                allow_patterns=FILES,
                commit_message=message or f"ZoomLDM pipeline {pipeline.digest()[:12]}",
            )
        except errors.HfHubHTTPError as error:
            status = getattr(error.response, "status_code", None)
            todo = (
                "log in with `hf auth login`, with a token that may write there"
                if status in (401, 403)
                else "try again later"
            )
            raise PipelineError(f"{repo}: the hub refused it (status {status}); {todo}") from error
        except OSError as error:
            raise PipelineError(f"{repo}: the hub can't be reached ({error})") from error
    commit = str(info.oid)
    return {
        "repo": repo,
        "commit": commit,
        "url": str(info.commit_url),
        "pipeline": f"hf:{repo}@{commit}",
        "digest": pipeline.digest(),
    }


def model_card(pipeline: "ZoomLDMPipeline", repo: str, licence: str, data: str = "") -> str:
    """The model card of a pipeline, with the metadata that the hub reads."""
    from huggingface_hub import ModelCardData
    from torch import nn

    from zoomldm.tables import as_markdown

    metadata = ModelCardData(
        license=licence.lower(),
        library_name="zoomldm",
        pipeline_tag="image-to-image",
        tags=["histopathology", "whole-slide-images", "diffusion", "zoomldm"],
    )
    rows = [
        (name, type(part).__name__, f"{sum(p.numel() for p in part.parameters()) / 1e6:,.1f} M")
        for name, part in pipeline.components.items()
        if isinstance(part, nn.Module)
    ]
    return "\n".join(
        [
            "---",
            metadata.to_yaml(),
            "---",
            "",
            f"# {repo.split('/')[1]}",
            "",
            "A ZoomLDM pipeline: it turns archives of whole-slide images back into images at "
            "eight magnifications, and draws new tissue.",
            "",
            f"    zoomldm decompress slide.zldm -o slide.tif --pipeline hf:{repo}@COMMIT",
            "",
            as_markdown(("part", "network", "parameters"), rows),
            "",
            f"The embedding dimension is {pipeline.embedding_dim}. "
            f"Digest of the networks: `{pipeline.digest()}`.",
            "",
            "## Trained on",
            "",
            data.strip() or "Not stated by who pushed it.",
            "",
            "## Limits",
            "",
            "Not for diagnosis: generated pixels are plausible tissue under the stored embedding, "
            "and cells and their places may be invented. Networks may have learned images of "
            "their training data by heart: see `zoomldm evaluate copies`. H&E only.",
            "",
        ]
    )
