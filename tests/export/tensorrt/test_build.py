import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType

import onnx
import pytest

from hwnas.errors import InputError, MissingError
from hwnas.export.tensorrt import EngineSettings, TensorRtError, TimingCache, build_engine, load_tensorrt, timing_cache
from hwnas.export.tensorrt.build import NO_LAYER_TABLE
from hwnas.export.tensorrt.library import TensorRtMessage, failure
from hwnas.export.tensorrt.timing_cache import TimingCacheHashes, choose_timing_cache
from hwnas.files import brief_lock, write_atomic
from hwnas.profile.runners.tensorrt import REASONS
from tests.export.tensorrt.behaviour import PLAN
from tests.export.tensorrt.conftest import ADA, GPU, Double
from tests.export.tensorrt.graphs import small_graph


def about(engine: bytes) -> dict[str, object]:
    """What the double wrote into an engine of how it was built."""
    length = int.from_bytes(engine[len(PLAN) : len(PLAN) + 4], "big")
    found: dict[str, object] = json.loads(engine[len(PLAN) + 4 :][:length])
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_strongly_typed_engine_sets_no_precision_flag(double: Double, precision: str) -> None:
    settings = EngineSettings(precision=precision, batch=2)  # type: ignore[arg-type]
    built = build_engine(small_graph(precision=precision), settings, gpu=GPU)
    found = about(built.engine)
    assert found["strong"] is True
    assert found["flags"] == ([] if precision == "fp32" else ["TF32"])


def test_tf32_is_allowed_only_where_it_is_asked_for(double: Double) -> None:
    built = build_engine(small_graph(), EngineSettings(precision="tf32", batch=2), gpu=GPU)
    assert about(built.engine)["flags"] == ["TF32"]


@pytest.mark.parametrize(("precision", "flags"), [("fp16", ["FP16", "TF32"]), ("bf16", ["BF16", "TF32"]), ("fp32", [])])
def test_flags_are_the_other_way_of_version_10(double: Double, precision: str, flags: list[str]) -> None:
    settings = EngineSettings(precision=precision, batch=2, typing="flags")  # type: ignore[arg-type]
    if double.major >= 11:
        with pytest.raises(InputError, match=r"11\.4\.0\.106 has no precision flags"):
            build_engine(small_graph(), settings, gpu=GPU)
        return
    built = build_engine(small_graph(), settings, gpu=GPU)
    assert (about(built.engine)["strong"], about(built.engine)["flags"]) == (False, flags)


def test_the_card_says_what_the_engine_is(double: Double) -> None:
    data, settings = small_graph(), EngineSettings(batch=2, optimization_level=5, workspace_mb=64)
    built = build_engine(data, settings, gpu=GPU)
    card = built.card
    assert card.engine_sha256 == hashlib.sha256(built.engine).hexdigest()
    assert card.onnx_sha256 == hashlib.sha256(data).hexdigest()
    assert (card.tensorrt, card.gpu, card.settings) == (double.trt.__version__, GPU, settings)
    assert (card.timing_cache, card.warnings, card.num_layers) == (None, (), 5)
    assert about(built.engine)["level"] == 5


def test_the_layer_table_has_details(double: Double) -> None:
    built = build_engine(small_graph(), EngineSettings(batch=2), gpu=GPU)
    rows = json.loads(built.layers)["Layers"]
    assert [row["LayerType"] for row in rows] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]


