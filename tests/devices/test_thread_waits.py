import os
import subprocess
import sys

import pytest

from hwnas.devices.thread_waits import wait_briefly, wait_by_default


def test_threads_wait_briefly_and_measurements_as_without_hwnas() -> None:
    environ = {"PATH": "/bin"}
    wait_briefly(environ)
    assert environ["GOMP_SPINCOUNT"] == "1000"
    wait_by_default(environ)
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize("given", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_what_the_environment_says_is_left_as_it_is(given: dict[str, str]) -> None:
    environ = dict(given)
    wait_briefly(environ)
    assert environ == given
    wait_by_default(environ)
    assert environ == given


def test_a_worker_that_measures_takes_it_back() -> None:
    program = (
        "import os, sys; import hwnas.profile.worker_process as worker\n"
        "worker.open_channel = worker.message_sender = lambda *channel: None\n"
        "def end(send): print('GOMP_SPINCOUNT' in os.environ); sys.exit()\n"
        "worker.send_records = end\n"
        "worker.main()"
    )
    environ = {**os.environ, "GOMP_SPINCOUNT": "1000", "HWNAS_BRIEF_WAITS": "1"}
    words = [sys.executable, "-c", program, "--given-graphs"]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_commands_set_it_before_torch_is_there() -> None:
    program = (
        "import os, sys; import hwnas.cli.app as app\n"
        "app.run = lambda *words, **options: print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])\n"
        "import hwnas.cli; hwnas.cli.main()"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_WAIT"))}
    done = subprocess.run([sys.executable, "-c", program], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "1000"]
