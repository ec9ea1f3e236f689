"""Thousands of tiny archives through what verbs do before their work begins: time and memory.

Usage: python benchmarks/many_archives.py [--counts 1000,2000,5000]

`train`: finds, identifies and opens its data; `features`: the whole verb, with `--source tiles`;
`mil`: reads bags and labels, packed; `evaluate`: opens archives and finds their patches as
`evaluate copies` does; `verify`: the whole verb. Each runs in a process of its own, whose peak of
memory is given over that of the same process without archives.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

PROBE = """
import json, resource, sys, time
from pathlib import Path
folder, count = Path(sys.argv[1]), int(sys.argv[2])
{imports}
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
wall, cpu = time.monotonic(), time.process_time()
if count:
{work}
print(json.dumps([
    time.monotonic() - wall, time.process_time() - cpu,
    (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024,
]))
"""

CLI = """
    sys.argv = ["zoomldm", {arguments}]
    sys.stdout = open("/dev/null", "w")
    try:
        main()
    except SystemExit as end:
        assert end.code in (0, None), end.code
    sys.stdout = sys.__stdout__
"""

VERBS = {
    "train": (
        "from zoomldm.data.folder import check_archives, find_sources, identity\n"
        "from zoomldm.pipeline import build_pipeline\ntiny = build_pipeline('tiny')",
        "    files = find_sources(folder, True, 'diffusion')\n    identity(files)\n"
        "    check_archives(tiny, files.values(), False)\n    assert len(files) == count",
    ),
    "features": (
        "from zoomldm.cli import main\nimport zoomldm.features.extract, zoomldm.cli.jobs, h5py",
        CLI.format(
            arguments="'features', str(folder), '-o', str(folder / 'features'), "
            "'--source', 'tiles', '--json'"
        ),
    ),
    "mil": (
        "from zoomldm.mil.bags import read_bags\nimport h5py",
        "    bags = read_bags(folder / 'features', folder / 'labels.csv', "
        "pack=folder / 'packed')\n    assert len(bags.slides) == count",
    ),
    "evaluate": (
        "from zoomldm.archive import open_archive\n"
        "from zoomldm.data.archive_patches import ArchivePatches",
        "    opened = [open_archive(p) for p in sorted(folder.glob('*.zldm'))]\n"
        "    ArchivePatches(opened, 0.1)",
    ),
    "verify": (
        "from zoomldm.cli import main\nimport zoomldm.archive, zoomldm.cli.jobs",
        CLI.format(arguments="'verify', str(folder), '--json'"),
    ),
}


def fill(folder: Path, count: int) -> None:
    """Write archives of 40 tiles of 32 numbers, as the pipeline `tiny` would have made them."""
    import numpy as np
    from archive.making import make_header

    from zoomldm.archive.manifest import Encoder
    from zoomldm.archive.writer import write_archive
    from zoomldm.pipeline import build_pipeline

    os.fsync = lambda _: None  # nothing here has to outlive a power cut
    tiny = build_pipeline("tiny")
    dim = tiny.embedding_dim
    encoder = Encoder(id="tiny", digest=tiny.digest("patch_encoder"), dim=dim)
    rng = np.random.default_rng(0)
    cells = np.arange(40)
    header = make_header(2560, 2560, dim)
    values = rng.standard_normal((40, dim)).astype(np.float32)
    latents = {
        0: (
            np.stack([cells[:4] // 10, cells[:4] % 10], 1).astype(np.int32),
            rng.standard_normal((4, 4, 8, 8)).astype(np.float16),
        )
    }
    labels = ["slide_id,label"]
    for number in range(count):
        name = f"s{number:05}"
        path = folder / f"{name}.zldm"
        labels.append(f"{name},{number % 2}")
        if path.exists():
            continue
        info = header.slide.model_copy(update={"name": f"{name}.svs"})
        write_archive(
            path,
            header.model_copy(update={"slide": info, "encoder": encoder}),
            np.stack([cells // 10, cells % 10], 1),
            values + number % 7,
            values[0],
            precision="int8",
            overview=None,
            latents=latents,
        )
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    (folder / "features").mkdir(exist_ok=True)


def main() -> None:
    """Print seconds and memory against the number of archives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="1000,2000,5000")
    counts = [int(c) for c in parser.parse_args().counts.split(",")]
    print(f"{'':10} {'archives':>9} {'wall s':>8} {'cpu s':>8} {'ms each':>8} {'MB more':>8}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in counts:
            fill(folder, count)
            for verb, (imports, work) in VERBS.items():
                script = PROBE.format(imports=imports, work=work)
                done = subprocess.run(
                    [sys.executable, "-c", script, name, str(count)],
                    capture_output=True,
                    text=True,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                )
                if done.returncode:
                    sys.exit(f"{verb}, {count} archives: {done.stderr.strip().splitlines()[-1]}")
                wall, cpu, memory = json.loads(done.stdout.splitlines()[-1])
                each = 1000 * cpu / count
                print(
                    f"{verb:10} {count:9,} {wall:8.1f} {cpu:8.1f} {each:8.2f} {memory:8.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
