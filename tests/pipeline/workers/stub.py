"""A worker process without torch: `python -m tests.pipeline.workers.stub`. Only tests start it.

The value of a network is the sum of its widths. One without widths ends the process, and one of width 13 is an error.
"""

import json
import os
import signal
import time
from typing import Any

from hwnas.profile.worker_process import die_with_parent, open_channel

FACTS = {"hwnas": "1", "torch": "2", "device": "stub"}


def value(arch: dict[str, Any]) -> float:
    return float(sum(arch["widths"]))


def answer(request: dict[str, Any]) -> dict[str, Any]:
    if "open" in request:
        print("opened", flush=True)
        if request["open"]["data"] == "missing":
            return {"error": {"kind": "InputError", "message": "there is no dataset", "got": "missing"}}
        if request["open"]["data"] == "dies":
            os._exit(5)
        return {"facts": FACTS}
    archs = request["batch"]["archs"]
    if any(not arch["widths"] for arch in archs):
        os.kill(os.getpid(), signal.SIGKILL)
    if any(13 in arch["widths"] for arch in archs):
        return {"error": {"kind": "InputError", "message": "13 is not finite", "hint": "12"}}
    time.sleep(max(arch.get("sleep_s", 0.0) for arch in archs))
    return {"result": {"rows": [{"value": value(arch)} for arch in archs]}}


def main() -> None:
    die_with_parent()
    channel = open_channel()

    def send(message: dict[str, Any]) -> None:
        channel.sendall(json.dumps(message).encode() + b"\n")

    send({"ready": "stub"})
    with channel.makefile("r", encoding="utf-8") as requests:
        for line in requests:
            send(answer(json.loads(line)))


if __name__ == "__main__":
    main()
