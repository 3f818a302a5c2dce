"""The networks that are measured along with those of every space, as models of timm. No spaces, no torch."""

from hwnas.records import Subject

TIMM_PREFIX = "timm:"
"""Beginning of the network_id of a model of timm."""


def timm_subject(name: str, *, image_size: int, num_classes: int = 1000, own_size: bool = True) -> Subject:
    """Return the subject of a timm model.

    Args:
        name: Name of the model.
        image_size: Height and width of its images.
        num_classes: Number of its classes.
        own_size: The image size is the model's own, and not part of its id.
    """
    network_id = f"{TIMM_PREFIX}{name}" if own_size else f"{TIMM_PREFIX}{name}@{image_size}"
    return Subject(source="timm", name=name, network_id=network_id, image_size=image_size, num_classes=num_classes)


REFERENCE = timm_subject("deit_tiny_patch16_224", image_size=224)
"""The reference network, DeiT-Ti. It is the same for every space, so that all latencies can be compared."""

REFERENCE_NETWORKS = (REFERENCE, timm_subject("deit_small_patch16_224", image_size=224))
"""DeiT-Ti and DeiT-S: well-known networks that are measured along with those of every space."""
