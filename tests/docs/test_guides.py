"""Commands of the guides that no test of their own page runs: at micro size on this CPU, or why they are not run.

A new command in one of these pages needs a line here. That its options exist is tested for all pages in
`test_pages.py`.
"""

from pathlib import Path

import pytest

from tests.docs.pages import blocks, commands, page, run_commands

SAME = "SAME"
"""The command is run as it is written."""

GPU = "NOT RUN: needs that GPU"
NETWORK = "NOT RUN: downloads weights"
HOST = "NOT RUN: needs that host"
LARGE = "NOT RUN: trains or measures large networks for long"
SHELL = "NOT RUN: torchrun, Ray and other programs have tests of their own"

_SMALL = "--samples 8 --repeats 0 --pairs 8 --no-reference-networks"
_PROFILE = f"hwnas profile --space autoformer-micro --device cpu {_SMALL}"
_FIT = "hwnas fit --device cpu --profiles profiles"
_SEARCH = "hwnas search --supernet runs/micro --budget 8 --no-verify --export-top 0"
_RUN = "runs/search-autoformer-tiny-20261121-160000"

MEASURING = {
    "hwnas doctor": SAME,
    "hwnas profile --space autoformer-tiny --device cpu": _PROFILE,
    "hwnas profiles": SAME,
    "hwnas profiles show autoformer-tiny-onnxruntime-fp32-b1-t1": SAME,
    "hwnas profile --landmarks --device cpu": LARGE,
    "hwnas fit --device cpu": _FIT,
    "hwnas profile --landmarks --device h100 --runtime torch-compile --precision fp16": GPU,
    "hwnas profile --space autoformer-tiny --device cpu --batch 1,8,64": f"{_PROFILE} --batch 1,2",
    "hwnas profile --space autoformer-tiny --device cpu --precision bf16": "NOT RUN: depends on the CPU",
    "hwnas profile --space autoformer-tiny --device cpu --threads 4": "NOT RUN: takes minutes where other processes use the CPUs",
    "hwnas profile --space autoformer-tiny --device cpu --minutes 30": LARGE,
    "hwnas profile --space autoformer-tiny --device cpu --extra-model timm:vit_tiny_patch16_224": LARGE,
    "hwnas profile --space autoformer-tiny --device a100 --samples 200 --plan-only --out plan.jsonl": (
        "hwnas profile --space autoformer-tiny --device a100 --samples 20 --plan-only --out plan.jsonl"
    ),
    "hwnas profile --plan plan.jsonl": GPU,
    "hwnas profile --space autoformer-tiny --samples 200 --on ann@orin1": HOST,
    "hwnas profile --space autoformer-tiny --samples 200 --on orin1,orin2 --remote-python /opt/venv/bin/python3": HOST,
    "hwnas profile --space autoformer-tiny --samples 200 --fleet fleet.toml": HOST,
    "hwnas profile --space autoformer-tiny --device l4 --runtime tensorrt --precision fp16 --check-with trtexec": GPU,
    "hwnas explain autoformer-tiny AutoFormer-T --device cpu": "hwnas explain autoformer-micro max --device cpu",
    "hwnas explain autoformer-tiny AutoFormer-T --device a100 --precision fp16 --batch 64": SAME,
}

