"""`hwnas profile`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwnas.cli.ending import print_ending
from hwnas.cli.options import given_options, json_option
from hwnas.cli.output import print_json, print_line
from hwnas.cli.progress import console_reporter
from hwnas.cli.quality import print_quality, quality_values
from hwnas.data_paths import PROFILES
from hwnas.errors import UsageError
from hwnas.pipeline.measure import MeasureResult, measure, measure_plan
from hwnas.profile.environment import CampaignEnvironment
from hwnas.profile.options import CampaignOptions
from hwnas.profile.plan import WrittenPlan, write_plan
from hwnas.profile.results import require_measured, require_stable

if TYPE_CHECKING:
    from hwnas.pipeline.measure_until import StoppingRule

_OF_THE_RUN = ("plan", "out", "new", "retry", "strict", "limit_minutes", "until", "order", "as_json", "plan_only")
"""Parameters that say how a campaign runs; the others say what it measures, which a plan does too."""


class BatchesType(click.ParamType[tuple[int, ...]]):
    """Numbers parted by commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers; checked where they are used."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not whole numbers parted by commas", param, ctx)


@click.command()
@click.option("--space", default="autoformer-tiny", show_default=True, help="The space whose networks are measured.")
@click.option("--device", default="auto", show_default=True, help="A device of this machine, or with --plan-only any.")
@click.option("--samples", type=int, help="Networks of the space, beside the published ones (100).")
@click.option("--minutes", type=float, help="Measure for so long, in place of --samples.")
@click.option("--batch", "batches", type=BatchesType(), default="1", show_default=True, help="Batches, as in 1,8,64.")
@click.option("--precision", default="fp32", show_default=True, help="fp32, tf32, fp16, bf16 or int8.")
@click.option("--runtime", default="auto", show_default=True, help="The runtime; auto takes the best one present.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of a CPU runtime.")
@click.option("--pairs", type=int, default=24, show_default=True, help="Runs of each network beside the reference.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides networks, weights and order.")
@click.option("--repeats", type=int, help="Networks measured twice, for the noise floor (one in eight, at least 12).")
@click.option("--also", multiple=True, metavar="timm:NAME", help="A model of timm beside them; may be repeated.")
@click.option(
    "--landmarks/--no-landmarks",
    "reference_networks",
    default=True,
    show_default=True,
    help="Measure DeiT-Ti and DeiT-S as well.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help=f"The folder of profiles ({PROFILES}), or the plan's file."
)
@click.option("--new", is_flag=True, help="Begin a profile of its own beside the one that is there.")
@click.option("--retry", is_flag=True, help="Try again what failed.")
@click.option("--strict", is_flag=True, help="End with code 4 where the measurements are not stable.")
@click.option("--until", metavar="mape=3%", help="Measure in rounds until a predictor is as good; --samples at most.")
@click.option("--order", default="spread", show_default=True, help="With --until: networks spread evenly, or active.")
@click.option("--limit-minutes", type=float, help="Give a network up after so long (60), however it goes on.")
@click.option("--plan-only", is_flag=True, help="Measure nothing, and write the plan to --out.")
@click.option("--plan", type=click.Path(path_type=Path), help="Measure what a plan says.")
@json_option
@click.pass_context
def profile(
    context: click.Context,
    /,
    *,
    out: Path | None,
    new: bool,
    retry: bool,
    strict: bool,
    limit_minutes: float | None,
    until: str | None,
    order: str,
    plan_only: bool,
    plan: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Time networks of a space on a device, each in strict pairs with DeiT-Ti.

    The same command again goes on where it was ended; what is measured is not measured again. To measure on another
    machine: --plan-only --out plan.jsonl here, --plan plan.jsonl there, and bring its folder of profiles back.
    """
    _require_one_source(context, plan=plan, plan_only=plan_only, out=out)
    goal = _goal(until, order, planned=plan_only or plan is not None)
    if plan_only:
        _print_planned(write_plan(CampaignOptions(**asked), out or Path()), as_json=as_json)
        return
    request = CampaignOptions(**asked, out=out or Path(PROFILES))
    place = None if limit_minutes is None else CampaignEnvironment.here(limit_s=60 * limit_minutes)
    with console_reporter() as reporter:
        try:
            if plan is None:
                measured = measure(
                    request, new=new, retry=retry, until=goal, reporter=reporter, campaign_environment=place
                )
            else:
                measured = measure_plan(
                    plan, out=request.out, new=new, retry=retry, reporter=reporter, campaign_environment=place
                )
        except KeyboardInterrupt as stopped:
            asked_for = (*request.command(), *(goal.words if goal else ()))
            again = asked_for if plan is None else ("hwnas", "profile", "--plan", str(plan), *_out(out))
            message = f"everything measured is kept\n  try     {shlex.join(again)}"
            raise KeyboardInterrupt(message) from stopped
    _print_measured(measured, folder=out, as_json=as_json)
    qualities = [(item.name, item.quality) for item in measured.profiles]
    require_measured(qualities)
    if strict:
        require_stable(qualities)


def _require_one_source(context: click.Context, *, plan: Path | None, plan_only: bool, out: Path | None) -> None:
    """A plan says what is measured: options that say so too are refused beside it."""
    if plan_only and (plan is not None or out is None):
        raise UsageError("--plan-only needs a file to write to, and no plan", hint="--plan-only --out plan.jsonl")
    if plan is None:
        return
    given = given_options(context, except_for=_OF_THE_RUN)
    if given:
        raise UsageError("--plan says what is measured", got=" ".join(given), hint=f"hwnas profile --plan {plan}")


def _goal(until: str | None, order: str, *, planned: bool) -> "StoppingRule | None":
    if until is None:
        if order != "spread":
            raise UsageError("--order says how --until chooses networks", got=order, hint="--until mape=3%")
        return None
    if planned:
        raise UsageError("--until needs the device: what is measured follows from what was", got="a plan")
    from hwnas.pipeline.measure_until import parse_until  # it fits models, which measuring alone does not need

    return parse_until(until, order=order)


def _out(out: Path | None) -> tuple[str, ...]:
    return () if out is None else ("--out", str(out))


def _print_planned(planned: WrittenPlan, *, as_json: bool) -> None:
    if as_json:
        print_json(planned)
        return
    print_line(f"{planned.path}: {planned.num_tasks} measurements of {planned.num_networks} networks")
    print_line(f"on a machine with {planned.device}: hwnas profile --plan {planned.path.name}")
    print_line(f"then bring its folder {PROFILES}/{planned.device} back")


def _print_measured(measured: MeasureResult, *, folder: Path | None, as_json: bool) -> None:
    if as_json:
        values = {name: getattr(measured, name) for name in measured.__dataclass_fields__}
        profiles = [
            {"name": item.name, "path": item.path, "quality": quality_values(item.quality)}
            for item in measured.profiles
        ]
        print_json({**values, "profiles": profiles})
        return
    deployment = measured.deployment
    left = f", {measured.num_left} left" if measured.num_left else ""
    print_line(
        f"{measured.num_measured} measured with {deployment.runtime} on {deployment.device}, "
        f"{measured.num_failed} failed, {measured.num_skipped} done before{left}"
    )
    for item in measured.profiles:
        print_line()
        print_quality(str(item.path), item.quality)
    print_line()
    elsewhere = () if folder is None else ("--profiles", folder)
    print_ending(("hwnas", "fit", "--device", deployment.device, *elsewhere))
