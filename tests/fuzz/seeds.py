"""Valid files of every format, from which the cases of the fuzzer are made."""

import itertools
import json
import os
import shutil
import signal
import sqlite3
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.progress import NullReporter, ProgressEvent

TOY, OTHER, TOY_GPU, SPACE = "toy-2c", "toy-4c", "rtx3090", "autoformer-micro"
PROFILE = f"profiles/{TOY}/{SPACE}-onnxruntime-fp32-b1-t1"
PREDICTOR = f"predictors/{TOY}/{SPACE}-onnxruntime-fp32-b1-t1/latency_ms"
TABLE = f"profiles/{TOY_GPU}/timm-torch-fp16-bany"
KINDS = ("ridge", "gaussian", "boosted", "blocks", "stack", "transfer")
"""Kinds of predictor models with a seed of their own, in kinds/NAME; that of `predictors` is analytic."""
_PATH_FILES = ("runs/search/manifest.json", "runs/search/search.json", "runs/half-search/manifest.json")
_STUDIES = ("runs/search/study.sqlite", "runs/half-search/study.sqlite")


def build(root: Path, *, slow: bool = False) -> None:
    """Write all seeds into a new folder, in child processes so that this one stays fit to be forked."""
    root.mkdir(parents=True)
    runs, documents = _start(root, "runs", _runs), _start(root, "documents", _documents, _images)
    _finish(root, _start(root, "profiles", _profiles, _predictors))
    kinds = _start(root, "kinds", _kinds)
    _finish(root, runs)
    _finish(root, _start(root, "searches", _searches))
    _finish(root, documents)
    if slow:
        _finish(root, _start(root, "templates", _templates))
    _finish(root, kinds)


def _start(root: Path, name: str, *makers: Callable[[Path], None]) -> tuple[int, str]:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _redirect(root, f"log-{name}")
            os.chdir(root)
            with patched():
                for make in makers:
                    make(root)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid, name


def _finish(root: Path, started: tuple[int, str]) -> None:
    _, status = os.waitpid(started[0], 0)
    if status != 0:
        raise RuntimeError(f"the seeds could not be made: {(root / f'log-{started[1]}').read_text()}")


@contextmanager
def patched() -> Iterator[None]:
    """Replace what takes long and is not under attack: measuring, and the choice among many predictor models."""
    from hwnas.profile.environment import CampaignEnvironment
    from tests.pipeline.campaigns import FakeEnvironment
    from tests.pipeline.measured_profiles import fast_fits

    with pytest.MonkeyPatch.context() as patch:
        fast_fits(patch)
        # As of real processes, no number is ever met again.
        patch.setattr("tests.profile.stand_ins._NUMBERS", itertools.count(1000 * os.getpid()))
        patch.setattr(CampaignEnvironment, "of_this_machine", lambda **_: FakeEnvironment().make())
        patch.setattr("webbrowser.open", lambda *_: True)
        yield


def relocate(case: Path, *, old: Path) -> None:
    """Replace absolute paths below the seeds by those below a copy."""
    for name in _PATH_FILES:
        path = case / name
        if path.exists():
            path.write_text(path.read_text().replace(str(old), str(case)))
    for name in _STUDIES:
        if (case / name).exists():
            connection = sqlite3.connect(case / name, isolation_level=None)
            connection.execute("UPDATE meta SET value = replace(value, ?, ?)", (str(old), str(case)))
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            connection.close()


