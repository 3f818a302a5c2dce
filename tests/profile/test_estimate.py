"""The time of a campaign before its first measurement."""

from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.devices import Device
from hwnas.profile.effort import paired_macs
from hwnas.profile.estimate import CampaignPace, similar_paces
from hwnas.profile.plan import Plan, make_tasks
from hwnas.records import Measurement, Setting, Store
from tests.records.rows import SESSION, make_setting, manifest, row, samples, subject

DEVICE = Device(name="toy-2c", kind="cpu", vendor="toy", architecture="toy")


def write(
    folder: Path, name: str, setting: Setting, *, pair_ns: int = 3_000_000, start_s: float = 9.0, per_turn: int = 1
) -> None:
    """A profile of two processes: a pair of runs takes `pair_ns`, and as long as ten of them everything else."""
    described = manifest(setting=setting)
    with Store(folder / setting.device / name, manifest=described, session=SESSION) as store:
        for number in range(6):
            found = measured(number, setting, described.environment_id, pair_ns=pair_ns, start_s=start_s)
            turns = replace(samples(1, 24 * per_turn), wall_ns=(pair_ns // 2 // per_turn,) * 24 * per_turn)
            store.append(replace(found, samples=turns))


def measured(number: int, setting: Setting, environment_id: str, *, pair_ns: int, start_s: float) -> Measurement:
    found = row(number, setting=setting, environment_id=environment_id, process_id="ab"[number % 2])
    runs = replace(samples(1), wall_ns=(pair_ns // 2,) * 24)
    duration_s = start_s if number < 2 else 0.25 + 34 * pair_ns / 1e9
    return replace(found, samples=runs, reference=runs, duration_s=duration_s)


def plan(setting: Setting) -> Plan:
    tasks = make_tasks([subject(number) for number in range(4)], [setting], repeats=2, seed=0)
    return Plan(device=setting.device, space="autoformer-micro", seed=0, pairs=24, origin=SESSION, tasks=tasks)


@pytest.mark.parametrize("per_turn", [1, 4])
def test_the_time_of_a_profile_is_that_of_its_networks(tmp_path: Path, per_turn: int) -> None:
    setting = make_setting()
    write(tmp_path, "a", setting, per_turn=per_turn)
    (pace,) = similar_paces(plan(setting), DEVICE, ((tmp_path, "own"),))
    macs = paired_macs(subject(), setting)
    assert pace.graph_s == 0.25
    assert pace.more_runs == pytest.approx(10)
    assert pace.start_s == 9.0
    assert pace.run_s * macs == pytest.approx(0.003)
    tasks = plan(setting).tasks
    assert len(tasks) == 6
    assert pace.estimate_s(tasks, pairs=24) == pytest.approx(2 * 9 + 6 * (0.25 + 34 * 0.003), rel=1e-3)
    assert pace.estimate_s(tasks, pairs=48, workers=2) == pytest.approx(2 * 9 + 3 * (0.25 + 58 * 0.003), rel=1e-3)
    one = tuple(task for task in tasks if not task.repeat)[:1]
    assert pace.estimate_s(one, pairs=24) == pytest.approx(9 + 0.25 + 34 * 0.003, rel=1e-3)


def test_a_larger_batch_takes_longer() -> None:
    pace = CampaignPace(run_s=1e-11, more_runs=10, graph_s=0.0, start_s=0.0)
    small, large = (pace.estimate_s(plan(make_setting(batch=batch)).tasks, pairs=24) for batch in (1, 8))
    assert large == pytest.approx(8 * small)


def test_profiles_of_the_device_and_of_the_setting_come_first(tmp_path: Path) -> None:
    for number, device in enumerate(("toy-2c", "other-2c")):
        for more, runtime in enumerate(("onnxruntime", "torch")):
            setting = make_setting(device=device, runtime=runtime)
            write(tmp_path, f"a-{runtime}", setting, start_s=10.0 * (1 + number) + more)
    write(tmp_path, "b", make_setting(threads=2), start_s=50.0)
    found = similar_paces(plan(make_setting(runtime="torch")), DEVICE, ((tmp_path, "own"),))
    assert [pace.start_s for pace in found] == [11.0, 10.0, 21.0, 20.0]
    assert similar_paces(plan(make_setting()), replace(DEVICE, kind="gpu"), ((tmp_path, "own"),)) == ()


def test_profiles_without_rows_or_with_broken_ones_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "a", make_setting())
    rows = tmp_path / "toy-2c" / "a" / "measurements.jsonl"
    rows.write_text("{}\n")
    with Store(tmp_path / "toy-2c" / "b", manifest=manifest(), session=SESSION):
        pass
    assert similar_paces(plan(make_setting()), DEVICE, ((tmp_path, "own"),)) == ()
