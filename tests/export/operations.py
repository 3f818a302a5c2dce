"""Operations in the form that tests compare."""

from dataclasses import replace

from hwnas.workload import Operation, Workload


def without_traits(workload: Workload) -> tuple[Operation, ...]:
    """Return the operations of a workload without their traits."""
    return tuple(replace(operation, traits=()) for operation in workload.operations)