def _redirect(root: Path, log: str) -> None:
    descriptor = os.open(root / log, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ |= {"HWNAS_CACHE": str(root / "cache"), "HWNAS_MATMUL": "default"}


def _run(*arguments: str) -> None:
    from hwnas.cli.app import run

    code = run(arguments)
    assert code == 0, arguments


class _Interrupting(NullReporter):
    """Interrupts the process after a number of progress events."""

    def __init__(self, left: int) -> None:
        self._left = left

    def update(self, event: ProgressEvent) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def _profiles(root: Path) -> None:
    from tests.pipeline.measured_profiles import make_profile

    make_profile(root / "profiles", count=20)
    make_profile(root / "profiles", device=OTHER, count=14, factor=1.7)
    _run("profile", *_small_campaign(), "--samples", "14", "--out", "own")
    _run("profile", *_small_campaign(), "--samples", "4", "--plan-only", "--out", "plan.jsonl")
    _table(root / TABLE)


def _small_campaign() -> tuple[str, ...]:
    return ("--space", SPACE, "--device", "cpu", "--runtime", "onnxruntime", "--no-reference-networks")


def _table(folder: Path) -> None:
    """A published table of 14 models, and the file of their workloads."""
    from hwnas.metrics import ANY_BATCH, Deployment
    from hwnas.records.table import TableManifest, rows_digest, write_table
    from hwnas.records.workloads import TracedModels, load_workloads, save_workloads
    from hwnas.runs import package_versions

    shipped = Path(__file__).resolve().parents[2] / "profiles" / "timm-workloads.jsonl.gz"
    known = {key: made for key, made in load_workloads(shipped).models.items() if made is not None}
    chosen = dict(sorted(known.items(), key=lambda item: item[1].macs_executed)[:14])
    rows = ["model,infer_img_size,infer_samples_per_sec,infer_step_time,infer_batch_size,param_count"]
    rows += [
        f"{name},{size},{1e12 / workload.macs_executed:.2f},1.0,256,{workload.params / 1e6:.2f}"
        for (name, size), workload in chosen.items()
    ]
    text = "\n".join(rows) + "\n"
    manifest = TableManifest(
        created_utc="2026-01-02T03:04:05+00:00",
        deployment=Deployment(device=TOY_GPU, runtime="torch", precision="fp16", batch=ANY_BATCH),
        source="timm results/toy.csv",
        command=("hwnas", "profiles", "import-timm"),
        sha256=rows_digest(text),
        environment={"torch": "2.4.0"},
    )
    write_table(folder, manifest, text)
    traced = TracedModels(timm=package_versions(["timm"])["timm"], models=dict(chosen))
    save_workloads(traced, folder.parents[1] / "timm-workloads.jsonl.gz")
    (folder.parents[2] / "imported").mkdir()
    shutil.copy(folder.parents[1] / "timm-workloads.jsonl.gz", folder.parents[2] / "imported")
    shutil.copy(folder / "table.csv", folder.parents[2] / "benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv")


def _templates(root: Path) -> None:
    _run("export", SPACE, "min", "--out", "network.onnx")


_FIT = ("--profiles", "profiles", "--metric", "latency_ms")


def _predictors(root: Path) -> None:
    _run("fit", "--device", TOY, *_FIT, "--out", "predictors")


def _kinds(root: Path) -> None:
    """A predictor of each kind of model."""
    from hwnas.predict.models import LEARNERS, Learner
    from tests.pipeline.measured_profiles import fast_fits

    lean = ("--from", TOY, "--predictors", "predictors")
    _run("fit", "--device", OTHER, *_FIT, *lean, "--out", "kinds/transfer")
    learners = {learner.name: learner for learner in LEARNERS.values()}
    for name in KINDS[:-1]:
        chosen: Sequence[Learner] = [learners["ridge"], learners["quadratic"]]
        if name != "stack":
            chosen = [learners[name]]
        with pytest.MonkeyPatch.context() as patch:
            fast_fits(patch, chosen)
            _run("fit", "--device", TOY, *_FIT, "--out", f"kinds/{name}")


def _runs(root: Path) -> None:
    from hwnas.pipeline.train import train_model
    from hwnas.train.options import TrainOptions
    from hwnas.train.trainer import TrainerConfig

    _run("train", *_training(), "--epochs", "1", "--out", "runs/super")
    options = TrainOptions(space=SPACE, data="digits", max_images=260, heldout=40, epochs=2)
    config = TrainerConfig(threads=1, checkpoint_minutes=0)
    with pytest.raises(KeyboardInterrupt):
        train_model(options, out=Path("runs/half"), trainer_config=config, reporter=_Interrupting(2))
    _run("evaluate", "runs/super")


def _training() -> tuple[str, ...]:
    return ("--space", SPACE, "--data", "digits", "--max-images", "260", "--heldout", "40")


def _searches(root: Path) -> None:
    from hwnas.pipeline.search.options import SearchOptions
    from hwnas.pipeline.search.run import search_networks
    from hwnas.search.spec import PostSearch

    common = ("--supernet", "runs/super", "--objective", "latency_ms", "--device", TOY, "--predictors", "predictors")
    _run(
        "search",
        "--space",
        SPACE,
        *common,
        "--budget",
        "12",
        "--no-verify",
        "--export-top",
        "0",
        "--out",
        "runs/search",
    )
    options = SearchOptions(
        space=SPACE,
        supernet=Path("runs/super"),
        objectives=("latency_ms",),
        device=TOY,
        predictors=Path("predictors"),
        budget=14,
        strategy="random",
        post_search=PostSearch(verify=False, export_top=0),
    )
    with pytest.raises(KeyboardInterrupt):
        search_networks(options, out=Path("runs/half-search"), reporter=_Interrupting(2))
    for name in _STUDIES:
        connection = sqlite3.connect(name)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.close()


def _documents(root: Path) -> None:
    from hwnas.config import dump_toml
    from hwnas.space import SPACES
    from hwnas.train.presets import MICRO

    arch = {"embed_dim": 48, "blocks": [{"num_heads": 1, "mlp_ratio": 1.0}, {"num_heads": 4, "mlp_ratio": 2.0}]}
    SPACES.get(SPACE).parse(arch)
    (root / "arch.json").write_text(json.dumps(arch))
    lines = [{"space": SPACE, "arch": arch}, {"space": SPACE, "arch": {**arch, "embed_dim": 64}}]
    (root / "archs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "recipe.toml").write_text(dump_toml(replace(MICRO, epochs=2)))
    (root / "extension.py").write_text("from hwnas.space import SPACES\n")


def _images(root: Path) -> None:
    import tarfile

    from tests.train.data.image_files import pixels, png, write_folder, write_parquet

    write_folder(root / "images" / "train", {"cat": 30, "dog": 30})
    write_folder(root / "images" / "val", {"cat": 6, "dog": 6})
    folder = root / "parquet"
    folder.mkdir()
    rows: list[tuple[bytes | None, int]] = [(png(image), index % 2) for index, image in enumerate(pixels(60))]
    write_parquet(folder / "train-00000.parquet", rows, names=["cat", "dog"])
    write_parquet(folder / "test-00000.parquet", rows[:12], names=["cat", "dog"])
    (root / "wds").mkdir()
    with tarfile.open(root / "wds" / "train-000000.tar", "w") as tar:
        for index, (data, label) in enumerate(rows):
            for suffix, content in (("png", data or b""), ("cls", str(label).encode())):
                (root / "member").write_bytes(content)
                tar.add(root / "member", arcname=f"{index:04d}.{suffix}")
    (root / "member").unlink()
