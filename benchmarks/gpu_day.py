"""Do the checklist of a first GPU by itself, in order of worth: `docs/gpu-checklist.md`.

    python -m benchmarks.gpu_day [--minutes 30] [--out gpu-day] [--only NAME,NAME] [--rehearse]

Each step is a process with a time limit. What came of it is in OUT/state.json: the same command again does not repeat
what is done, begins with what was not tried, and tries again what failed. What a machine lacks is skipped with a line,
and done when the command runs where it is there: OUT can be brought home, where predictors are fitted without the GPU.
Profiles, predictors and exported networks are in OUT, with the ticked lines in OUT/gpu-checklist.md and all figures in
OUT/results.md; a line with a limit is ticked if the figure is within it. It needs the checkout and torch. `--rehearse`
runs every step at micro size on the CPU, in a folder of its own, and ticks nothing.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.support.day import ROOT, Day, Step, read_facts
from benchmarks.support.limits import error_over_floor, near_the_floor, not_slower_than_naive

FLOOR = r"^(noise floor) +([\d.]+%)"
MEASURED = r"^(\d+ measured with \S+)(?: in \S+)? on \S+, (0 failed)"
PARITY = r"^(largest difference) +(\S+)|^(top-1 agreement) +(\S+)"
SECONDS = r"^\| (\S+) \| (ours|naive) \| (\w+) \| (\S+) .*?\| (\S+x)|\"seconds\": \[([\d.]+)"

PROFILES = "`hwnas profile --space autoformer-tiny --device auto --runtime torch-graph --precision bf16 --batch 1,64"
SUPERNETS = "`python -m benchmarks.supernet_step --device cuda"

GPU_TESTS = " ".join(
    "{root}/" + str(path.relative_to(ROOT))
    for path in sorted((ROOT / "tests").rglob("test_*.py"))
    if "pytest.mark.gpu" in path.read_text(encoding="utf-8")
)
FITTED = "profiles --out predictors --metric latency_ms"
PYTEST = "python -m pytest -q -p no:cacheprovider -c {root}/pyproject.toml --rootdir {root}"
CAMPAIGN = "hwnas profile --device {device} --runtime torch-graph --precision bf16 --batch 1,64 --out profiles"
MICRO = "hwnas profile --device cpu --runtime torch --pairs 8 --no-reference-networks --out profiles"
SEARCH = "hwnas search --no-accuracy --objective latency_ms --predictors predictors --out runs/search-{attempt}"

HWNAS = ("click",)  # of its command line
REFERENCES = ("click", "timm")  # every campaign measures timm's reference networks

STEPS: tuple[Step, ...] = (
    Step(
        name="machine",
        needs=HWNAS,
        command="hwnas doctor",
        micro="hwnas doctor",
        shows=r"^(device) +(\S+)",
    ),
    Step(
        name="gpu-tests",
        needs=("gpu", "pytest", "hypothesis", *REFERENCES),
        command=f"{PYTEST} -m gpu {GPU_TESTS}",
        micro=f"{PYTEST} {{root}}/tests/test_frames.py",
        shows=r"(\d+ passed.*) in ",
        minutes=4,
        ticks="`pytest -m gpu`: tests that need a CUDA device",
    ),
    Step(
        name="noise-floor",
        needs=("gpu", *REFERENCES),
        command=f"{CAMPAIGN} --space autoformer-tiny --batch 1 --samples 12 --repeats 12",
        micro=f"{MICRO} --space autoformer-micro --samples 12 --repeats 12",
        shows=FLOOR,
        minutes=5,
        ticks="The noise floor of a timing campaign on a GPU",
    ),
    Step(
        name="profile-autoformer",
        needs=("gpu", *REFERENCES),
        command=f"{CAMPAIGN} --space autoformer-tiny --minutes {{minutes}}",
        micro=f"{MICRO} --space autoformer-micro --samples 13 --repeats 12",
        shows=FLOOR,
        minutes=4,
        ticks=PROFILES,
    ),
    *(
        Step(
            name=f"profile-{family}",
            needs=("gpu", *REFERENCES),
            command=f"{CAMPAIGN} --space {space} --minutes {{minutes}}",
            micro=f"{MICRO} --space {family}-micro --samples 1 --repeats 0",
            shows=MEASURED,
            minutes=2.5,
            ticks=PROFILES,
        )
        for family, space in (
            ("resnas", "resnas-tiny"),
            ("vitas", "vitas-deit-small-shifted"),
            ("glit", "glit-tiny"),
        )
    ),
    Step(
        name="predictors",
        needs=(*HWNAS, "sklearn", "xgboost", "file:profiles/*/*/manifest.json"),
        command=f"hwnas fit --device {{device}} --profiles {FITTED}",
        micro=f"hwnas fit --device cpu --space autoformer-micro --profiles {FITTED}",
        shows=r"^(latency_ms) +\S+ +\d+ +(\S+%) +(\S+%) +(\S+)",
        minutes=2,
        ticks=PROFILES,
        limit=error_over_floor,
    ),
    Step(
        name="supernet-step",
        needs=("gpu",),
        command="python -m benchmarks.supernet_step --device cuda --repeats 20",
        micro="python -m benchmarks.supernet_step --side ours --spaces autoformer-tiny --repeats 1 --batch 1",
        shows=SECONDS,
        minutes=3,
        ticks=SUPERNETS,
        limit=not_slower_than_naive,
    ),
    Step(
        name="supernet-step-compiled",
        needs=("gpu", "triton"),
        command="python -m benchmarks.supernet_step --device cuda --repeats 20 --compile",
        micro="python -m benchmarks.supernet_step --side naive --spaces autoformer-tiny --repeats 1 --batch 1",
        shows=SECONDS,
        minutes=4,
        ticks=SUPERNETS,
        limit=not_slower_than_naive,
    ),
    *(
        Step(
            name=f"parity-{runtime}-{precision}",
            needs=("gpu", *REFERENCES, f"runtime:{runtime}"),
            command=f"hwnas profile --device {{device}} --runtime {runtime} --precision {precision} "
            "--space autoformer-tiny --samples 1 --repeats 0 --out parity",
            micro=f"{MICRO} --runtime {runtime} --precision {precision} "
            "--space autoformer-micro --samples 1 --repeats 0 --out parity",
            shows=MEASURED,
            ticks="" if runtime == "tensorrt-rtx" else "An exported network in each GPU runtime",
        )
        for runtime, precision in (
            ("torch-graph", "fp16"),
            ("onnxruntime", "fp32"),
            ("onnxruntime", "fp16"),
            ("tensorrt", "fp32"),
            ("tensorrt", "fp16"),
            ("tensorrt", "bf16"),
            ("tensorrt-rtx", "fp16"),  # not for the GPUs of data centres
            ("torch", "fp32"),
        )
    ),
    *(
        Step(
            name=f"export-{file_format}",
            needs=(*HWNAS, *needs),
            command=f"hwnas export autoformer-tiny AutoFormer-T --format {file_format} --out exported",
            micro=f"hwnas export autoformer-micro min --format {file_format} --out exported",
            shows=PARITY,
        )
        for file_format, needs in (
            ("onnx", ("onnx", "onnxscript", "onnxruntime")),
            ("pt2", ()),
            ("tensorrt", ("gpu", "tensorrt")),
        )
    ),
    Step(
        name="front",
        needs=("gpu", *REFERENCES, "moocore", "pymoo", "file:predictors/*/*/latency_ms/card.json"),
        command=f"{SEARCH} --space autoformer-tiny --device {{device}} --budget 400 --export-top 0",
        micro=f"{SEARCH} --space autoformer-micro --device cpu --budget 40 --pairs 8 --export-top 0",
        shows=r"(\d+ of \d+) are (on the measured front)|predicted (within \S+ on average)",
        minutes=3,
        ticks="A search's front, measured again",
        limit=near_the_floor,
    ),
)
"""The steps in order of worth."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="time for all steps of this call")
    parser.add_argument("--out", type=Path, default=Path("gpu-day"), help="folder of everything that is written")
    parser.add_argument("--only", default="", help="names of steps, separated by commas")
    parser.add_argument("--rehearse", action="store_true", help="every step at micro size, on the CPU")
    options = parser.parse_args(arguments)
    known = [step.name for step in STEPS]
    names = options.only.split(",") if options.only else None
    if not set(names or ()) <= set(known):
        parser.error(f"--only must name steps, got {options.only}; known are {', '.join(known)}")
    day = Day(options.out, read_facts("cpu" if options.rehearse else "auto"), rehearse=options.rehearse)
    complete = day.run(STEPS, minutes=options.minutes, only=names)
    print(f"figures: {options.out / 'results.md'}; the same command again goes on with what is not done")
    raise SystemExit(0 if complete else 1)


if __name__ == "__main__":
    main()
