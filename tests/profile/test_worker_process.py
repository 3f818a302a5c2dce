import pytest

from hwnas.profile.worker_process import Heartbeat


def test_heartbeats_are_at_least_an_interval_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.5, 10.9, 11.0, 11.5, 12.1])
    monkeypatch.setattr("hwnas.profile.worker_process.time.monotonic", lambda: next(times))
    sent: list[float] = []
    heartbeat = Heartbeat(lambda: sent.append(0.0), interval_s=1.0)
    counts = []
    for _ in range(5):
        heartbeat()
        counts.append(len(sent))
    assert counts == [0, 0, 1, 1, 2]