PREDICTORS = {
    "hwnas fit --device cpu": _FIT,
    "hwnas predict autoformer-tiny:AutoFormer-T --device cpu": "hwnas predict autoformer-micro:max --device cpu",
    "hwnas fit --device cpu --space autoformer-tiny --metric latency_ms": (
        f"{_FIT} --space autoformer-micro --metric latency_ms"
    ),
    "hwnas fit --device cpu --samples 80": f"{_FIT} --samples 8",
    "hwnas predict autoformer-tiny:AutoFormer-T autoformer-tiny:random:7 --device cpu --metric latency_ms --metric throughput": (
        "hwnas predict autoformer-micro:max autoformer-micro:random:7 --device cpu --metric latency_ms --metric throughput"
    ),
    "hwnas predict --space autoformer-tiny min max --device cpu --confidence 0.95": (
        "hwnas predict --space autoformer-micro min max --device cpu --confidence 0.5 --allow-outside"
    ),
    "hwnas predict autoformer-tiny:AutoFormer-T --device cpu --batch 4": (
        "hwnas predict autoformer-micro:max --device cpu --batch 2"
    ),
    "hwnas predict timm:vit_small_patch16_224 --device a100": "NOT RUN: refused without --unmeasured, as the page shows",
    "hwnas search --no-accuracy --device a100 --objective throughput --unmeasured": LARGE,
    "hwnas profile --space autoformer-tiny --device cpu --samples 10 --repeats 0": _PROFILE,
    "hwnas fit --device cpu --from a100 --from rtx4090": LARGE,
    "hwnas fit --device cpu --runtime openvino --precision bf16 --from onnxruntime/fp32": LARGE,
    "hwnas profiles import-timm benchmark-infer-amp-nchw-pt291-cu128-4090-dynamo.csv": NETWORK,
    "hwnas fit --device rtx4090": LARGE,
    "hwnas predict timm:vit_small_patch16_224 --device rtx4090 --metric throughput": SAME,
}

SEARCH = {
    "hwnas search --objective throughput": f"{_SEARCH} --objective throughput --out {_RUN}",
    f"hwnas report {_RUN}": SAME,
    "hwnas profile --space autoformer-tiny --device cpu --precision fp32,bf16,int8": "NOT RUN: depends on the CPU",
    "hwnas fit --device cpu": _FIT,
    "hwnas search --precision fp32,bf16,int8 --objective throughput": "NOT RUN: depends on the CPU",
    "hwnas search --precision fp32 --runtime onnxruntime,torch --objective throughput": LARGE,
    "hwnas search --objective throughput --constraint 'latency_ms<=8ms' --constraint 'params<=20M' --constraint 'accuracy>=70%'": (
        f"{_SEARCH} --objective throughput --constraint 'latency_ms<=8s' --constraint 'params<=20M' --constraint 'accuracy>=0%'"
    ),
    "hwnas train --space layout-glit-tiny --data photos --set sharing=none --out runs/layout": LARGE,
    "hwnas search --supernet runs/layout --levels separate --strategy glit --constraint 'macs<=1.4G'": LARGE,
    f"hwnas search --resume {_RUN}": SAME,
    f"hwnas search --resume {_RUN} --budget 1000": f"hwnas search --resume {_RUN} --budget 10",
    "hwnas train --supernet RUN/networks/ID/training --recipe resnas-highres --image-size 280": LARGE,
    "hwnas train --supernet RUN/networks/ID/training --recipe finetune-small --data torch/CIFAR10": NETWORK,
    "hwnas train --supernet runs/supernet --arch a912fe9a92a57520": (
        "NOT RUN: the id is of one search; tests/pipeline/test_run_network.py has such ids"
    ),
    f"hwnas report {_RUN} --watch": "NOT RUN: it ends with Ctrl-C; tests/report/live has its tests",
    f"hwnas study export {_RUN}": SAME,
    f"optuna-dashboard {_RUN}/study.optuna.log": SHELL,
    f"hwnas study export {_RUN} --to parquet --out candidates.parquet": SAME,
    "hwnas study compare runs/rounds-* runs/nsga2-* --out comparison": f"hwnas study compare {_RUN} --out comparison",
    f"hwnas query {_RUN} --constraint 'latency_ms<=5ms'": f"hwnas query {_RUN} --constraint 'latency_ms<=5s'",
    f"hwnas query {_RUN} --objective throughput --device a100": GPU,
}

DISTRIBUTED = {
    "torchrun --standalone --nproc-per-node 8 -m hwnas train --space autoformer-tiny --data imagenet --out runs/tiny": SHELL,
    "hwnas train --space autoformer-tiny --data imagenet --out /shared/runs/tiny --slurm partition=gpu,nodes=2,gpus=8": SHELL,
    "hwnas search --space autoformer-tiny --objective throughput --evaluate-on local:4": (
        "NOT RUN: tests/pipeline/search/test_workers.py searches with workers"
    ),
    "hwnas evaluate runs/tiny random:1 random:2 random:3 --evaluate-on local:2": (
        "hwnas evaluate runs/micro random:1 random:2 random:3 --evaluate-on local:1"
    ),
    f"hwnas search --resume {_RUN} --evaluate-on ray": SHELL,
    "OMP_NUM_THREADS=4 hwnas search --space autoformer-tiny --objective throughput --evaluate-on local:8": SHELL,
}

