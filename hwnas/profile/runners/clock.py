"""The clocks of one run on a CPU: wall, the thread's own CPU time, and how often it was interrupted."""

import resource
import time
from collections.abc import Callable

from hwnas.profile.runners.runner import Sample

_THREAD = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
"""Only Linux counts for one thread."""


def run_timed(run: Callable[[], object], *, threads: int) -> Sample:
    """Run once on the CPU.

    CPU time is that of this thread, which says nothing where others share the work; interruptions are then counted
    over the whole process.
    """
    who = _THREAD if threads == 1 else resource.RUSAGE_SELF
    switches = resource.getrusage(who).ru_nivcsw
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    run()
    cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
    return Sample(
        wall_ns=wall,
        cpu_ns=cpu if threads == 1 else None,
        switches=resource.getrusage(who).ru_nivcsw - switches,
    )
