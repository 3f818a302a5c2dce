"""The program of a process that evaluates networks: it answers requests on a socket, one JSON document per line.

HWNAS_WORKER_CHANNEL=DESCRIPTOR python -m hwnas.pipeline.workers.process
"""

import signal

from hwnas.config import parse_json
from hwnas.extensions import load_extensions
from hwnas.profile.worker_logs import send_records
from hwnas.profile.worker_process import Heartbeat, die_with_parent, message_sender, open_channel


def main() -> None:
    """Answer requests until the command closes the channel."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command, which ends its workers
    channel = open_channel()
    send = message_sender(channel)

    from hwnas.pipeline.workers.evaluator import BatchEvaluator

    send_records(send)
    load_extensions()
    evaluator = BatchEvaluator(on_progress=Heartbeat(lambda: send(alive=True)))
    send(ready="evaluator")
    with channel.makefile("r", encoding="utf-8") as requests:
        for line in requests:
            send(**evaluator.answer(parse_json(line, source="a request")))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
