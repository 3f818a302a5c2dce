"""Campaigns that are killed at random moments and started again; only tests start it.

    python -m tests.profile.killed FOLDER KILLS

Prints one JSON document: how many were killed in the middle, and the command of the last one.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ARGUMENTS = (
    *("profile", "--space", "autoformer-micro", "--device", "cpu", "--runtime", "onnxruntime"),
    *("--samples", "30", "--repeats", "6", "--pairs", "8", "--no-reference-networks"),
)
EARLIEST_S, LATEST_S = 0.5, 12.0
"""A campaign is killed so long after its first line of this session is on the disk, or before it."""


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "hwnas", *ARGUMENTS, "--out", str(folder)]


def lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("measurements.jsonl"))


def killed(folder: Path, rng: random.Random) -> dict[str, int | bool]:
    """One campaign, ended by SIGKILL at a moment of the generator's choice; its lines before and after."""
    before = lines(folder)
    campaign = subprocess.Popen(command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_line = rng.random() < 0.8  # else it dies while it starts
    limit = time.monotonic() + 900
    while wait_for_line and campaign.poll() is None and lines(folder) == before and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(rng.uniform(EARLIEST_S, LATEST_S))
    alive = campaign.poll() is None
    if alive:
        os.kill(campaign.pid, signal.SIGKILL)
    campaign.wait()
    return {"before": before, "after": lines(folder), "killed": alive}


def main() -> None:
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    seed = int.from_bytes(os.urandom(4), "little")
    rng = random.Random(seed)
    sessions = [killed(folder, rng) for _ in range(kills)]
    last = subprocess.run(command(folder), capture_output=True, text=True, check=False)
    print(
        json.dumps(
            {"seed": seed, "sessions": sessions, "code": last.returncode, "out": last.stdout, "err": last.stderr}
        )
    )


if __name__ == "__main__":
    main()
