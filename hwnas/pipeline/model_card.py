"""The model card of a folder for timm, in the layout of the Hugging Face Hub."""

from dataclasses import dataclass
from typing import Self

from hwnas.files import printable
from hwnas.runs import hwnas_version
from hwnas.supernet.loading import WeightedNetwork
from hwnas.train.data.preprocess import Preprocess

_MAX_CLASSES = 20
"""Names of classes that a card lists."""

_CARD = """\
---
library_name: timm
pipeline_tag: image-classification
tags:
- image-classification
- timm
- hwnas
---
# {name}

An image classifier of {params:,} parameters and {macs:,} multiply-accumulates for an image of {size} x {size} pixels,
found and exported by hwnas {version}: the network `{network_id}` of the space `{space}`.
{weights}

## Use

The files need torch and timm, and nothing of hwnas. In this folder:

```python
import timm
{imports}from PIL import Image

model = timm.create_model("{source}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
logits = model(transform(Image.open("image.jpg").convert("RGB")).unsqueeze(0))
```

From the Hub, `folder = huggingface_hub.snapshot_download("OWNER/NAME")` brings the files here.

## Images and classes

| | |
| --- | --- |
| input | {channels} x {size} x {size}, any batch |
| resize | the shorter side to {resized} pixels, {interpolation}, then the center is cropped (`crop_pct` {crop_pct:g}) |
| mean, std | {mean}; {std}, of pixels from 0 to 1 |
| classes | {classes} |

`config.json` has these values, with the names of timm's `pretrained_cfg`.
"""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The facts that a card states."""

    name: str
    space: str
    network_id: str
    params: int
    macs: int
    weights: str
    fresh: bool
    has_code: bool
    """True if the folder has a module file, which registers the model."""
    preprocess: Preprocess

    @classmethod
    def of(cls, source: WeightedNetwork, *, name: str, preprocess: Preprocess, has_code: bool) -> Self:
        """Return the facts of a network."""
        workload = source.space.workload(source.arch)
        return cls(
            name=name,
            space=source.space.name,
            network_id=source.space.network_id(source.arch),
            params=workload.params,
            macs=workload.macs,
            weights=source.weights,
            fresh=source.fresh,
            has_code=has_code,
            preprocess=preprocess,
        )


def model_card(facts: ModelFacts) -> str:
    """Return the card as Markdown, with the metadata of the Hub in front."""
    images = facts.preprocess
    names = [printable(name).replace("|", "\\|") for name in images.label_names[:_MAX_CLASSES]]  # in a table
    listed = "" if not names else f": {', '.join(names)}{', …' if len(names) < len(images.label_names) else ''}"
    channels, size, _ = images.input_size
    return _CARD.format(
        name=facts.name,
        params=facts.params,
        macs=facts.macs,
        size=size,
        version=hwnas_version(),
        network_id=facts.network_id,
        space=facts.space,
        weights="Its weights are random: train it before use." if facts.fresh else "Its weights are trained.",
        imports=f"import {facts.name}  # registers the model\n" if facts.has_code else "",
        source=facts.name if facts.has_code else "local-dir:.",
        channels=channels,
        resized=int(size / images.crop_pct),
        interpolation=images.interpolation,
        crop_pct=images.crop_pct,
        mean=", ".join(f"{value:g}" for value in images.mean),
        std=", ".join(f"{value:g}" for value in images.std),
        classes=f"{images.num_classes}{listed}",
    )
