"""How far measurements that hosts made over ssh lie from those made here, beside how far two made here lie apart.

    python -m benchmarks.hosts --on one,two [--remote-python PYTHON] [--space autoformer-tiny] [--rounds 3] [--save]

Give hosts that are this machine itself, such as two addresses of an sshd of its own: other hosts have another speed.
Each round measures the same networks here and on the hosts, in alternating order, each time as a new campaign. Compared
are the latencies of networks in units of DeiT-Ti (`noise`: the mean error of one measurement, from pairs of them, as in
a profile's noise floor; `shift`: by how much the second of a pair is larger, in the median), and the time of DeiT-Ti.
A campaign of the hosts is as exact as one here if the noise of `here, hosts` is no larger than that of `here, here`.
"""

import argparse
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.support.saving import Line, asked, markdown, printed, save
from hwnas.devices import detect
from hwnas.pipeline.measure import measure
from hwnas.profile.options import CampaignOptions
from hwnas.profile.remote.host import RemoteHosts, parse_hosts
from hwnas.profile.results import assess_profile, results_by_network
from hwnas.profile.statistics import noise_floor
from hwnas.records import load_profile

HEADER: Line = ("campaigns", "pairs", "noise", "shift", "shift of DeiT-Ti's time")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A campaign."""

    place: str
    reference_ms: float
    ratios: dict[str, float]
    """Latency in units of the reference network's, by network."""


def campaign(place: str, options: CampaignOptions, arguments: argparse.Namespace) -> Measured:
    """Measure the networks here, or on the hosts."""
    with tempfile.TemporaryDirectory() as folder:
        asked_for = CampaignOptions(**{**vars(options), "out": Path(folder)})
        if place == "here":
            done = measure(asked_for)
        else:
            with RemoteHosts(parse_hosts(arguments.on, python=arguments.remote_python), on_message=print) as remote:
                done = measure(asked_for, campaign_environment=remote.environment())
        profile = load_profile(done.profiles[0].path)
    reference_ms = assess_profile(profile).reference_ms
    if reference_ms is None:
        raise SystemExit(f"{place}: nothing was measured")
    results = results_by_network(profile)
    ratios = {name: row.latency_ms / reference_ms for name, row in results.items() if row.latency_ms is not None}
    print(f"{place}: {len(ratios)} networks, DeiT-Ti {reference_ms:.2f} ms", flush=True)
    return Measured(place=place, reference_ms=reference_ms, ratios=ratios)


def lines(campaigns: Sequence[Measured]) -> Iterator[Line]:
    """Return a line for all pairs of campaigns of each kind."""
    for first_place, second_place in (("here", "here"), ("hosts", "hosts"), ("here", "hosts")):
        pairs = [
            pair if pair[0].place == first_place else pair[::-1]
            for pair in itertools.combinations(campaigns, 2)
            if sorted(one.place for one in pair) == sorted((first_place, second_place))
        ]
        for first, second in pairs:
            known = sorted(first.ratios.keys() & second.ratios.keys())
            floor = noise_floor([(first.ratios[name], second.ratios[name]) for name in known])
            if floor is None:
                raise SystemExit(f"more networks are needed than {len(known)}")
            yield (
                f"{first_place}, {second_place}",
                str(floor.num_networks),
                f"{100 * floor.mean_error:.2f} %",
                f"{100 * floor.shift:+.2f} %",
                f"{100 * (second.reference_ms / first.reference_ms - 1):+.2f} %",
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", required=True, help="hosts, as for hwnas profile")
    parser.add_argument("--remote-python", default="python3")
    parser.add_argument("--space", default="autoformer-tiny")
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    options = CampaignOptions(
        space=arguments.space,
        samples=arguments.samples,
        runtime=arguments.runtime,
        pairs=arguments.pairs,
        repeats=0,
        reference_networks=False,
    )
    order = [("here", "hosts") if number % 2 == 0 else ("hosts", "here") for number in range(arguments.rounds)]
    campaigns = [campaign(place, options, arguments) for places in order for place in places]
    made = printed(lines(campaigns))
    if arguments.save:
        device = detect().cpu.slug
        notes = "Hosts are addresses of this machine. One line for each pair of campaigns."
        command = f"python -m benchmarks.hosts {asked()}"
        print(
            save(
                markdown(HEADER, made),
                name="hosts",
                device=device,
                title="Campaigns here and on hosts",
                command=command,
                notes=notes,
            )
        )


if __name__ == "__main__":
    main()
