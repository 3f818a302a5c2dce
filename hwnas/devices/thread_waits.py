"""Waits of torch's threads on a CPU: for how long they loop for the next product of matrices before they sleep.

torch's wheels for Linux bring GNU OpenMP, whose threads loop for milliseconds. On a machine that does nothing else this
gains nothing measurable, and where another program needs the cores it takes their time from both. The variables are
read when torch is imported.
"""

import os
from collections.abc import MutableMapping

_VARIABLE, _TURNS = "GOMP_SPINCOUNT", "1000"
_POLICY = "OMP_WAIT_POLICY"
_OURS = "HWNAS_BRIEF_WAITS"
"""Says that hwnas set the variable, so that processes that it starts can take it back."""


def wait_briefly(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let threads sleep after some microseconds, unless the environment says how they wait."""
    if _VARIABLE not in environ and _POLICY not in environ:
        environ.update({_VARIABLE: _TURNS, _OURS: "1"})


def wait_by_default(environ: MutableMapping[str, str] = os.environ) -> None:
    """Undo `wait_briefly` in a process that measures, as the user's own programs will run without it."""
    if environ.pop(_OURS, None) is not None:
        environ.pop(_VARIABLE, None)
