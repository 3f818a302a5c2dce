"""The module file of a network that timm has no class for: its PyTorch code and its registration as a model of timm."""

import re
from collections.abc import Mapping
from typing import Any

from hwnas.supernet.network import SegmentConfig
from hwnas.supernet.plain_code import network_code

CLASSIFIERS = ("classifier", "distillation_classifier", "patch_classifier", "distilled")
"""Names of the linear layers of heads whose outputs are classes."""

_HEADER = '''\
"""{title}

Written by hwnas {version}. Needs torch and timm, and nothing of hwnas:

    import timm
    import {name}  # from the folder of this file; it registers the model
    model = timm.create_model("{name}", pretrained=True)

Shape suffixes: B images, N tokens, D channels, H heads.
"""

from __future__ import annotations

'''

_MODEL = '''

class PlainNetwork(nn.Module):
    """The segments of `OUTLINE`, which run one after another, with the methods of timm's models.

    Args:
        num_classes: Outputs; 0: the features that the classifier takes.
        in_chans: Channels of images, which must be those of the network.
    """

    def __init__(self, num_classes: int = NUM_CLASSES, in_chans: int = INPUT_SIZE[0]) -> None:
        super().__init__()
        if in_chans != INPUT_SIZE[0]:
            raise ValueError(f"images must have {INPUT_SIZE[0]} channels, not {in_chans}")
        self.num_classes, self.num_features, self.head_hidden_size = NUM_CLASSES, NUM_FEATURES, NUM_FEATURES
        for name, config in OUTLINE.items():
            *parents, last = name.split(".")
            parent: nn.Module = self
            for part in parents:
                if part not in dict(parent.named_children()):
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(last, config.build())
        if num_classes != NUM_CLASSES:
            self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Turn images into tokens, before the final norm."""
        for name in list(OUTLINE)[:-1]:
            x = self.get_submodule(name)(x)
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        """Turn tokens into logits."""
        return self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Turn images into logits."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.head.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer by a new one, or by none if there are 0 classes."""
        self.num_classes = num_classes
        for name in CLASSIFIERS:
            setattr(self.head, name, nn.Linear(NUM_FEATURES, num_classes) if num_classes else nn.Identity())


default_cfgs = generate_default_cfgs({NAME: {**PREPROCESS, "file": str(Path(__file__).with_name("model.safetensors"))}})


@register_model
def {name}(pretrained: bool = False, **options: object) -> PlainNetwork:
    """Make the network, with its weights if `pretrained`."""
    return build_model_with_cfg(PlainNetwork, NAME, pretrained, **options)
'''

_IMPORTS = """\
from pathlib import Path

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
"""


def module_name(space: str, network_id: str) -> str:
    """Return the name of a network as a model of timm, which is that of its module file, too."""
    name = re.sub(r"\W+", "_", f"{space}_{network_id}", flags=re.ASCII).strip("_").casefold()
    return name if name[:1].isalpha() else f"network_{name}"


def module_text(
    outline: Mapping[str, SegmentConfig],
    *,
    name: str,
    title: str,
    version: str,
    preprocess: Mapping[str, Any],
    features: int,
    classifiers: tuple[str, ...],
) -> str:
    """Return the text of a module file.

    Args:
        outline: The configs of the segments.
        name: Name of the model.
        title: First line of its documentation.
        version: Version of hwnas.
        preprocess: The preparation of its images, with timm's names.
        features: Width of the input of the classifier.
        classifiers: Names of the layers of the head whose outputs are classes.
    """
    keys = "".join(f"    {key!r}: {value!r},\n" for key, value in preprocess.items())
    constants = f"""

NAME = {name!r}
NUM_CLASSES, NUM_FEATURES = {preprocess["num_classes"]}, {features}
INPUT_SIZE = {tuple(preprocess["input_size"])}
CLASSIFIERS = {classifiers}
PREPROCESS = {{
{keys}    "classifier": tuple(f"head.{{name}}" for name in CLASSIFIERS),
    "first_conv": None,
}}
\"\"\"The preparation of an image and the names of the classes, with the names of timm's `pretrained_cfg`.\"\"\"
"""
    header = _HEADER.format(title=title, version=version, name=name)
    return header + _IMPORTS + network_code(outline) + constants + _MODEL.replace("{name}", name)
