"""Statistics of runs against plain formulas and simulated machines."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.profile.statistics import (
    Interval,
    fast_quantile,
    latency_interval,
    latency_median_ms,
    latency_ms,
    latency_ratio,
    mean_of_fastest,
    noise_floor,
    reference_drift,
    reference_latency_ms,
    run_ns,
    stability_verdict,
    throughput,
    valid_runs,
)
from hwnas.records import DeviceState, Samples

MS = 1_000_000


def cpu(*values: float) -> Samples:
    """Runs with these CPU times in ms, three times as long on the wall."""
    return Samples(wall_ns=tuple(int(3 * v * MS) for v in values), cpu_ns=tuple(int(v * MS) for v in values))


def simulated(
    rng: np.random.Generator, *, base_ms: float, runs: int = 24, noise: float = 0.01, slowdown: object = 1.0
) -> Samples:
    """Runs of a network on a machine that is never faster than it and now and then slower, by up to a half."""
    disturbed = rng.random(runs) < 0.3
    factor = (1 + noise * np.abs(rng.standard_normal(runs))) * np.where(disturbed, 1 + 0.5 * rng.random(runs), 1)
    nanoseconds = base_ms * MS * factor * np.asarray(slowdown)
    return Samples(
        wall_ns=tuple((4 * nanoseconds).astype(int).tolist()), cpu_ns=tuple(nanoseconds.astype(int).tolist())
    )


def watched(values_ms: Iterable[float], *, slowed: Sequence[int] = ()) -> Samples:
    """Runs on a core that was slowed down during some of them."""
    runs = cpu(*values_ms)
    loop_ns = tuple(1_500 if index in slowed else 1_000 for index in range(len(runs.wall_ns)))
    return replace(runs, loop_ns=loop_ns, quickest_loop_ns=1_000)


def test_the_device_clock_comes_before_cpu_time_and_that_before_the_wall() -> None:
    everything = Samples(wall_ns=(9, 9), cpu_ns=(5, 6), device_ns=(1, 2), switches=(0, 4))
    assert valid_runs(everything).tolist() == [1, 2]
    assert valid_runs(Samples(wall_ns=(9, 9), cpu_ns=(5, 6), switches=(0, 4))).tolist() == [5, 6]
    assert valid_runs(Samples(wall_ns=(9, 8))).tolist() == [9, 8]


def test_of_several_threads_only_undisturbed_runs_count() -> None:
    samples = Samples(wall_ns=(10, 99, 12, 98), switches=(0, 3, 0, 1))
    assert valid_runs(samples).tolist() == [10, 12]
    assert run_ns(samples) == 10
    assert run_ns(Samples(wall_ns=(10, 20), switches=(1, 1))) == 10


def test_a_network_takes_the_mean_of_its_fastest_runs() -> None:
    assert run_ns(cpu(5, 1, 9, 4, 2, 8, 3, 7, 6, 10)) / MS == 2  # 3 of 10
    assert run_ns(cpu(7, 5, 9, 8)) / MS == 5
    assert run_ns(cpu(2, 1)) / MS == 1


def test_latency_is_the_ratio_times_the_reference() -> None:
    ours, theirs = cpu(*[20] * 10), cpu(*[10] * 10)
    assert latency_ratio(ours, theirs) == pytest.approx(2)
    assert latency_ms(ours, theirs, reference_ms=7.5) == pytest.approx(15)
    assert latency_median_ms(ours) == pytest.approx(60)
    assert throughput(15.0, batch=30) == pytest.approx(2000)


def test_the_reference_latency_comes_from_all_its_runs() -> None:
    campaign = [cpu(*range(1, 7)), cpu(*range(7, 12))]
    assert reference_latency_ms(campaign) == pytest.approx(2)  # of 1 … 11 the mean of three
    disturbed = Samples(wall_ns=(5_000_000,) * 6, switches=(2,) * 6)
    assert reference_latency_ms([*campaign, disturbed]) == pytest.approx(2)
    assert reference_latency_ms([disturbed]) == pytest.approx(5)  # none counts, so all do
    with pytest.raises(InputError, match="at least one run of the reference network"):
        reference_latency_ms([])


def test_a_slowdown_of_the_machine_falls_out_of_the_ratio() -> None:
    rng = np.random.default_rng(0)
    slow = np.repeat([1.0, 1.6], 12)
    found = [
        latency_ratio(simulated(rng, base_ms=20, slowdown=slow), simulated(rng, base_ms=10, slowdown=slow))
        for _ in range(50)
    ]
    assert np.median(found) == pytest.approx(2, rel=0.01)
    assert np.std(found) / 2 < 0.03


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = []
    for seed in range(120):
        ours, theirs = simulated(rng, base_ms=20, runs=60), simulated(rng, base_ms=10, runs=60)
        found = latency_interval(ours, theirs, reference_ms=10, seed=seed, confidence=0.9, resamples=200)
        held.append(found.low_ms <= 20 <= found.high_ms)
    assert 0.8 <= np.mean(held) <= 1.0


def test_an_interval_is_a_function_of_its_seed_and_narrower_with_more_runs() -> None:
    def width(runs: int, seed: int) -> Interval:
        rng = np.random.default_rng(2)
        ours, theirs = simulated(rng, base_ms=20, runs=runs), simulated(rng, base_ms=10, runs=runs)
        return latency_interval(ours, theirs, reference_ms=10, seed=seed)

    assert width(24, 0) == width(24, 0) != width(24, 1)
    few, many = width(12, 0), width(200, 0)
    assert many.high_ms - many.low_ms < 0.5 * (few.high_ms - few.low_ms)


def test_an_interval_of_undisturbed_runs_of_unequal_number() -> None:
    ours = Samples(wall_ns=(20, 20, 99, 20), switches=(0, 0, 1, 0))
    theirs = Samples(wall_ns=(10, 10, 10, 10), switches=(0, 0, 0, 0))
    assert latency_interval(ours, theirs, reference_ms=1, seed=0) == Interval(low_ms=2, high_ms=2)


def test_the_runs_of_a_pair_are_drawn_together() -> None:
    slow = np.repeat([1.0, 1.3], 10)  # both networks in the same pairs
    theirs = cpu(*(10 * slow))
    assert latency_interval(cpu(*(20 * np.repeat(slow, 3))), theirs, reference_ms=10, seed=0) == Interval(
        low_ms=20, high_ms=20
    )
    shifted = latency_interval(cpu(*(20 * np.repeat(slow, 3)[1:])), theirs, reference_ms=10, seed=0)
    assert shifted.high_ms - shifted.low_ms > 0.5


def test_the_runs_of_a_turn_are_drawn_together_also_where_one_does_not_count() -> None:
    turns = np.random.default_rng(5).normal(20, 0.5, 24)  # four runs in a turn are alike, so they are one observation
    theirs = watched([10.0] * 24)
    one = latency_interval(watched(turns), theirs, reference_ms=10, seed=0)
    for slowed in ((), (17,)):
        four = latency_interval(watched(np.repeat(turns, 4), slowed=slowed), theirs, reference_ms=10, seed=0)
        assert four.high_ms - four.low_ms == pytest.approx(one.high_ms - one.low_ms, rel=0.15)


def test_a_slow_moment_of_both_networks_is_no_width_also_where_a_run_does_not_count() -> None:
    slow = np.repeat([1.0, 1.3], [15, 5])
    found = latency_interval(watched(20 * slow, slowed=(3,)), watched(10 * slow), reference_ms=10, seed=0)
    assert found == Interval(low_ms=20, high_ms=20)


def test_draws_of_pairs_without_a_run_that_counts_are_left_out() -> None:
    ours = Samples(wall_ns=(20, 20, 20), switches=(0, 1, 1))
    theirs = Samples(wall_ns=(10, 10, 10), switches=(1, 0, 0))
    assert latency_interval(ours, theirs, reference_ms=1, seed=0) == Interval(low_ms=2, high_ms=2)


def test_the_mean_of_the_fastest_takes_no_missing_values() -> None:
    rows = np.array([[3.0, np.nan, 1, 5, 2, 9, 4, 8, 7, 6], [np.nan] * 10])
    found = mean_of_fastest(rows)
    assert found[0] == mean_of_fastest(rows[0][~np.isnan(rows[0])]) == 2  # 3 of 9
    assert np.isnan(found[1])


def test_a_calm_measurement_is_stable() -> None:
    rng = np.random.default_rng(3)
    found = stability_verdict(simulated(rng, base_ms=20, noise=0.002), simulated(rng, base_ms=10, noise=0.002))
    assert (found.stable, found.reason) == (True, "")


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        (
            cpu(*[20] * 7),
            cpu(*[10] * 24),
            "too few valid runs of the network (7 valid, 0 disturbed, at least 8 needed)",
        ),
        (
            Samples(wall_ns=(20,) * 24, switches=(0,) * 24),
            Samples(wall_ns=(10,) * 24, switches=(1,) * 20 + (0,) * 4),
            "too few valid runs of the reference (4 valid, 20 disturbed, at least 8 needed)",
        ),
        (
            cpu(*[20] * 12, *[24] * 12),
            cpu(*[10] * 24),
            "the two halves of the runs differ too much (by +20.0%, at most 5%)",
        ),
        (cpu(*range(20, 44)), cpu(*[10] * 24), "the confidence interval is too wide"),
    ],
)
def test_why_a_measurement_is_not_stable(ours: Samples, theirs: Samples, reason: str) -> None:
    found = stability_verdict(ours, theirs)
    assert not found.stable
    assert reason in found.reason


def test_throttling_is_named_and_idling_is_none() -> None:
    ours, theirs = cpu(*[20] * 24), cpu(*[10] * 24)
    hot = DeviceState(throttle=("gpu_idle", "hw_thermal_slowdown"))
    assert stability_verdict(ours, theirs, states=(None, hot)).reason == "the device throttled: hw_thermal_slowdown"
    assert stability_verdict(ours, theirs, states=(DeviceState(throttle=("gpu_idle",)), None)).stable


def test_drift_tells_a_slow_end_from_scatter() -> None:
    steady = reference_drift([10, 11, 10, 11, 10, 11])
    assert steady.change == pytest.approx(0, abs=0.06)
    assert steady.spread == pytest.approx(math.log(1.1) / 2)
    rising = reference_drift([10, 10, 11, 11, 12, 12])
    assert rising.change == pytest.approx(0.2)


def test_the_noise_floor_of_simulated_repeats() -> None:
    rng = np.random.default_rng(4)
    truth = rng.uniform(5, 30, 4000)
    pairs = [(value * math.exp(0.01 * a), value * math.exp(0.01 * b)) for value, a, b in zip(
        truth, rng.standard_normal(4000), rng.standard_normal(4000), strict=True
    )]  # fmt: skip
    found = noise_floor(pairs)
    assert found is not None
    assert found.sigma == pytest.approx(0.01, rel=0.05)
    errors = [abs(first / value - 1) for (first, _), value in zip(pairs, truth, strict=True)]
    assert found.mean_error == pytest.approx(np.mean(errors), rel=0.05)
    assert found.num_networks == 4000


def test_the_noise_floor_by_its_plain_formula() -> None:
    pairs = [(1.0, 1.02)] * 6 + [(2.0, 1.98)] * 6
    found = noise_floor(pairs)
    assert found is not None
    middle = (math.log(1.02) + math.log(0.99)) / 2
    apart = [math.log(b / a) - middle for a, b in pairs]
    assert found.shift == pytest.approx(math.expm1(middle))
    assert found.mean_error == pytest.approx(sum(map(abs, apart)) / 12 / math.sqrt(2))
    assert found.sigma == pytest.approx(math.sqrt(sum(value**2 for value in apart) / 12) / math.sqrt(2))


def test_a_shift_between_passes_and_one_outlier_are_no_noise() -> None:
    noise = 0.004 * np.random.default_rng(0).standard_normal((200, 2))
    quiet = noise_floor([(math.exp(a), math.exp(b)) for a, b in noise])
    shifted = noise_floor([(math.exp(a), 1.02 * math.exp(b)) for a, b in noise])
    outlier = noise_floor([*((math.exp(a), math.exp(b)) for a, b in noise), (1.0, 2.0)])
    assert quiet is not None
    assert shifted is not None
    assert outlier is not None
    assert shifted.mean_error == pytest.approx(quiet.mean_error)
    assert shifted.shift - quiet.shift == pytest.approx(0.02, abs=0.001)
    assert outlier.mean_error < 2 * quiet.mean_error


def test_too_few_repeats_tell_no_floor() -> None:
    assert noise_floor([(1.0, 1.0)] * 11) is None


@pytest.mark.parametrize("level", [0.0, 0.025, 0.2, 0.5, 0.975, 1.0])
def test_the_quick_quantile_is_that_of_numpy(level: float) -> None:
    rng = np.random.default_rng(0)
    for length in (1, 2, 3, 24, 400):
        values = rng.integers(1, 2**50, (20, length)).astype(np.float64)
        assert np.array_equal(fast_quantile(values, level), np.quantile(values, level, axis=-1))


def test_many_runs_are_resampled_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = cpu(*(10 + index % 7 for index in range(200)))
    whole = latency_interval(samples, samples, reference_ms=1.0, seed=0)
    monkeypatch.setattr("hwnas.profile.statistics._MAX_DRAWS", 2000)
    blocks = latency_interval(samples, samples, reference_ms=1.0, seed=0)
    assert (blocks.low_ms, blocks.high_ms) == pytest.approx((whole.low_ms, whole.high_ms), rel=0.01)


def test_a_limit_that_held_during_the_runs_is_throttling() -> None:
    ours, theirs = cpu(*[20] * 24), cpu(*[10] * 24)
    verdict = stability_verdict(ours, theirs, states=(None, None), limited={"sw_power_cap": 0.37, "sync_boost": 0.0})
    assert verdict.reason == "the device throttled: sw_power_cap (37% of the time)"
    assert stability_verdict(ours, theirs, limited={"sw_power_cap": 0.009}).stable
