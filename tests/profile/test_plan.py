import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.profile.options import DEFAULT_SAMPLES, TASK_SAMPLES, CampaignOptions
from hwnas.profile.plan import Plan, default_repeats, load_plan, make_tasks, save_plan
from hwnas.profile.runners.runner import exporter_for
from hwnas.profile.subjects import select_subjects, unique_subjects
from hwnas.space import SPACES
from tests.records.rows import REFERENCE, SESSION, make_setting, subject

SPACE = SPACES.get("autoformer-micro")
SUBJECTS = select_subjects(SPACE, 40, seed=0, reference_networks=False)[:40]
SETTINGS = tuple(make_setting(device="toy-2c", runtime="onnxruntime", batch=batch) for batch in (1, 8))
PLAN = Plan(
    device="toy-2c",
    space="autoformer-micro",
    seed=3,
    pairs=12,
    origin=SESSION,
    tasks=make_tasks(SUBJECTS[:5], SETTINGS, repeats=2, seed=3),
)


def test_every_network_is_measured_once_and_the_first_ones_twice_in_each_setting() -> None:
    tasks = make_tasks(SUBJECTS, SETTINGS, repeats=12, seed=0)
    counts = Counter((task.subject.network_id, task.setting.batch) for task in tasks)
    expected = {
        (item.network_id, batch): 2 if index < 12 else 1 for index, item in enumerate(SUBJECTS) for batch in (1, 8)
    }
    assert counts == expected
    assert sum(task.repeat for task in tasks) == 24


def test_a_repeat_comes_after_the_first_measurement() -> None:
    for seed in range(5):
        seen = set()
        for task in make_tasks(SUBJECTS, SETTINGS, repeats=40, seed=seed):
            key = (task.subject.network_id, task.setting.batch)
            assert task.repeat == (key in seen)
            seen.add(key)


def test_the_order_is_random_and_decided_by_the_seed() -> None:
    first, again, other = (make_tasks(SUBJECTS, SETTINGS, repeats=0, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    position = [SUBJECTS.index(task.subject) for task in first if task.setting.batch == 1]
    assert abs(np.corrcoef(position, np.arange(40))[0, 1]) < 0.5
    batches = [task.setting.batch for task in first]
    assert 10 < sum(one != two for one, two in itertools.pairwise(batches)) < 70


@pytest.mark.parametrize(("samples", "repeats"), [(0, 12), (20, 12), (96, 12), (104, 13), (400, 50)])
def test_one_in_eight_is_repeated_and_never_too_few_for_a_noise_floor(samples: int, repeats: int) -> None:
    assert default_repeats(samples) == repeats


@pytest.mark.parametrize(
    ("runtime", "select_space", "of_timm"),
    [
        ("onnxruntime", "composed", "dynamo"),
        ("tensorrt", "composed", "dynamo"),
        ("torch", "module", "module"),
        ("torch-graph", "module", "module"),
    ],
)
def test_how_a_runtime_gets_a_network(runtime: str, select_space: str, of_timm: str) -> None:
    assert (exporter_for(runtime, subject()), exporter_for(runtime, REFERENCE)) == (select_space, of_timm)


def test_a_network_that_comes_twice_stays_where_it_came_first() -> None:
    one, two = subject(1), subject(2)
    assert unique_subjects([two, one, replace(two, arch_id="another path"), one]) == (two, one)


def test_a_plan_is_read_back(tmp_path: Path) -> None:
    save_plan(PLAN, tmp_path / "plan.jsonl")
    assert load_plan(tmp_path / "plan.jsonl") == PLAN
    assert len((tmp_path / "plan.jsonl").read_text().splitlines()) == 1 + 14


def edited(path: Path, line: int, change: object) -> None:
    lines = path.read_text().splitlines()
    data = json.loads(lines[line])
    change(data)  # type: ignore[operator]
    lines[line] = json.dumps(data)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (0, lambda head: head.update(schema="hwnas.plan/1"), "line 1 has an unsupported schema"),
        (0, lambda head: head.pop("schema"), "line 1 must be the head of a plan"),
        (0, lambda head: head.update(num_tasks=15), "must hold 15 tasks"),
        (0, lambda head: head.pop("origin"), "origin is missing"),
        (2, lambda task: task.update(colour="red"), "line 3: task: key 'colour' is not known"),
        (2, lambda task: task.pop("subject"), "line 3: task.subject is missing"),
        (2, lambda task: task.update(repeat=1), "line 3: task.repeat must be true or false"),
        (2, lambda task: task["setting"]["deployment"].update(batch="1"), "deployment.batch must be a whole number"),
        (2, lambda task: task["subject"].update(arch={"embed_dim": 9}), "line 3: task.subject: "),
        (2, lambda task: task["subject"].update(arch=None), "line 3: task.subject: a network of the space"),
        (2, lambda task: task["subject"].update(network_id="../x"), "line 3: task.subject: the arch of a network"),
        (2, lambda task: task["subject"].update(name="glit-micro"), r"subject\.name must be the space of the plan"),
        (2, lambda task: task["subject"].update(source="timm"), r"subject\.network_id must be that of the model"),
        (2, lambda task: task["subject"].update(image_size=10**19), r"subject\.image_size must be a whole number of"),
        (0, lambda head: head.update(space="/etc"), r"head\.space must have 1 to 100 letters"),
        (0, lambda head: head.update(space="../../x"), r"head\.space must have 1 to 100 letters"),
        (0, lambda head: head.update(space="a\0b"), "is not JSON"),
        (0, lambda head: head.update(space=None), r"subject\.name must be the space of the plan"),
        (0, lambda head: head.update(space=1), r"head\.space must be a text"),
        (0, lambda head: head.update(space="no-such-space"), "is not known"),
        (0, lambda head: head.update(device="../toy-2c"), r"head\.device must have 1 to 100 letters"),
        (0, lambda head: head.update(seed=-1), r"head\.seed must be between 0 and"),
        (0, lambda head: head.update(pairs=10**9), r"head\.pairs must be between 8 and"),
        (0, lambda head: head.update(num_tasks=0), r"head\.num_tasks must be between 1 and"),
    ],
)
def test_a_wrong_plan_is_an_error_that_names_the_line(tmp_path: Path, line: int, change: object, message: str) -> None:
    path = tmp_path / "plan.jsonl"
    save_plan(PLAN, path)
    edited(path, line, change)
    with pytest.raises(InputError, match=message):
        load_plan(path)


def test_a_plan_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "plan.jsonl"
    save_plan(PLAN, path)
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(InputError, match="must hold 14 tasks") as caught:
        load_plan(path)
    assert caught.value.got == 13


def test_no_file_and_an_empty_one_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        load_plan(tmp_path / "plan.jsonl")
    (tmp_path / "plan.jsonl").write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        load_plan(tmp_path / "plan.jsonl")


def test_fewer_detectors_are_measured_by_default() -> None:
    numbers = [CampaignOptions(space=name).num_samples for name in ("vitas-micro", "fcos-vitas-micro")]
    assert numbers == [DEFAULT_SAMPLES, TASK_SAMPLES]
    assert CampaignOptions(space="fcos-vitas-micro", samples=7).num_samples == 7
