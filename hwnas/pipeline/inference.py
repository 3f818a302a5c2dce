"""An exported network, run once on a held-out picture: what somebody does who is given the file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What an exported network said of one picture."""

    picture: str
    """Which one."""
    said: int
    truth: int
    share: float
    """The probability of the class that it said."""
    milliseconds: float
    """Of the one run, which is no measurement."""


def try_network(model: Path, *, run: Path) -> Inference:
    """Run a network on the first held-out picture of the training in `run`."""
    import time

    import onnxruntime

    image, truth, name = _picture(run)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    if isinstance(batch := taken.shape[0], int):  # a network for one batch alone takes the picture so many times
        image = np.repeat(image, batch, axis=0)
    began = time.perf_counter()
    (logits,) = session.run(None, {taken.name: image})
    milliseconds = 1e3 * (time.perf_counter() - began)
    shares = np.exp(logits[0] - logits[0].max())
    said = int(shares.argmax())
    share = float(shares[said] / shares.sum())
    return Inference(picture=name, said=said, truth=truth, share=share, milliseconds=milliseconds)


def _picture(run: Path) -> tuple[NDArray[np.float32], int, str]:
    """A held-out picture as the network takes it, its class, and what it is called."""
    from hwnas.pipeline.evaluate import open_run_data
    from hwnas.runs import Run
    from hwnas.train.data.loader import EvalLoader
    from hwnas.train.options import read_train_config

    config = read_train_config(Run.open(run))
    data = open_run_data(run, config, data=None, shape=config.image_shape, num_classes=config.num_classes)
    batches = EvalLoader(data.heldout, image_shape=config.image_shape, batch_size=1)
    batch = next(iter(batches))
    return batch.images.numpy(), int(batch.labels[0]), "the first held-out picture"