def test_an_onnx_file_is_read(newest: Double, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(small_graph())
    assert (
        build_engine(path, EngineSettings(batch=2), gpu=GPU).card.onnx_sha256
        == hashlib.sha256(small_graph()).hexdigest()
    )
    with pytest.raises(InputError, match="there is no file"):
        build_engine(tmp_path / "none.onnx", EngineSettings(batch=2), gpu=GPU)


def test_an_open_batch_takes_a_range(double: Double) -> None:
    settings = EngineSettings(batch=4, batch_range=(1, 8))
    built = build_engine(small_graph(batch=None), settings, gpu=GPU)
    assert about(built.engine)["profile"] == [{"images": [[1, 3, 8, 8], [4, 3, 8, 8], [8, 3, 8, 8]]}]


def test_a_fixed_batch_must_be_the_one_that_is_asked_for(newest: Double) -> None:
    with pytest.raises(InputError, match="must take the batch 4\n  got     a fixed batch of 2"):
        build_engine(small_graph(), EngineSettings(batch=4), gpu=GPU)
    with pytest.raises(InputError, match="must take the batch 1 to 2"):
        build_engine(small_graph(), EngineSettings(batch=2, batch_range=(1, 2)), gpu=GPU)


def test_the_graph_must_hold_the_precision(newest: Double) -> None:
    with pytest.raises(InputError, match="needs an ONNX graph with weights in fp16\n  got     weights in fp32"):
        build_engine(small_graph(), EngineSettings(batch=2, precision="fp16"), gpu=GPU)
    with pytest.raises(InputError, match="weights in fp32\n  got     weights in bf16"):
        build_engine(small_graph(precision="bf16"), EngineSettings(batch=2), gpu=GPU)


def test_what_is_no_graph_is_refused(newest: Double) -> None:
    with pytest.raises(InputError, match="must be an ONNX graph"):
        build_engine(b"\xff\xff no graph", EngineSettings(), gpu=GPU)
    with pytest.raises(InputError, match="one input and one output\n  got     0 inputs and 0 outputs"):
        build_engine(b"", EngineSettings(), gpu=GPU)


def test_weights_in_another_file_are_refused(newest: Double) -> None:
    model = onnx.load_model_from_string(small_graph())
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(InputError, match="inside the ONNX file\n  got     'conv_w' in a file of its own"):
        build_engine(model.SerializeToString(), EngineSettings(batch=2), gpu=GPU)


def test_an_operator_that_is_not_known_is_named(double: Double) -> None:
    double.library.unknown_operators = {"Erf"}
    with pytest.raises(TensorRtError, match="lacks Erf") as caught:
        build_engine(small_graph(extra="Erf"), EngineSettings(batch=2), gpu=GPU)
    assert caught.value.kind == "unsupported"
    assert "Erf 'last' (node 5)" in str(caught.value)
    assert "[UNSUPPORTED_NODE]" in str(caught.value)


def test_too_little_memory_is_told_apart(double: Double) -> None:
    double.library.workspace_needed = 10**9
    with pytest.raises(TensorRtError, match="Requested size was 1000000000 bytes") as caught:
        build_engine(small_graph(), EngineSettings(batch=2, workspace_mb=10), gpu=GPU)
    assert caught.value.kind == "memory"
    assert build_engine(small_graph(), EngineSettings(batch=2, workspace_mb=1000), gpu=GPU).engine


def test_a_machine_without_a_gpu_is_told(double: Double) -> None:
    double.library.has_gpu = False
    with pytest.raises(MissingError, match="CUDA initialization failure with error: 35") as caught:
        build_engine(small_graph(), EngineSettings(batch=2), gpu=GPU)
    assert caught.value.exit_code == 3


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingError, match=r"pip install 'hwnas\[tensorrt\]'"):
        build_engine(small_graph(), EngineSettings(batch=2), gpu=GPU)


def test_an_old_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("tensorrt")
    old.__version__ = "8.6.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(MissingError, match=r"must be version 10 or newer\n  got     8\.6\.1"):
        load_tensorrt()


