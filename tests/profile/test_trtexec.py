"""trtexec: finding it, its command, and its output, written in the format of its source (`sampleReporting.cpp`)."""

import stat
from pathlib import Path

import pytest

from hwnas.errors import InputError, MissingError
from hwnas.profile import trtexec as trtexec_module
from hwnas.profile.trtexec import TrtexecSummary, find_trtexec, parse_trtexec, run_trtexec

OUTPUT = Path(__file__).with_name("trtexec_output.txt").read_text()


def script(folder: Path, body: str) -> Path:
    """A program that stands in for trtexec."""
    path = folder / "trtexec"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_summary_is_read() -> None:
    assert parse_trtexec(OUTPUT) == TrtexecSummary(
        version="10.13.3",
        compute_ms=0.8225,
        enqueue_ms=0.00671387,
        queries_per_s=1206.79,
        warnings=("GPU compute time is unstable, with coefficient of variance = 3.1415%.",),
    )


def test_lines_without_a_time_are_read_too() -> None:
    bare = "\n".join(line.split("] ", 1)[-1] if line.startswith("[11/") else line for line in OUTPUT.splitlines())
    assert "[I] Throughput" in bare
    assert parse_trtexec(bare) == parse_trtexec(OUTPUT)


@pytest.mark.parametrize(("number", "version"), [("101303", "10.13.3"), ("8601", "8.6.1"), ("110100", "11.1.0")])
def test_the_version_of_the_first_line(number: str, version: str) -> None:
    text = OUTPUT.replace("TensorRT version: 10.13.3", "").replace("v101303", f"v{number}")
    assert parse_trtexec(text).version == version
    assert parse_trtexec(text.replace(f"[TensorRT v{number}]", "")).version == ""


@pytest.mark.parametrize(
    ("text", "code", "got"),
    [
        (
            "&&&& RUNNING TensorRT.trtexec [TensorRT v101303]\n"
            "[11/29/2026-01:02:03] [E] Error[6]: The engine plan file is not compatible with this version of TensorRT\n"
            "[11/29/2026-01:02:03] [E] Engine deserialization failed\n"
            "&&&& FAILED TensorRT.trtexec [TensorRT v101303]",
            1,
            "exit code 1: Error[6]: The engine plan file is not compatible with this version of TensorRT",
        ),
        (OUTPUT, 1, "exit code 1: &&&& PASSED"),
        (OUTPUT.replace("GPU Compute Time: min", "GPU Compute Time: least"), 0, "exit code 0"),
        ("", 0, "exit code 0: no output"),
    ],
)
def test_a_run_without_times_is_an_error(text: str, code: int, got: str) -> None:
    text = text.replace("GPU Compute Time: least = 0.801758 ms, max = 0.894043 ms, mean = 0.824109 ms, median =", "x")
    with pytest.raises(InputError, match="trtexec must time the engine") as caught:
        parse_trtexec(text, code=code)
    assert str(caught.value.got).startswith(got)
    assert "same version of TensorRT" in str(caught.value.hint)


def test_it_is_found_on_the_path_or_where_nvidia_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = script(tmp_path, "exit 0")
    assert find_trtexec(lambda name: str(program)) == program
    monkeypatch.setattr(trtexec_module, "_FOLDERS", (tmp_path / "none", tmp_path))
    assert find_trtexec(lambda name: None) == program
    monkeypatch.setattr(trtexec_module, "_FOLDERS", (tmp_path / "none",))
    with pytest.raises(MissingError, match="trtexec is not installed") as caught:
        find_trtexec(lambda name: None)
    assert "libnvinfer-bin" in str(caught.value.hint)


def test_it_is_run_on_the_engine_and_the_gpu(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = script(
        tmp_path, f'echo "$CUDA_VISIBLE_DEVICES $@" > {log}\ncat {Path(__file__).parent}/trtexec_output.txt'
    )
    assert run_trtexec(program, tmp_path / "a.engine", gpu="GPU-1").compute_ms == 0.8225
    words = log.read_text().split()
    assert words[0] == "GPU-1"
    assert f"--loadEngine={tmp_path}/a.engine" in words
    assert {"--useCudaGraph", "--noDataTransfers", "--useSpinWait"} <= set(words)


def test_programs_that_do_not_run_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="must be a program"):
        run_trtexec(tmp_path / "nothing", tmp_path / "a.engine")
    monkeypatch.setattr(trtexec_module, "_LIMIT_S", 0.1)
    with pytest.raises(InputError, match="must end within"):
        run_trtexec(script(tmp_path, "exec sleep 5"), tmp_path / "a.engine")
