import pytest

from hwnas.profile.worker_process import Pulse


def test_signs_of_life_are_some_time_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.5, 10.9, 11.0, 11.5, 12.1])
    monkeypatch.setattr("hwnas.profile.worker_process.time.monotonic", lambda: next(times))
    said: list[float] = []
    pulse = Pulse(lambda: said.append(0.0), every_s=1.0)
    counts = []
    for _ in range(5):
        pulse()
        counts.append(len(said))
    assert counts == [0, 0, 1, 1, 2]
