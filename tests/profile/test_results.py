from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import CheckFailedError
from hwnas.profile.results import assess_measurements, assess_profile, require_stable, summarize_measurements
from hwnas.records import DeviceState, Measurement, Profile, Samples
from tests.records.rows import MANIFEST, changed, failed, row, samples


def profile(*rows: Measurement) -> Profile:
    return Profile(Path("p"), MANIFEST, rows)


def repeated(noise: float, *, networks: int = 16) -> Profile:
    """Every network twice, in different processes; logarithms of the times are spread by `noise`."""
    rng = np.random.default_rng(0)
    rows = [
        row(number, ns=round((2e6 + 1e5 * number) * np.exp(rng.normal(0, noise))), process_id=process)
        for process in ("a", "b")
        for number in range(networks)
    ]
    return profile(*rows)


def test_latency_is_the_ratio_to_the_reference_times_the_reference_of_the_campaign() -> None:
    found = summarize_measurements(
        profile(row(0, ns=3_000_000, reference_ns=1_500_000), row(1, ns=500_000, reference_ns=1_000_000))
    )
    # The 20 % quantile of all reference runs: 24 of about 1 ms and 24 of about 1.5 ms.
    assert [item.latency_ms for item in found] == pytest.approx([2.0, 0.5], rel=1e-5)
    assert [item.latency_median_ms for item in found] == pytest.approx([6.0, 1.0], rel=1e-5)
    assert [item.throughput for item in found] == pytest.approx([500.0, 2000.0], rel=1e-5)
    assert all(item.verdict.stable for item in found)


def test_throughput_counts_the_images_of_the_batch() -> None:
    (found,) = summarize_measurements(profile(replace(row(0), setting=changed(row(0).setting, batch=8))))
    assert found.throughput == pytest.approx(8 / found.latency_ms * 1000)


def test_failures_are_counted_by_reason() -> None:
    quality = assess_profile(profile(row(0), failed(1), failed(2), failed(3, "crash", "SIGSEGV"), failed(4), row(4)))
    assert [(item.reason, item.count, item.example) for item in quality.failures] == [
        ("nan", 2, "12 of 1000 outputs are NaN"),
        ("crash", 1, "SIGSEGV"),
    ]
    assert (quality.num_networks, quality.num_measurements, quality.num_repeated) == (2, 2, 0)
    assert quality.measured_s == 1.5 * 6
    assert (quality.first_utc, quality.last_utc) == ("2026-01-02T03:00:00.000+00:00", "2026-01-02T03:04:00.000+00:00")


def test_the_noise_floor_is_that_of_pairs_in_different_processes() -> None:
    quality = assess_profile(repeated(0.01))
    assert quality.noise_floor is not None
    assert quality.noise_floor.num_networks == 16
    assert quality.noise_floor.sigma == pytest.approx(0.01, rel=0.5)
    same = profile(*(replace(item, process_id="a") for item in repeated(0.01).measurements))
    assert (assess_profile(same).num_repeated, assess_profile(same).noise_floor) == (0, None)


def test_a_third_measurement_makes_no_second_pair() -> None:
    rows = [row(0, process_id=process) for process in ("a", "b", "c")]
    assert assess_profile(profile(*rows)).num_repeated == 1


def test_drift_follows_time_and_not_the_order_of_rows() -> None:
    rows = [row(number, reference_ns=1_000_000 + 20_000 * number) for number in range(9)]
    quality = assess_profile(profile(*rows[::-1]))
    assert quality.drift is not None
    assert quality.drift.change == pytest.approx(1.14 / 1.02 - 1, rel=1e-3)


def test_drift_is_that_of_rows_with_enough_runs_on_a_quick_core() -> None:
    loops = replace(samples(1_500_000), loop_ns=(1_500,) * 24, quickest_loop_ns=1_000)
    slowed = [replace(row(number), reference=loops) for number in (6, 7, 8)]
    rows = [row(number, reference_ns=1_000_000 + 20_000 * number) for number in range(6)]
    quality, alone = assess_profile(profile(*rows, *slowed)), assess_profile(profile(*rows))
    assert quality.drift == alone.drift
    assert (quality.num_measurements, quality.num_networks) == (9, 9)
    summaries = summarize_measurements(profile(*rows, *slowed))
    assert [item.has_enough_runs for item in summaries] == [True] * 6 + [False] * 3
    nowhere = assess_profile(profile(*slowed))
    assert nowhere.drift is not None
    assert nowhere.drift.change == 0


def test_throttling_is_listed_and_harmless_reasons_are_not() -> None:
    hot = replace(row(0), after=DeviceState(throttle=("hw_thermal_slowdown", "gpu_idle")))
    quality = assess_profile(profile(hot, row(1)))
    assert quality.throttled == ("hw_thermal_slowdown",)
    assert quality.num_unstable == 1
    assert quality.unstable[0].example == "the device throttled: hw_thermal_slowdown"


