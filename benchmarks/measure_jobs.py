"""What `measure_all.py` runs: measures that docs/ quotes, the most important first."""

from collections.abc import Sequence
from dataclasses import dataclass, field

HELD = ("giardia__HE", "breast-lobular-carcinoma__HE")
OTHERS = (
    *("PDAC-tru-cut__HE1", "PDAC-tru-cut__HE3", "crohn-colonoscopic-biopsy__HE4"),
    *("duodenum-tubular-adenoma__HE", "eosinophilic-esophagitis__HE"),
    *(f"lung-squamous-cell-carcinoma__HE{i}" for i in (1, 2, 3, 4)),
    "signet-ring-cell-carcinoma__HE",
)
STEPS_ON = "crohn-colonoscopic-biopsy__HE4"


@dataclass
class Job:
    """A measure.

    Attributes:
        name: also of its folder.
        command: words; `{...}` are filled in.
        limit: s.
        after: names of the jobs whose output it reads.
        packed: whether it needs slides of training cases.
        env: more of its environment.
    """

    name: str
    command: str
    limit: int
    after: tuple[str, ...] = ()
    packed: bool = False
    env: dict[str, str] = field(default_factory=dict)


def fidelity(slide: str, tiles: str, regions: str, levels: str, mark: str) -> Job:
    """One slide at some levels."""
    shown = "".join(f" --level {level}" for level in levels.split())
    return Job(
        f"fidelity{mark}-{slide.split('-')[0].split('_')[0]}-{levels.replace(' ', '-')}",
        f"{{zoomldm}} evaluate fidelity {{slides}}/{slide}.svs {{data}}/val3/{slide}.zldm "
        f"-o fidelity.md --pipeline {{pipeline}} --tiles {tiles} --regions {regions}{shown} "
        "--batch 8 --device {device}",
        400,
    )


def rates(slide: str, level: str) -> Job:
    """One slide's rates at a level."""
    return Job(
        f"rates-{slide.split('-')[0].split('_')[0]}-{level}",
        f"{{zoomldm}} evaluate rates {{slides}}/{slide}.svs -o rates.md {{rates}} "
        f"--level {level} --tiles {{rate_tiles}} --regions 0 --pipeline {{pipeline}} "
        "--device {device}",
        400,
    )


