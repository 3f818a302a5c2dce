import json
import re

import pytest

from hwnas.profile.runtime_profile import RuntimeProfile, TimedNodes
from tests.cli.commands import CommandLine, command_line

__all__ = ["command_line"]


def test_operations_are_listed_by_their_share(command_line: CommandLine) -> None:
    assert command_line("explain", "autoformer-tiny", "AutoFormer-T", "--device", "a100", "--precision", "bf16") == 0
    lines = command_line.out.splitlines()
    assert lines[0] == "autoformer-tiny 26f765679e99d31f on a100, bf16, batch 1"
    assert re.fullmatch(r"Roofline: \d\.\d{3} ms, without fusion and without launch overhead", lines[2])
    assert lines[3].split() == ["operation", "kind", "number", "macs", "flop/byte", "us", "share", "bound", "by"]
    assert any(line.startswith("blocks.*.fc1 ") and " 334,061,568 " in line for line in lines)
    assert any(re.match(r"- attention takes \d+% of the time, the MLPs take \d+%$", line) for line in lines)


def test_every_operation_is_listed_when_asked(command_line: CommandLine) -> None:
    arguments = ("explain", "autoformer-tiny", "AutoFormer-T", "--device", "a100", "--operations")
    assert command_line(*arguments) == 0
    assert re.search(r"^blocks\.12\.fc2 +linear +\d+,\d+,\d+ ", command_line.out, re.MULTILINE)


def test_json_is_one_document(command_line: CommandLine) -> None:
    assert command_line("explain", "glit-tiny", "GLiT-T", "--device", "h100", "--batch", "64", "--json") == 0
    document = json.loads(command_line.out)
    assert (document["deployment"]["device"], document["deployment"]["batch"], document["measured"]) == (
        "h100",
        64,
        None,
    )
    assert document["roofline_ms"] > 0
    assert {"name", "part", "time_ms", "macs", "bytes_moved"} <= document["operations"][0].keys()


def test_the_profile_of_the_runtime_is_printed_here(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = tuple(TimedNodes(name=f"Kind{number}", time_ms=0.5, share=0.05, num_nodes=3) for number in range(20))
    profile = RuntimeProfile(runtime="onnxruntime", total_ms=10.0, by_kind=nodes, by_segment=nodes[:1])
    monkeypatch.setattr("hwnas.pipeline.explain.runtime_profile", lambda subject, setting: profile)
    assert command_line("explain", "autoformer-micro", "min", "--device", "cpu") == 0
    assert "Measured by the profiler of onnxruntime, including its own overhead: 10.000 ms" in command_line.out
    assert re.search(r"^kind of node +nodes +ms +share$", command_line.out, re.MULTILINE)
    assert re.search(r"^Kind15 +3 +0\.500 +5\.0%$", command_line.out, re.MULTILINE)
    assert re.search(r"^4 more +12 +2\.000 +20\.0%$", command_line.out, re.MULTILINE)
    assert "Operations (the peak rates of this device are not known: shares are shares of MACs)" in command_line.out


def test_what_nothing_is_known_of_ends_with_3(command_line: CommandLine) -> None:
    assert command_line("explain", "autoformer-micro", "min", "--device", "v100", "--precision", "bf16") == 3
    assert "its datasheet has no bf16 rate" in command_line.err
