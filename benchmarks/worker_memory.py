"""Growth of a worker process over many networks: its resident memory after each of them.

    python -m benchmarks.worker_memory [--space autoformer-micro] [--networks 500] [--save]

One process measures all networks with ONNX Runtime on this CPU, without the limits after which a campaign replaces it.
The first tenth warms up libraries and the cache of graph templates. Growth is from the median of the second tenth to
the median of the last.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.support.saving import asked, save
from hwnas.devices import detect
from hwnas.metrics import Deployment
from hwnas.profile.sampling import sample_evenly
from hwnas.profile.subjects import space_subject
from hwnas.profile.worker import Worker, WorkerLimits
from hwnas.profile.worker_messages import MeasurementTask
from hwnas.records import Setting
from hwnas.space import SPACES

PAIRS = 8
HEADER = ("networks", "failed", "second tenth, MB", "last tenth, MB", "growth")


def resident_mb(pid: int) -> float:
    """Return the resident memory of another process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    """Print a table, and save it with `--save`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="autoformer-micro")
    parser.add_argument("--networks", type=int, default=500)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    space, device = SPACES.get(options.space), detect().cpu.slug
    setting = Setting(deployment=Deployment(device=device, runtime="onnxruntime", precision="fp32", batch=1, threads=1))
    subjects = [space_subject(space, candidate) for candidate in sample_evenly(space, options.networks, seed=0)]
    # Small networks are timed against a small one: DeiT-Ti would take most of the time.
    task = MeasurementTask(subject=subjects[0], setting=setting, seed=0, pairs=PAIRS, reference=subjects[0])
    resident: list[float] = []
    failed = 0
    with Worker(limits=WorkerLimits(tasks=10**9, resident_mb=1e9)) as worker:
        for subject in subjects:
            failed += worker.measure(replace(task, subject=subject)).failure is not None
            assert worker.pid is not None, "the process was replaced"
            resident.append(resident_mb(worker.pid))
    tenth = max(1, len(resident) // 10)
    before, after = median(resident[tenth : 2 * tenth]), median(resident[-tenth:])
    row = (str(len(resident)), str(failed), f"{before:.0f}", f"{after:.0f}", f"{after / before - 1:+.1%}")
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (HEADER, ("--:",) * len(HEADER), row))
    print(table)
    if options.save:
        title = f"Memory of a worker process over {len(resident)} networks"
        command = f"python -m benchmarks.worker_memory {asked()}".strip()
        print(save(table, name="worker_memory", device=device, title=title, command=command, notes=""))


if __name__ == "__main__":
    main()