def jobs(others: Sequence[str] = OTHERS) -> list[Job]:
    """All of them, the most important first.

    Args:
        others: slides of training cases; the evaluations of a step are measured on `STEPS_ON`, or
            on the first of them.
    """
    trained = STEPS_ON if STEPS_ON in others else others[0]
    both = " ".join(f"{{slides}}/{name}.svs" for name in HELD)
    rest = " ".join(f"{{slides}}/{name}.svs" for name in others)
    other = " ".join(f"--other {{slides}}/{name}.svs" for name in others)
    giardia, breast = (f"{{slides}}/{name}.svs" for name in HELD)
    samples = "{zoomldm} evaluate samples"
    options = "-n {n} {fine} -o . --pipeline {pipeline} --batch 16 --device {device}"
    steps = "{python} {here}/steps.py {slides}"
    measured = "--pipeline {pipeline} --tiles {steps_tiles} --full --device {device}"
    upscaling = f"{{python}} {{here}}/upscaling.py {both} -o upscaled.jpg --pipeline {{pipeline}}"
    regression = "--regression {work}/regression/regression.safetensors --device {device}"
    large = (
        f"{{python}} {{here}}/large_methods.py {{data}}/demo.zldm -o large.jpg --slide {giardia}"
    )
    seams = "{python} {here}/seams.py {data}/arch15/*.zldm --slides {data}/slides"
    return [
        Job(
            "unpack",
            "{python} {here}/demo_weights/unpack.py {packed} {data}/arch15 -o {slides} "
            "--workers 8 {unpacked}",
            120,
            packed=True,
        ),
        *(fidelity(name, "{tiles}", "1", "20x", "") for name in HELD),
        *(fidelity(name, "{tiles}", "0", "10x", "") for name in HELD),
        *(fidelity(name, "{tiles}", "0", "5x", "") for name in HELD),
        *(
            Job(
                f"steps-{n.split('_')[0]}",
                f"{steps}/{n}.svs {{data}}/val3/{n}.zldm {measured}",
                300,
            )
            for n in HELD
        ),
        Job(
            "regression",
            f"{{python}} {{here}}/regression.py {rest} -o regression.safetensors --minutes 60 "
            "--wall {wall} --batch 16 --device {device}",
            240,
            ("unpack",),
            True,
            {"NVIDIA_TF32_OVERRIDE": "1"},
        ),
        Job(
            "imaginary",
            f"{{python}} {{here}}/imaginary.py {both} -o imaginary.jpg {{imaginary}} "
            f"--batch 8 --training {rest} --pipeline {{pipeline}} --device {{device}}",
            400,
            ("unpack",),
            True,
        ),
        Job(
            "samples",
            f"{samples} {both} {other} --cases {{data}}/index.csv --archive {{data}}/arch15 "
            + options,
            300,
            ("unpack",),
            True,
        ),
        Job(
            "steps-crohn",
            f"{steps}/{trained}.svs {{data}}/arch15/{trained}.zldm {measured}",
            300,
            ("unpack",),
            True,
        ),
        Job("large", f"{large} {{large}} --pipeline {{pipeline}} --device {{device}}", 300),
        Job(
            "samples-giardia",
            f"{samples} {giardia} --other {breast} --archive {{data}}/arch15 {options}",
            200,
        ),
        Job(
            "samples-breast",
            f"{samples} {breast} --other {giardia} --archive {{data}}/arch15 {options}",
            200,
        ),
        Job(
            "sheets",
            "{python} {here}/sample_sheets.py . --pipeline {pipeline} --device {device}",
            200,
        ),
        Job("upscaling", f"{upscaling} {{crops}} {regression}", 240, ("regression",), True),
        Job(
            "inversion",
            f"{upscaling} --crops 1 --side {{inverted}} --inversion --device {{device}}",
            300,
        ),
        *(rates(name, "20x") for name in HELD),
        Job(
            "seams",
            f"{seams} --sheet borders.jpg {{seams}} --pipeline {{pipeline}} --device {{device}}",
            300,
        ),
        Job(
            "seams-blended",
            f"{seams} --method blended {{seams}} --pipeline {{pipeline}} --device {{device}}",
            400,
        ),
        Job(
            "copies",
            "{zoomldm} evaluate copies --data {data}/arch15 --cases {data}/index.csv --holdout "
            "giardia,breast-lobular-carcinoma -n {n} -o . --pipeline {pipeline} --batch 16 "
            "--device {device}",
            300,
        ),
        Job(
            "strip",
            "{python} {here}/interpolations.py {data}/demo.zldm -o strip.jpg --pipeline {pipeline} "
            "--device {device}",
            120,
        ),
        Job(
            "training",
            f"{{zoomldm}} compress {both} -o . --for-training --pipeline {{pipeline}} "
            "--device {device}",
            200,
        ),
        Job(
            "outline",
            "{python} {here}/outline.py {work}/training/*.zldm --windows {windows} --pipeline "
            "{pipeline} --device {device}",
            200,
            ("training",),
        ),
        Job(
            "fidelity-blended",
            f"{{zoomldm}} evaluate fidelity {giardia} {{data}}/val3/{HELD[0]}.zldm -o fidelity.md "
            "--pipeline {pipeline} --tiles {tiles} --regions 1 --level 20x --no-alone --method "
            "blended --device {device}",
            300,
        ),
        *(rates(name, "10x") for name in HELD),
        *(
            fidelity(name, "{more}", "2", level, "-100")
            for level in ("20x", "10x")
            for name in HELD
        ),
    ]


FULL = {
    "tiles": "60",
    "more": "100",
    "rate_tiles": "60",
    "rates": "--archive 45:5x --archive 30:5x --archive 60:5x --archive 100:5x --archive 60:2.5x "
    "--archive none",
    "fine": "--level 20x --level 10x --level 5x",
    "steps_tiles": "96",
    "n": "48",
    "wall": "2.5",
    "imaginary": "--seeds 2",
    "large": "--size 1024x1024 --batch 16",
    "crops": "--crops 4",
    "inverted": "512",
    "seams": "",
    "windows": "64",
    "unpacked": "",
}
SMALL = {  # to see that everything runs
    "tiles": "4",
    "more": "4",
    "rate_tiles": "4",
    "rates": "--archive 45:5x",
    "fine": "--level 20x",
    "steps_tiles": "4",
    "n": "8",
    "wall": "0.2",
    "imaginary": "--seeds 1 --crops 1 --side 2 --patches 8 --levels 2 4 --render-steps 1",
    "large": "--size 512x512 --inner 1",
    "crops": "--crops 1 --side 256",
    "inverted": "256",
    "seams": "--limit 2 --large 0",
    "windows": "2",
    "unpacked": "",
}
