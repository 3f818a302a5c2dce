import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.metrics import indistinct_supernet_warning, parse_metric
from hwnas.report.data import RunData
from hwnas.report.gather import gather
from hwnas.report.verdict import accuracy_error, balanced, banners, plain_sizes, sentence, standing
from hwnas.search.choice import Pick
from hwnas.search.record import ReferenceNetwork, SearchRecord, SupernetHealth, Verification
from tests.report.example import LATENCY, Example, make_run
from tests.supernet_extremes import SUPERNET_EXTREMES


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return gather(make_run(tmp_path_factory.mktemp("runs") / "search-a", Example(count=200)))


def changed(data: RunData, **changes: object) -> RunData:
    assert data.record is not None
    return replace(data, record=replace(data.record, **changes))  # type: ignore[arg-type]


def warnings(data: RunData) -> list[str]:
    return [banner.text for banner in banners(data) if banner.level == "warning"]


def record_of(data: RunData) -> SearchRecord:
    assert data.record is not None
    return data.record


def verification_of(data: RunData) -> Verification:
    found = record_of(data).verification
    assert found is not None
    return found


def test_the_verdict_is_one_sentence(data: RunData) -> None:
    text = sentence(data)
    count = len(standing(data))
    start = f"The search explored 200 networks of autoformer-tiny and found {count} on the Pareto front on amd-"
    assert text.startswith(start)
    assert "% accuracy, " in text
    assert " × the speed of DeiT-Ti); measured on the device after the search (with doubtful measurements)" in text
    assert text.endswith("with a mean prediction error of 1.3 %.")


def test_measurements_without_a_problem_are_not_doubted(data: RunData) -> None:
    found = verification_of(data)
    profiles = tuple(replace(profile, problems=()) for profile in found.profiles)
    assert "doubtful" not in sentence(changed(data, verification=replace(found, profiles=profiles)))


def test_networks_of_small_pictures_are_not_said_to_be_faster_than_deit(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "a", Example(count=60, space="autoformer-micro")))
    assert data.record is not None
    assert data.record.reference_networks
    assert data.baseline is None
    assert "the speed of" not in sentence(data)


def test_accuracies_that_the_search_chose_by_are_called_flattering(data: RunData) -> None:
    (note, *_) = [banner.text for banner in banners(data) if banner.level == "note"]
    assert "1,000 held-out images: differences below 3.0 points are not significant" in note
    assert "the search selected on these images" in note


def test_what_measuring_took_off_the_front_does_not_stand(data: RunData) -> None:
    fallen = [member for member in data.front if member not in standing(data)]
    assert {member.failure is not None for member in fallen} == {True, False}
    assert any(member.violated for member in fallen)


def test_the_balanced_network_stands_and_is_neither_end(data: RunData) -> None:
    member = balanced(data, standing(data))
    assert member in standing(data)
    assert member not in (standing(data)[0], standing(data)[-1])
    assert balanced(data, ()) is None


def test_the_balanced_network_is_chosen_by_the_values_that_a_search_exports_by(data: RunData) -> None:
    front = standing(data)
    assert "; the balanced network, by measured values, has" in sentence(data)
    predicted = tuple(
        replace(
            member,
            metrics={key: replace(check, measured=None) for key, check in member.metrics.items()},
        )
        for member in front
    )
    for members in (front, predicted):
        columns = {
            parse_metric(metric.key): np.array([member.value(metric.key) for member in members])
            for metric in data.objectives
        }
        index = Pick.parse("balanced").choose(tuple(columns), columns)
        assert index is not None
        assert balanced(data, members) is members[index]
    text = sentence(replace(data, front=predicted))
    assert "; the balanced network, by predicted values, has" in text


def test_a_front_that_was_not_measured_is_called_out(data: RunData) -> None:
    skipped = replace(verification_of(data), status="skipped", reason="h200 is not here.", members=())
    found = changed(data, verification=skipped)
    assert warnings(found)[0] == (
        "The front was not measured on the device: h200 is not here. Its metrics of the device are predictions."
    )
    assert sentence(found).endswith("; speeds are predicted, not measured.")


def test_networks_outside_the_fitted_range_are_called_out(data: RunData) -> None:
    found = replace(data, outside={LATENCY: (0, 2)})
    assert any(
        re.match(r"2 of \d+ networks lie outside the fitted range of the predictor of latency_ms", text)
        for text in warnings(found)
    )


def test_poor_coverage_is_called_out(data: RunData) -> None:
    verification = verification_of(data)
    member = verification.members[0]
    inside = replace(member.metrics[LATENCY], lower=0.0, upper=math.inf)
    outside = replace(inside, lower=math.inf)

    def with_inside(number: int, of: int) -> RunData:
        checks = [inside] * number + [outside] * (of - number)
        members = tuple(replace(member, metrics={LATENCY: check}) for check in checks)
        return changed(data, verification=replace(verification, members=members))

    text = "Only 60 % of the measured values of latency_ms lie inside intervals that promise 90 %."
    assert text in warnings(with_inside(12, of=20))
    assert "lie inside" not in " ".join(warnings(with_inside(16, of=20)))
    assert "lie inside" not in " ".join(warnings(with_inside(1, of=2)))  # may be by chance
    unbounded = replace(member, metrics={LATENCY: replace(inside, upper=None)})
    without = changed(data, verification=replace(verification, members=(unbounded,) * 20))
    assert "lie inside" not in " ".join(warnings(without))  # there is no interval


