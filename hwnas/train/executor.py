"""Interface of executors, which let other processes or machines evaluate networks in place of this process.

What an executor returns is plain values, as the file of accuracies holds them: they may come from another process or
another machine.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from hwnas.metrics import QualityMetric
from hwnas.space.arch import Arch

Row = Mapping[str, Any]
"""Quality of one network: `top1`, `top5`, `loss`, `count` and perhaps `hits`, or a `value` alone."""

EvalPrecision = Literal["fp32", "bf16", "fp8", "int8", "int8-dynamic"]
"""Networks run in float32, under autocast to bfloat16, or rounded as their graphs in fp8 and int8 are."""

EvaluationCallback = Callable[[int, int], None]
"""Receives the number of evaluated networks, and of images that those of the current pass have been run on."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """The quality that networks are evaluated for."""

    name: QualityMetric = "accuracy"
    precision: EvalPrecision = "fp32"
    """Precision that accuracy is evaluated in."""
    keep_hits: bool = False
    """Return which images are classified correctly."""


class Executor(Protocol):
    """Evaluates networks. The row of a network depends on nothing but the network and the measure."""

    def evaluate(
        self, archs: Mapping[str, Arch], measure: Measure, *, progress: EvaluationCallback | None = None
    ) -> Iterator[tuple[str, Row]]:
        """Yield the id and the row of each network as soon as it is known, in any order.

        Args:
            archs: The networks by id.
            measure: What they are evaluated for.
            progress: Called with the number of networks that are done, and of images that the current ones were run on.

        Raises:
            InputError: The outputs of a network are not finite, or a network cannot be evaluated.
        """