def test_a_timing_cache_grows_and_is_hashed(double: Double, tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    settings = EngineSettings(batch=2, timing_cache=TimingCache(path=path))
    first = build_engine(small_graph(), settings, gpu=GPU).card.timing_cache
    assert double.library.timed_kernels == ["conv", "relu", "pool", "flatten", "fc"]
    assert first is not None
    assert (first.before, first.after) == (None, hashlib.sha256(path.read_bytes()).hexdigest())
    second = build_engine(small_graph(), settings, gpu=GPU).card.timing_cache
    assert second is not None
    assert (second.before, second.after) == (first.after, first.after)
    assert len(double.library.timed_kernels) == 5


def test_a_pinned_cache_times_nothing(double: Double, tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    build_engine(small_graph(), EngineSettings(batch=2, timing_cache=TimingCache(path=path)), gpu=GPU)
    pinned = hashlib.sha256(path.read_bytes()).hexdigest()
    settings = EngineSettings(batch=2, timing_cache=TimingCache(path=path, use="pinned", sha256=pinned))
    card = build_engine(small_graph(), settings, gpu=GPU).card
    assert card.timing_cache is not None
    assert (card.timing_cache.before, card.timing_cache.after) == (pinned, pinned)
    with pytest.raises(TensorRtError, match="timing cache miss for"):
        build_engine(small_graph(extra="Erf"), settings, gpu=GPU)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == pinned


def test_a_cache_that_is_only_read_stays(double: Double, tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    build_engine(small_graph(), EngineSettings(batch=2, timing_cache=TimingCache(path=path)), gpu=GPU)
    before = path.read_bytes()
    settings = EngineSettings(batch=2, timing_cache=TimingCache(path=path, use="read"))
    build_engine(small_graph(extra="Erf"), settings, gpu=GPU)
    assert path.read_bytes() == before
    assert double.library.timed_kernels[-1] == "last"


def test_a_cache_of_another_gpu_is_refused(double: Double, tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    settings = EngineSettings(batch=2, timing_cache=TimingCache(path=path))
    build_engine(small_graph(), settings, gpu=GPU)
    double.library.gpu = "Other GPU"
    with pytest.raises(TensorRtError, match="must be of this GPU and this version of TensorRT"):
        build_engine(small_graph(), settings, gpu=GPU)


@pytest.mark.parametrize(
    ("content", "cache", "message"),
    [
        (None, {"use": "read"}, "there is no timing cache"),
        (b"", {}, "is empty"),
        (b"CACHE{}", {"use": "pinned", "sha256": "00"}, "must have the hash 00"),
        (b"damaged", {}, "must be of this GPU"),
    ],
)
def test_a_bad_cache_is_refused(
    newest: Double, tmp_path: Path, content: bytes | None, cache: dict[str, str], message: str
) -> None:
    path = tmp_path / "timing.cache"
    if content is not None:
        path.write_bytes(content)
    settings = EngineSettings(batch=2, timing_cache=TimingCache(path=path, **cache))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        build_engine(small_graph(), settings, gpu=GPU)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"precision": "int4"},
            "precision 'int4' is not known\n  got     int4\n  known   fp32, tf32, fp16, bf16, int8, fp8",
        ),
        ({"typing": "weak"}, "typing 'weak' is not known"),
        ({"optimization_level": 6}, "0 to 5\n  got     6"),
        ({"workspace_mb": 0}, "at least 1"),
        ({"batch": 0}, "1 <= first <= batch <= last"),
        ({"batch": 9, "batch_range": (1, 8)}, "got     first=1, self.batch=9, last=8"),
    ],
)
def test_settings_are_checked(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EngineSettings(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"damaged", b'CACHE{"origin": "another GPU", "kernels": {}}'])
def test_the_cache_of_hwnas_begins_anew_where_it_does_not_fit(double: Double, tmp_path: Path, content: bytes) -> None:
    cache = TimingCache(path=tmp_path / "folder" / "own.timings", can_be_replaced=True)
    cache.path.parent.mkdir()
    cache.path.write_bytes(content)
    build_engine(small_graph(), EngineSettings(batch=2, timing_cache=cache), gpu=GPU)
    assert len(double.library.timed_kernels) == 5
    build_engine(small_graph(), EngineSettings(batch=2, timing_cache=cache), gpu=GPU)
    assert len(double.library.timed_kernels) == 5


