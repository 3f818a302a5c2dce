"""Groups of measured networks to fit: each space separately, and everything measured in one deployment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hwnas.pipeline.predictors.dataset import MeasuredNetworks, of_space, pooled
from hwnas.predict.selection import MIN_NETWORKS


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A profile that was not fitted, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Profiles to fit, and profiles left out."""

    fitted: tuple[MeasuredNetworks, ...]
    left_out: tuple[LeftOut, ...] = ()


def grouped(parts: Sequence[MeasuredNetworks], *, space: str | None = None, mixed: bool = False) -> Groups:
    """Each space in each deployment, then all networks of each deployment; with `space` that space alone.

    Of two profiles that differ in nothing but their environment the newer one counts; `mixed` puts them together.
    """
    kept, older = _newest(parts, mixed=mixed)
    fitted = list(_spaces(kept, only=space))
    left_out = list(older)
    for found in _everything(kept, mixed=mixed) if space is None else ():
        if isinstance(found, LeftOut):
            left_out.append(found)
        else:
            fitted.append(found)
    return Groups(fitted=tuple(fitted), left_out=tuple(left_out))


def _newest(parts: Sequence[MeasuredNetworks], *, mixed: bool) -> tuple[list[MeasuredNetworks], Iterator[LeftOut]]:
    groups: dict[tuple[str, str], list[MeasuredNetworks]] = {}
    for part in sorted(parts, key=lambda part: part.created_utc):
        groups.setdefault((part.main_kind, part.deployment.slug), []).append(part)
    if mixed:
        return [_together(same) for same in groups.values()], iter(())
    older = (
        LeftOut(name=part.name, reason=f"{same[-1].name} is newer (--mixed fits both)")
        for same in groups.values()
        for part in same[:-1]
    )
    return [same[-1] for same in groups.values()], older


def _spaces(parts: Sequence[MeasuredNetworks], *, only: str | None) -> Iterator[MeasuredNetworks]:
    for part in parts:
        if part.main_kind in ((only,) if only else {*part.kinds} - {"timm"}):
            yield of_space(part, part.main_kind)


def _everything(parts: Sequence[MeasuredNetworks], *, mixed: bool) -> Iterator[MeasuredNetworks | LeftOut]:
    deployments: dict[str, list[MeasuredNetworks]] = {}
    for part in parts:
        deployments.setdefault(part.deployment.slug, []).append(part)
    for slug, same in deployments.items():
        name = f"any-{slug}"
        environments = {environment for part in same for environment in part.environments}
        if len({kind for part in same for kind in part.kinds}) == 1 and same[0].main_kind != "timm":
            continue  # that is the space's own predictor
        if len(environments) > 1 and not mixed:
            names = ", ".join(part.name for part in same)
            reason = f"{names} were measured in different environments (--mixed fits them together)"
            yield LeftOut(name=name, reason=reason)
        elif sum(map(len, same)) >= MIN_NETWORKS:
            yield pooled(same, name=name)


def _together(same: Sequence[MeasuredNetworks]) -> MeasuredNetworks:
    return same[0] if len(same) == 1 else pooled(same, name=" and ".join(part.name for part in same))
