"""Groups of measured networks to fit: each space separately, and everything measured in one deployment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hwnas.pipeline.predictors.measured_networks import MeasuredNetworks, pool_profiles, select_space
from hwnas.predict.calibrated import MIN_CALIBRATION
from hwnas.records.manifest import torch_version


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A profile that was not fitted, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ProfileGroups:
    """Measured networks to fit, each with a predictor of its own, and profiles left out."""

    to_fit: tuple[MeasuredNetworks, ...]
    left_out: tuple[LeftOut, ...] = ()


def group_profiles(
    parts: Sequence[MeasuredNetworks], *, space: str | None = None, mixed: bool = False
) -> ProfileGroups:
    """Group profiles for fitting: each space in each deployment, then all networks of each deployment.

    Args:
        parts: The profiles.
        space: Fit this space only.
        mixed: Combine profiles that differ in their environment alone, instead of taking the newest.
    """
    kept, older = _newest(parts, mixed=mixed)
    profiled_spaces = [
        part for part in kept if part.main_space_name in ((space,) if space else {*part.space_names} - {"timm"})
    ]
    fitted = [select_space(part, part.main_space_name) for part in profiled_spaces]
    left_out = list(older)
    for group in _by_deployment(kept, mixed=mixed) if space is None else ():
        if isinstance(group, LeftOut):
            left_out.append(group)
        else:
            fitted.append(group)
    return ProfileGroups(to_fit=tuple(fitted), left_out=tuple(left_out))


def _newest(parts: Sequence[MeasuredNetworks], *, mixed: bool) -> tuple[list[MeasuredNetworks], Iterator[LeftOut]]:
    groups: dict[tuple[str, str], list[MeasuredNetworks]] = {}
    for part in sorted(parts, key=_age):
        groups.setdefault((part.main_space_name, part.deployment.slug), []).append(part)
    if mixed:
        pools = (
            same[0] if len(same) == 1 else pool_profiles(same, name=" and ".join(part.name for part in same))
            for same in groups.values()
        )
        return list(pools), iter(())
    older = (
        LeftOut(name=part.name, reason=f"{same[-1].name} is newer (--mixed fits both)")
        for same in groups.values()
        for part in same[:-1]
    )
    return [same[-1] for same in groups.values()], older


def _age(part: MeasuredNetworks) -> tuple[tuple[int, ...], str]:
    """Return the sort key of profiles of one deployment, oldest first.

    A table was created when it was imported, which says nothing: its version of torch counts.
    """
    return () if part.subjects else torch_version(part.environment), part.created_utc


def _by_deployment(parts: Sequence[MeasuredNetworks], *, mixed: bool) -> Iterator[MeasuredNetworks | LeftOut]:
    deployments: dict[str, list[MeasuredNetworks]] = {}
    for part in parts:
        deployments.setdefault(part.deployment.slug, []).append(part)
    for slug, same in deployments.items():
        name = f"any-{slug}"
        environments = {environment for part in same for environment in part.environments}
        if len({name for part in same for name in part.space_names}) == 1 and same[0].main_space_name != "timm":
            continue  # the predictor of the space itself
        if len(environments) > 1 and not mixed:
            names = ", ".join(part.name for part in same)
            reason = f"{names} were measured in different environments (--mixed fits them together)"
            yield LeftOut(name=name, reason=reason)
        elif (count := sum(map(len, same))) < MIN_CALIBRATION:
            yield LeftOut(name=name, reason=f"{count} networks, at least {MIN_CALIBRATION} are needed")
        else:  # few networks may adapt a model of other devices; a fit of their own says that it needs more
            yield pool_profiles(same, name=name)