def test_what_another_process_added_meanwhile_is_kept(newest: Double, tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    settings = EngineSettings(batch=2, timing_cache=TimingCache(path=path))
    build_engine(small_graph(), settings, gpu=GPU)
    mine = path.read_bytes()
    build_engine(small_graph(extra="Erf"), settings, gpu=GPU)
    theirs, timed = path.read_bytes(), len(newest.library.timed_kernels)

    def meanwhile() -> None:
        path.write_bytes(theirs)

    path.write_bytes(mine)
    build_engine(small_graph(extra="Relu"), settings, gpu=GPU, on_progress=meanwhile)
    assert len(newest.library.timed_kernels) == timed + 1
    build_engine(small_graph(extra="Erf"), settings, gpu=GPU)
    assert len(newest.library.timed_kernels) == timed + 1


def test_builds_go_on_without_a_cache_of_hwnas_that_cannot_be_written(
    double: Double, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "occupied").write_bytes(b"a file in place of the folder")
    own = TimingCache(path=tmp_path / "occupied" / "own.timings", can_be_replaced=True)
    for _ in range(2):
        card = build_engine(small_graph(), EngineSettings(batch=2, timing_cache=own), gpu=GPU).card
        assert card.timing_cache == TimingCacheHashes(before=None, after=None)
    assert [record.getMessage().split(":")[0] for record in caplog.records if "go on" in record.getMessage()] == [
        f"builds go on without the timing cache {own.path}"
    ]
    named = TimingCache(path=own.path)
    with pytest.raises(InputError):
        build_engine(small_graph(), EngineSettings(batch=2, timing_cache=named), gpu=GPU)


def test_a_cache_is_locked_while_it_is_extended(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []

    def checked(path: Path, data: bytes) -> None:
        with brief_lock(path.parent, timeout_s=0) as is_free:
            held.append(not is_free)
        write_atomic(path, data)

    monkeypatch.setattr(timing_cache, "write_atomic", checked)
    cache = TimingCache(path=tmp_path / "timing.cache")
    build_engine(small_graph(), EngineSettings(batch=2, timing_cache=cache), gpu=GPU)
    assert held == [True]


def test_the_cache_is_named_by_the_environment_or_by_gpu_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    known = {"version": "10.9.0", "gpu": GPU}
    own = choose_timing_cache(environ={}, **known)  # type: ignore[arg-type]
    assert own == TimingCache(path=tmp_path / "tensorrt" / "test-gpu-10.9.0-cuda13.2.timings", can_be_replaced=True)
    named = {"HWNAS_TIMING_CACHE": "shared", "HWNAS_TIMING_CACHE_USE": "pinned"}
    assert choose_timing_cache(environ=named, **known) == TimingCache(path=Path("shared"), use="pinned")  # type: ignore[arg-type]
    assert choose_timing_cache(environ={"HWNAS_TIMING_CACHE": "none"}, **known) is None  # type: ignore[arg-type]


def test_rtx_times_no_kernels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="times no kernels"):
        EngineSettings(library="tensorrt-rtx", timing_cache=TimingCache(path=tmp_path / "timing.cache"))


def test_signs_of_life_come_from_each_step(double: Double) -> None:
    calls: list[int] = []
    build_engine(small_graph(), EngineSettings(batch=2), gpu=GPU, on_progress=lambda: calls.append(1))
    assert len(calls) >= 5


def test_an_engine_of_rtx_is_for_the_gpu_of_the_machine(rtx_double: Double) -> None:
    settings = EngineSettings(library="tensorrt-rtx", batch=2)
    built = build_engine(small_graph(), settings, gpu=ADA)
    assert about(built.engine)["targets"] == ["SM89"]
    assert "REQUIRE_USER_ALLOCATION" in about(built.engine)["flags"]  # type: ignore[operator]
    assert (built.card.gpu, built.card.num_layers) == (ADA, 5)
    hopper = dataclasses.replace(ADA, reported="NVIDIA H100", compute_capability="9.0")
    with pytest.raises(InputError, match="must know their compute capability"):
        build_engine(small_graph(), settings, gpu=hopper)


def test_where_the_inspector_is_silent_the_table_is_that_of_the_network(rtx_double: Double) -> None:
    rtx_double.library.inspects = False
    built = build_engine(small_graph(), EngineSettings(library="tensorrt-rtx", batch=2), gpu=ADA)
    assert json.loads(built.layers)["Layers"] == ["conv", "relu", "pool", "flatten", "fc"]
    assert built.card.warnings == (NO_LAYER_TABLE,)


def test_a_growing_cache_has_no_fixed_hash(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot keep its hash"):
        TimingCache(path=tmp_path, sha256="00")


@pytest.mark.parametrize(
    "text",
    [
        "[checkMacros.cpp::catchCudaError::272] Error Code 1: Cuda Runtime (an illegal memory access was encountered)",
        "Error Code 1: Myelin ([exec_instruction.cpp] unspecified launch failure)",
    ],
)
def test_an_error_that_breaks_the_context_is_a_crash(text: str) -> None:
    message = TensorRtMessage(severity="ERROR", text=text)
    found = failure("TensorRT must build an engine", [message])
    assert isinstance(found, TensorRtError)
    assert found.kind == "crash"
    assert "encountered" in str(found.got) or "launch failure" in str(found.got)
    assert REASONS[found.kind] == "crash"


def test_an_allocation_that_cuda_refuses_is_one_of_memory() -> None:
    text = "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 2: out of memory)"
    error = failure("it must run", [TensorRtMessage(severity="ERROR", text=text)])
    assert isinstance(error, TensorRtError)
    assert (error.kind, error.got) == ("memory", text)


def test_the_missing_driver_is_no_reason_beside_another_one() -> None:
    noise = "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version ...)"
    texts = ("Error Code 4: Internal Error (the profile does not fit)", noise)
    error = failure("it must build", [TensorRtMessage(severity="ERROR", text=text) for text in texts])
    assert isinstance(error, TensorRtError)
    assert (error.kind, error.got) == ("build", texts[0])