def test_an_empty_profile_is_no_error() -> None:
    quality = assess_profile(profile())
    assert (quality.num_networks, quality.reference_ms, quality.drift, quality.noise_floor) == (0, None, None, None)
    assert summarize_measurements(profile()) == ()


def test_the_gate_lets_a_steady_campaign_pass() -> None:
    quality = assess_profile(repeated(0.005))
    assert quality.problems == ()
    require_stable([("toy/a", quality)])


@pytest.mark.parametrize(
    ("shaky", "problem"),
    [
        (repeated(0.08), "the noise floor is"),
        (repeated(0.005, networks=5), "5 networks were measured twice, a noise floor needs 12"),
        (
            profile(*(row(number, reference_ns=1_000_000 + 30_000 * number) for number in range(12))),
            "the reference network drifted by",
        ),
    ],
)
def test_the_gate_stops_what_cannot_be_relied_on(shaky: Profile, problem: str) -> None:
    with pytest.raises(CheckFailedError, match="must be stable") as caught:
        require_stable([("toy/a", assess_profile(shaky))])
    assert str(caught.value.got).count("toy/a: ") >= 1
    assert problem in str(caught.value.got)
    assert caught.value.exit_code == 4


def test_a_campaign_in_which_no_reference_run_counts_is_judged_and_not_refused() -> None:
    disturbed = Samples(wall_ns=(4_000_000,) * 24, switches=(1,) * 24)
    shaky = profile(*(replace(row(number), samples=disturbed, reference=disturbed) for number in range(3)))
    found = summarize_measurements(shaky)
    assert [item.latency_ms for item in found] == pytest.approx([4.0] * 3)
    assert not any(item.verdict.stable for item in found)
    assert "too few valid runs of the network (0 valid, 24 disturbed, at least 8 needed)" in found[0].verdict.reason
    assert "100% of the measurements are unstable, at most 10% are allowed" in assess_profile(shaky).problems


def test_enqueue_bound_measurements_are_named() -> None:
    def on_gpu(number: int, host_ns: int) -> Measurement:
        times = Samples(wall_ns=(1_200_000,) * 24, device_ns=(1_000_000,) * 24, host_ns=(host_ns,) * 24)
        return replace(row(number), samples=times, reference=times)

    quality = assess_profile(profile(on_gpu(0, 900_000), on_gpu(1, 50_000), row(2)))
    assert quality.enqueue_bound is not None
    assert quality.enqueue_bound.count == 1
    assert "took 0.900 ms to queue a run" in quality.enqueue_bound.example
    assert "the device 1.000 ms" in quality.enqueue_bound.example
    assert quality.num_unstable == 0
    found = summarize_measurements(profile(on_gpu(0, 900_000), on_gpu(1, 50_000), row(2)))
    assert [(item.host_ms, item.is_enqueue_bound) for item in found] == [(0.9, True), (0.05, False), (None, False)]
    assert assess_profile(profile(row(0))).enqueue_bound is None


def test_the_state_of_a_gpu_during_the_runs_is_summed_up() -> None:
    def on_gpu(number: int, clock: float, others: int | None) -> Measurement:
        state = DeviceState(clock_mhz=clock, other_processes=others)
        return replace(row(number), before=None, during=state, after=None)

    capped = replace(on_gpu(0, 1500, None), limited={"sw_power_cap": 0.5, "sw_thermal_slowdown": 0.0})
    quality = assess_profile(profile(capped, on_gpu(1, 1980, 2), on_gpu(2, 1900, 1)))
    assert (quality.lowest_clock_mhz, quality.highest_clock_mhz, quality.other_processes) == (1500, 1980, 2)
    assert quality.throttled == ("sw_power_cap",)
    assert quality.unstable[0].reason == "the device throttled: sw_power_cap"
    nothing = assess_profile(profile(replace(row(0), before=None, after=None)))
    assert (nothing.lowest_clock_mhz, nothing.highest_clock_mhz, nothing.other_processes) == (None, None, 0)


def test_a_slower_gpu_that_joins_a_campaign_is_no_drift() -> None:
    first = [replace(row(number), gpu="GPU-a") for number in range(6)]
    later = [replace(row(6 + number, ns=2_200_000, reference_ns=1_100_000), gpu="GPU-b") for number in range(6)]
    times = [f"2026-01-02T03:04:{second:02d}.000+00:00" for second in range(12)]
    rows = [replace(made, started_utc=time) for made, time in zip([*first, *later], times, strict=True)]
    quality = assess_measurements(rows)
    assert quality.drift is not None
    assert abs(quality.drift.change) < 0.01
    assert quality.gpus == ("GPU-a", "GPU-b")
    unbound = assess_measurements([replace(made, gpu=None) for made in rows])
    assert unbound.drift is not None
    assert unbound.drift.change > 0.05
    assert unbound.gpus == ()
