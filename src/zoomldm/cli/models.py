"""`zoomldm models`: pipelines and patch encoders."""

from zoomldm.cli.options import Json


def models(
    json: Json = False,
) -> None:
    """List shipped pipelines and known patch encoders."""
    from zoomldm.cli.output import print_json, print_table
    from zoomldm.encoders import ENCODERS
    from zoomldm.pipeline import SHIPPED, load_pipeline

    pipelines = []
    for name in (SHIPPED,):
        pipeline = load_pipeline(name)
        pipelines.append(
            {
                "id": name,
                "digest": pipeline.digest(),
                "encoder_digest": pipeline.digest("patch_encoder"),
                "dim": pipeline.embedding_dim,
                "licence": "MIT",
            }
        )
    encoders = [spec.as_dict() for spec in ENCODERS.values()]
    if json:
        print_json({"pipelines": pipelines, "encoders": encoders})
        return
    print_table(
        "pipelines (--pipeline, or a directory)",
        ["id", "digest", "dimension", "licence"],
        [[p["id"], p["digest"][:12], p["dim"], p["licence"]] for p in pipelines],
    )
    print_table(
        "patch encoders (--encoder ID, or ID=PATH for local weights)",
        ["id", "dimension", "network", "input", "licence", "gated", "source", "library"],
        [
            [
                e["id"],
                e["dim"],
                e["architecture"],
                f"{e['preprocessing']['size']} px",
                e["licence"],
                "yes" if e["gated"] else "no",
                e["source"].rsplit("/", 1)[-1] if "://" in e["source"] else e["source"],
                e["library"] + ("" if e["installed"] else " (not installed)"),
            ]
            for e in encoders
        ],
    )
