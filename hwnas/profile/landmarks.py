"""Landmark networks: ten models of timm by which any device is characterised (`hwnas profile --landmarks`).

They differ in size and in what limits them, and have no errors of their own in a model of other devices
(`python -m benchmarks.landmarks` chooses them). All devices measure the same ones.
"""

from hwnas.profile.reference import REFERENCE_NETWORKS, timm_subject

_CHOSEN = (
    ("coat_lite_mini", 224),
    ("davit_small", 224),
    ("pit_xs_224", 224),
    ("edgenext_small", 256),
    ("vit_relpos_base_patch16_224", 224),
    ("gcvit_small", 224),
    ("levit_conv_256", 224),
    ("pvt_v2_b3", 224),
)

LANDMARKS = (*REFERENCE_NETWORKS, *(timm_subject(name, image_size=size) for name, size in _CHOSEN))
"""The landmark networks; the first two are those that every campaign measures."""
