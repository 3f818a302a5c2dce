"""Run an exported network once on a held-out image, as somebody does who is given the file."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Inference:
    """Classification of one image by an exported network."""

    image: str
    """Description of the image."""
    predicted: int
    """Class with the largest logit."""
    label: int
    """True class."""
    probability: float
    """Softmax probability of the predicted class."""
    milliseconds: float
    """Wall time of the single run, which is no measurement of latency."""


def classify_heldout_image(model: Path, *, run: Path) -> Inference:
    """Run an ONNX network on the first held-out image of a training, on the CPU.

    Args:
        model: ONNX file of the network.
        run: Run of the training that held the image out.
    """
    from hwnas.export.onnx_session import load_onnxruntime

    onnxruntime = load_onnxruntime()
    image, label, name = _first_heldout_image(run)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (graph_input,) = session.get_inputs()
    if isinstance(batch := graph_input.shape[0], int):  # a network of a fixed batch size
        image = np.repeat(image, batch, axis=0)
    began = time.perf_counter()
    (logits,) = session.run(None, {graph_input.name: image})
    milliseconds = 1e3 * (time.perf_counter() - began)
    exponentials = np.exp(logits[0] - logits[0].max())
    predicted = int(exponentials.argmax())
    probability = float(exponentials[predicted] / exponentials.sum())
    return Inference(image=name, predicted=predicted, label=label, probability=probability, milliseconds=milliseconds)


def _first_heldout_image(run: Path) -> tuple[NDArray[np.float32], int, str]:
    """Return the image as the network takes it, its class and its description."""
    from hwnas.pipeline.evaluate import open_run_data
    from hwnas.runs import Run
    from hwnas.train.data.loader import EvalLoader
    from hwnas.train.options import read_train_config

    config = read_train_config(Run.open(run))
    data = open_run_data(run, config, data=None, shape=config.image_shape, num_classes=config.num_classes)
    batch = next(iter(EvalLoader(data.heldout, image_shape=config.image_shape, batch_size=1)))
    return batch.images.numpy(), int(batch.labels[0]), "the first held-out image"
