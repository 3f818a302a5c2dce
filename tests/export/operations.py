"""Operations as tests compare them: by what they are, or by their traits alone."""

from dataclasses import replace

from hwnas.workload import Operation, Workload


def without_traits(workload: Workload) -> tuple[Operation, ...]:
    """The operations by their sizes alone."""
    return tuple(replace(operation, traits=()) for operation in workload.operations)
