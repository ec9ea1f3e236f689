"""The result of a cohort run in two files: summary.json for programs, summary.md for people."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoomldm.cohort.runner import Result
from zoomldm.cohort.state import now, versions
from zoomldm.files import atomic_path
from zoomldm.tables import as_markdown

_SHOWN = 200  # failures listed on the page


def summarize(verb: str, result: Result, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The result of a run, as plain values.

    Args:
        verb: the verb that ran.
        result: its result.
        settings: the settings it ran with.
        where: where it ran, in a few words.
    """
    done, failed = result.done, result.failed
    fresh = [record for item, record in done if item.key not in result.earlier]
    seconds = sorted(record.seconds for record in fresh)
    return {
        "verb": verb,
        "slides": len(result.items),
        "done": len(done),
        "done_earlier": sum(item.key in result.earlier for item, _ in done),
        "failed": len(failed),
        "attempts": result.attempts,
        "seconds": round(result.seconds, 3),
        "seconds_a_slide": {
            "median": seconds[len(seconds) // 2] if seconds else None,
            "longest": seconds[-1] if seconds else None,
        },
        "slides_a_second": len(fresh) / result.seconds if fresh and result.seconds else None,
        "hosts": dict(Counter(record.host for record in fresh)),
        "where": where,
        "finished": now(),
        "versions": versions(),
        "settings": dict(settings),
        "failures": [{"slide": item.source, "error": error} for item, error in failed],
    }


def write_summary(folder: Path, summary: Mapping[str, Any]) -> list[Path]:
    """Write `summary.json` and `summary.md` into a folder.

    Raises:
        TargetError: they can't be written.
    """
    files = [folder / "summary.json", folder / "summary.md"]
    for path, text in zip(files, (json.dumps(summary, indent=1, default=str), _page(summary)),
                          strict=True):  # fmt: skip
        with atomic_path(path) as part:
            part.write_text(text + "\n", encoding="utf-8")
    return files


def _page(summary: Mapping[str, Any]) -> str:
    a_slide = summary["seconds_a_slide"]
    rows = [
        ("slides", f"{summary['slides']:,}"),
        ("done", f"{summary['done']:,} ({summary['done_earlier']:,} by earlier runs)"),
        ("failed", f"{summary['failed']:,}"),
        ("attempts in this run", f"{summary['attempts']:,}"),
        ("this run took", f"{summary['seconds']:,.1f} s, {summary['where']}"),
    ]
    if a_slide["median"] is not None:
        rows.append(
            ("a slide", f"{a_slide['median']:.2f} s (median), {a_slide['longest']:.2f} s (longest)")
        )
    rows += [(f"on {name}", f"{count:,} slides") for name, count in summary["hosts"].items()]
    page = [f"# {summary['verb']}: {summary['finished']}", "", as_markdown(("", ""), rows)]
    failures = summary["failures"]
    if failures:
        page += ["", "## Failed", ""]
        page += [f"- `{f['slide']}`: {f['error']}" for f in failures[:_SHOWN]]
        if len(failures) > _SHOWN:
            page.append(f"- and {len(failures) - _SHOWN:,} more, in summary.json")
    page += ["", "## Settings", ""]
    page.append(as_markdown(("", ""), [(k, f"{v}") for k, v in summary["settings"].items()]))
    return "\n".join(page).rstrip()