def test_failures_violations_and_doubtful_measurements_are_called_out(data: RunData) -> None:
    text = "\n".join(warnings(data))
    assert "Could not be measured: 1 of" in text
    assert "Violating a constraint when measured (latency_ms<=99): 1 of" in text
    assert "Measurements at batch 1: 12 networks tell a noise floor." in text


@pytest.mark.parametrize(("smallest", "largest", "num_images", "warns"), SUPERNET_EXTREMES)
def test_a_supernet_that_hardly_separates_its_networks_is_warned_about_once(
    data: RunData, smallest: float, largest: float, num_images: int, warns: bool
) -> None:
    health = SupernetHealth(smallest=smallest, largest=largest)
    note = indistinct_supernet_warning(smallest, largest, num_images=num_images)
    notes = () if note is None else (note,)
    spec = record_of(data).spec
    assert spec.supernet is not None
    spec = replace(spec, supernet=replace(spec.supernet, num_images=num_images))
    found = banners(changed(data, supernet_health=health, spec=spec, notes=notes))
    levels = [banner.level for banner in found if "supernet hardly separates its networks" in banner.text]
    assert levels == (["warning"] if warns else [])


def test_the_error_of_an_accuracy_is_that_of_its_pictures(data: RunData) -> None:
    assert accuracy_error(data) == pytest.approx((0.66 * 0.34 / 1000) ** 0.5, rel=0.05)
    assert accuracy_error(changed(data, spec=replace(record_of(data).spec, supernet=None))) is None


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (
            Example(count=50, constraints=("macs<=1M",), verified=False),
            "None of the 50 explored networks of autoformer-tiny meets macs<=1e+06.",
        ),
        (
            Example(count=50, unknown_share=1.0, verified=False),
            "None of the 50 explored networks of autoformer-tiny has a value for every objective.",
        ),
        (Example(count=0, finished=False), "The search of autoformer-tiny has not evaluated any network yet."),
    ],
)
def test_an_empty_front_has_its_reason(tmp_path: Path, example: Example, text: str) -> None:
    example = replace(example, constraints=tuple(limit.replace("1M", "1e6") for limit in example.constraints))
    assert sentence(gather(make_run(tmp_path / "a", example))).replace("macs<=1e6", "macs<=1e+06") == text


def test_a_front_on_which_nothing_stood_is_told(data: RunData) -> None:
    failed = tuple(replace(member, failure="time-limit") for member in data.front)
    assert "passed verification" in sentence(replace(data, front=failed))


def test_one_network_with_one_objective(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "a", Example(count=50, objectives=("accuracy",), verified=False)))
    start = "The search explored 50 networks of autoformer-tiny and found one on the Pareto front; it has 6"
    assert sentence(data).startswith(start)
    assert sentence(data).endswith("% accuracy.")


def test_a_search_that_goes_on_says_so(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "a", Example(count=100, finished=False)))
    assert sentence(data).startswith(
        "The search has not finished. So far it explored 100 networks of autoformer-tiny and "
    )
    assert warnings(data) == [
        "This search has not finished or was interrupted, after 100 networks. "
        f"Resume an interrupted search with hwnas search --resume {tmp_path / 'a'}."
    ]


def elastic(data: RunData, **values: float) -> RunData:
    """The run of an elastic space with the model at two other sizes, whose accuracy and latency are given."""
    networks = [
        ReferenceNetwork(
            name=name,
            macs=10**9,
            params=10**6,
            metrics={LATENCY: values[f"{key}_ms"]},
            measured=True,
            accuracy=values[f"{key}_accuracy"],
            kind="patch" if key == "patch" else "resolution",
            network_id=key,
        )
        for key, name in (("small", "original at 160 px"), ("patch", "original at patch 32"))
    ]
    return changed(data, reference_networks=tuple(networks))


def test_a_front_that_does_not_beat_the_model_at_other_sizes_says_so(data: RunData) -> None:
    assert plain_sizes(data) == ""  # no model to compare with
    best = max(standing(data), key=lambda member: member.value("accuracy") or 0)
    accuracy, latency = best.value("accuracy"), best.value(LATENCY)
    assert accuracy is not None
    assert latency is not None
    values = {"small_accuracy": accuracy - 0.01, "small_ms": latency, "patch_accuracy": accuracy, "patch_ms": 1e3}
    found = elastic(data, **values)
    assert plain_sizes(found) == "The front beats the original at 160 px and the original at patch 32."
    assert sentence(found).endswith(plain_sizes(found))
    found = elastic(data, **{**values, "small_accuracy": accuracy + 0.01})
    assert plain_sizes(found) == (
        f"The front does not beat the original at 160 px ({100 * accuracy + 1:.1f} % accuracy, {latency:.3g} ms): "
        "no other network of it is as good and as fast."
    )
    faster = elastic(data, **{**values, "patch_ms": 1e-3})
    assert plain_sizes(faster).startswith("The front does not beat the original at patch 32 (")
    # The same network is no better than itself.
    equal = elastic(data, **{**values, "small_accuracy": accuracy, "small_ms": latency})
    assert plain_sizes(equal).startswith("The front does not beat the original at 160 px (")
