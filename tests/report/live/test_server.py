"""Requests to the live view: who is answered, and with what."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from hwnas.errors import InputError
from hwnas.report.live.server import LiveServer
from tests.report.example import Example, make_run

SMALL = Example(space="autoformer-micro", count=40)
NASTY = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    example = Example(space="autoformer-micro", count=40, label=NASTY)
    return make_run(tmp_path_factory.mktemp("runs") / "search-a", example)


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[LiveServer]:
    with LiveServer([run], token="right") as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: LiveServer, path: str, *, method: str = "GET", host: str | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, headers={"Host": host or f"127.0.0.1:{server.port}"})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def state(server: LiveServer) -> Any:
    return json.loads(ask(server, "/right/state.json")[1])


def test_it_listens_on_the_loopback_and_its_address_has_the_token(server: LiveServer, run: Path) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.port}/right/"
    with LiveServer([run]) as first, LiveServer([run]) as second:
        assert first.token != second.token
        assert len(first.token) >= 20


def test_the_state_has_front_hypervolume_and_progress(server: LiveServer) -> None:
    (shown,) = state(server)["runs"]
    assert (shown["name"], shown["kind"], shown["status"], shown["done"]) == ("search-a", "search", "finished", 1.0)
    charts = {chart["id"]: chart for chart in shown["charts"]}
    assert charts["front"]["y"] == "accuracy (%)"
    assert "front, measured" in [series["name"] for series in charts["front"]["series"]]
    assert charts["hypervolume"]["series"][0]["y"][-1] > 0
    assert dict(shown["facts"])["evaluations"] == "40 of 40"


@pytest.mark.parametrize("name", ["", "live.js", "live.css", "plotly.js", "state.json", "report.html"])
def test_every_answer_has_a_policy_and_is_not_kept(server: LiveServer, name: str) -> None:
    answer, body = ask(server, f"/right/{name}")
    assert answer.status == 200
    assert body
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/wrong/", "/wrong/state.json", "/right/../x", "/right/none", "//", "/%"])
def test_without_the_token_or_the_name_there_is_nothing(server: LiveServer, path: str) -> None:
    answer, body = ask(server, path)
    assert answer.status == 404
    assert body == b"Not Found\n"


@pytest.mark.parametrize("host", ["attacker.example", "127.0.0.1.attacker.example", "192.0.2.7", "[::2]", "x" * 400])
def test_another_host_is_refused(server: LiveServer, host: str) -> None:
    assert ask(server, "/right/state.json", host=host)[0].status == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:80", "127.0.0.1", "[::1]:9"])
def test_the_names_of_the_loopback_are_taken(server: LiveServer, host: str) -> None:
    assert ask(server, "/right/live.js", host=host)[0].status == 200


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_get_is_answered(server: LiveServer, method: str) -> None:
    answer, _ = ask(server, "/right/state.json", method=method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")


def test_looking_changes_no_file(server: LiveServer, run: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.rglob("*")}
    state(server)
    ask(server, "/right/report.html")
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.rglob("*")} == before


def test_on_all_interfaces_addresses_are_taken_and_foreign_names_are_not(run: Path) -> None:
    with LiveServer([run], host="0.0.0.0") as server:
        assert server.accepts_host("192.0.2.7:80")
        assert not server.accepts_host("attacker.example")
        assert not server.accepts_host(None)


def test_a_port_that_is_taken_is_an_error(server: LiveServer, run: Path) -> None:
    with pytest.raises(InputError, match="cannot be listened on"):
        LiveServer([run], port=server.port)


def test_a_run_that_became_unreadable_says_so_and_the_server_goes_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "search-b", SMALL)
    with LiveServer([run], token="right") as server:
        (run / "study.sqlite").write_bytes(b"no database")
        answer = server.answer("/right/state.json")
    assert answer is not None
    (shown,) = json.loads(answer.body)["runs"]
    assert shown["status"] == "unknown"
    assert "is not a study" in shown["error"]["message"]


def test_a_reader_that_goes_away_is_no_error(server: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    for error in (BrokenPipeError("gone"), KeyError("a bug")):
        try:
            raise error
        except (OSError, KeyError):
            server.handle_error(None, None)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
