"""`zoomldm verify`: check that archives are undamaged."""

import typer

from zoomldm.cli.cohort import Cpus, DryRun, Gpus, Ray, Retries, Split, State, Workers
from zoomldm.cli.options import Archives, Json


def verify(
    archives: Archives,
    workers: Workers = 1,
    ray: Ray = None,
    cpus: Cpus = 1.0,
    gpus: Gpus = 0.0,
    retries: Retries = 2,
    split: Split = None,
    state: State = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Check every byte of archives against their digests.

    The exit code is 3 if some archives fail, 2 if all do.
    """
    from zoomldm.cli.cohort import Running, run_slides
    from zoomldm.cli.jobs import VerifyJob
    from zoomldm.cli.output import print_json
    from zoomldm.cohort.items import ARCHIVES, find_items

    # Nothing is written under the names, so two archives may share one.
    cohort = find_items(archives, ARCHIVES, "archives", key=str, split=split)
    running = Running(workers, ray, cpus, gpus, retries, state, dry_run)
    result = run_slides(
        VerifyJob(), cohort, running, out=None, what="archives", json=json, raising=False
    )
    found = {item.source: [] for item, _ in result.done}
    for item, error in result.failed:
        record = result.records.get(item.key)
        found[item.source] = (record.report.get("problems") if record else None) or [error]
    if json:
        print_json({"archives": found, "sound": not any(found.values())})
    else:
        for path, problems in found.items():
            typer.echo(f"{path}: {'sound' if not problems else 'DAMAGED'}")
            for problem in problems[1:]:  # the first was printed when found
                typer.echo(f"  {problem}", err=True)
    if result.failed:
        raise typer.Exit(3 if result.done else 2)
