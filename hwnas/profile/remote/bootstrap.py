"""Start the agent on another machine: take its code from the standard input, keep it in the cache, import it.

Sent as a text to `python3 -c`, so it is valid in any Python 3, to say that a newer one is needed.
"""

import hashlib
import json
import os
import sys


def refuse(kind: str, message: str, got: str, hint: str) -> None:
    """Tell the campaign why the agent cannot start, and end."""
    refused = {"kind": kind, "message": message, "got": got, "hint": hint}
    sys.stdout.write(json.dumps({"hwnas_agent": "hwnas.agent/1", "refused": refused}) + "\n")
    sys.stdout.flush()
    raise SystemExit(3)


def require_packages() -> None:
    """Require a new enough Python, and numpy."""
    if sys.version_info < (3, 10):  # noqa: UP036
        got = f"{sys.version.split()[0]} ({sys.executable})"
        refuse("python", "the agent needs Python 3.10 or later there", got, "--remote-python python3.12")
    try:
        import numpy  # noqa: F401
    except ImportError:
        hint = "pip install numpy there, or --remote-python PATH"
        refuse("package", "the agent needs numpy there", "none in " + sys.executable, hint)


def keep(data: bytes, digest: str) -> str:
    """Write the code to the cache, unless it is there, and return its path."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118
    folder = os.path.join(os.environ.get("HWNAS_CACHE") or os.path.join(caches, "hwnas"), "agent")  # noqa: PTH118
    path = os.path.join(folder, "hwnas-" + digest[:16] + ".zip")  # noqa: PTH118
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103
        if not os.path.isfile(path) or sha256(path) != digest:  # noqa: PTH113
            part = "{}.{}.tmp".format(path, os.getpid())  # noqa: UP032
            with open(part, "wb") as file:  # noqa: PTH123
                file.write(data)
            os.replace(part, path)  # noqa: PTH105
    except OSError as error:
        hint = "free some space there, or HWNAS_CACHE=DIR there for another folder"
        refuse("storage", folder + " cannot be written there", error.strerror or str(error), hint)
    return path


def sha256(path: str) -> str:
    """Return the digest of a file."""
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.sha256(file.read()).hexdigest()


def start() -> None:
    """Take the code and start the agent in it."""
    require_packages()
    sys.stdout.write(json.dumps({"hwnas_agent": "hwnas.agent/1", "ready": True}) + "\n")
    sys.stdout.flush()
    stream = sys.stdin.buffer
    head = json.loads(stream.readline(100000).decode())
    data = stream.read(head["num_bytes"])
    if hashlib.sha256(data).hexdigest() != head["sha256"]:
        raise SystemExit("the code of the agent arrived damaged")
    path = keep(data, head["sha256"])
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = path if not others else path + os.pathsep + others
    sys.path.insert(0, path)
    sys.argv = ["hwnas-agent"]
    from hwnas.profile.remote.agent import main

    main(head["hello"])


if __name__ == "__main__":
    start()
