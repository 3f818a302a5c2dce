"""Formatting of metric values for people."""

from hwnas.report.data import MetricInfo


def shown(metric: MetricInfo, value: float | None) -> str:
    """Format a value with its unit: `75.1 %`, `1.26 G MACs`, `8.31 ms`."""
    if value is None:
        return "unknown"
    if metric.name == "accuracy":
        return f"{100 * value:.1f} % accuracy"
    if metric.name in ("macs", "params"):
        return f"{counted(value)} {'MACs' if metric.name == 'macs' else 'parameters'}"
    return f"{three_digits(value)} {metric.unit}"


def counted(value: float) -> str:
    """Format a count with a prefix: `1.26 G`."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return three_digits(value / factor) + prefix
    return f"{value:g}"


def three_digits(value: float) -> str:
    """Format with at least three digits, without an exponent where possible."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.{1 if abs(value) >= 10 else 2}f}"


def percent(share: float | None, *, digits: int = 1) -> str:
    """Format a share as a percentage."""
    return "unknown" if share is None else f"{100 * share:.{digits}f} %"