_DETECTOR = "--data digits-scene --max-images 16 --heldout 2 --epochs 1 --batch 8"

DETECTION = {
    "hwnas train --task detection --data digits-scene --space vitas-twins-micro --out runs/detector": (
        f"hwnas train --task detection --space vitas-twins-micro --out runs/detector {_DETECTOR}"
    ),
    "hwnas evaluate runs/detector": SAME,
    "hwnas profile --supernet runs/detector --device cpu": (
        f"hwnas profile --supernet runs/detector --device cpu {_SMALL}"
    ),
    "hwnas search --supernet runs/detector --device cpu --objective throughput --budget 60": (
        "hwnas search --supernet runs/detector --device cpu --objective throughput --budget 4 --no-verify --export-top 0"
    ),
    "hwnas describe fcos-autoformer-tiny max": SAME,
    "hwnas train --space semantic-fpn-vitas-twins-micro --data digits-scene --out runs/segmenter": (
        f"hwnas train --space semantic-fpn-vitas-twins-micro --out runs/segmenter {_DETECTOR}"
    ),
    "hwnas train --supernet runs/supernet --task detection --data digits-scene --out runs/detector": (
        "NOT RUN: tests/pipeline/test_train_tasks.py begins a backbone with the weights of a classifier"
    ),
    "hwnas export retinanet-vitas-twins-micro min --out exported": SAME,
    "hwnas export retinanet-vitas-twins-micro min --part backbone --out exported": SAME,
    "hwnas train --task detection --data coco-folder --space vitas-twins-small --image-size 320 --out runs/own": LARGE,
    "hwnas train --task segmentation --data voc-folder --space vitas-twins-small --image-size 320 --out runs/pixels": LARGE,
}

PAGES = {
    "measuring.md": MEASURING,
    "predictors.md": PREDICTORS,
    "search.md": SEARCH,
    "distributed.md": DISTRIBUTED,
    "detection.md": DETECTION,
}
"""By page: each command that it shows, and the one that is run in its place."""

TRAINED = "hwnas train --space autoformer-micro --data digits --max-images 256 --epochs 1 --out runs/micro"


def shown(name: str) -> list[str]:
    """The commands of a page in shell blocks and at prompts; of one that goes on in further lines nothing."""
    lines = [line for block in blocks(page(name), "console") for line in block.splitlines()]
    asked = [line.removeprefix("$ ") for line in lines if line.startswith("$ ") and not line.endswith("\\")]
    return [*commands(page(name)), *(line.partition("  #")[0].strip() for line in asked)]


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_a_guide_is_run_or_says_why_not(name: str) -> None:
    assert set(shown(name)) - PAGES[name].keys() == set()
    assert PAGES[name].keys() - set(shown(name)) == set()


def run_lines() -> list[str]:
    """What is run, or why it is not, for all commands of the pages."""
    pairs = [pair for rows in PAGES.values() for pair in rows.items()]
    return [written if run == SAME else run for written, run in pairs]


def test_commands_are_run_or_have_a_reason() -> None:
    lines = run_lines()
    assert all(line.startswith(("hwnas ", "NOT RUN: ")) for line in lines)
    assert sum(line.startswith("hwnas ") for line in lines) > len(lines) / 3


@pytest.mark.slow
def test_the_commands_of_the_guides_work_one_after_another(tmp_path: Path) -> None:
    lines = [line for line in run_lines() if line.startswith("hwnas ")]
    environ = {"HWNAS_PROFILES": f"{tmp_path / 'profiles'}:{Path(__file__).parents[2] / 'profiles'}"}
    (tmp_path / "profiles").mkdir()
    done = run_commands([TRAINED, *dict.fromkeys(lines)], folder=tmp_path, environ=environ)
    assert all(one.out for one in done)
