"""Networks that timm has too, counted by torch's own counter on the meta device."""

from typing import Any

import pytest

from hwnas.space import vitas_twins
from hwnas.space.autoformer import AutoFormer, AutoFormerArch, AutoFormerBlock, AutoFormerConfig
from hwnas.space.space import AnySpace
from hwnas.space.vitas import Vitas, VitasArch, VitasBlock, VitasConfig
from tests.space.test_published import twins_svt_large
from tests.strategies import changed


def timm_counts(name: str, **options: Any) -> tuple[int, int]:
    """Parameters, and half of the counted floating-point operations of one image."""
    # Imported here: the other tests of the spaces need neither, and both take seconds.
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = timm.create_model(name, **options).eval()
        size = options.get("img_size", 224)
        image = torch.empty(1, options.get("in_chans", 3), size, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2


def counts(space: AnySpace, arch: Any) -> tuple[int, int]:
    workload = space.workload(arch)
    return workload.params, workload.macs


@pytest.mark.parametrize(
    ("name", "image_size"),
    [("twins_svt_small", 224), ("twins_svt_small", 192), ("twins_svt_base", 224), ("twins_svt_base", 256)],
)
def test_twins(name: str, image_size: int) -> None:
    """192 and 256 pixels: the windows no longer divide the grids, which are padded."""
    space = vitas_twins.SMALL if name.endswith("small") else vitas_twins.BASE
    arch = space.published["Twins-SVT-S" if name.endswith("small") else "Twins-SVT-B"]
    assert counts(changed(space, image_size=image_size), arch) == timm_counts(name, img_size=image_size)


def test_twins_large() -> None:
    assert counts(*twins_svt_large()) == timm_counts("twins_svt_large")


@pytest.mark.parametrize(("image_size", "patch_size", "channels"), [(224, 16, 3), (160, 32, 3), (96, 8, 1)])
def test_deit_in_two_families(image_size: int, patch_size: int, channels: int) -> None:
    options = {"img_size": image_size, "patch_size": patch_size, "in_chans": channels, "num_classes": 37}
    expected = timm_counts("deit_tiny_patch16_224", **options)
    images: dict[str, Any] = {"image_size": image_size, "channels": channels, "num_classes": 37}
    block = VitasBlock(num_heads=3, qkv_dim=576, hidden_dim=768)
    vitas = Vitas(
        name="deit",
        config=VitasConfig(
            patch_sizes=(patch_size,),
            embed_dims=(192,),
            num_heads=(3,),
            qkv_dims=(576,),
            hidden_dims=(768,),
            slots=12,
            **images,
        ),
    )
    assert counts(vitas, VitasArch(patch_size=patch_size, embed_dim=192, blocks=(block,) * 12)) == expected
    autoformer = AutoFormer(
        name="deit",
        config=AutoFormerConfig(
            patch_size=patch_size,
            embed_dims=(192,),
            depths=(12,),
            num_heads=(3,),
            mlp_ratios=(4.0,),
            relative_clip=None,
            pooling="token",
            **images,
        ),
    )
    arch = AutoFormerArch(embed_dim=192, blocks=(AutoFormerBlock(num_heads=3, mlp_ratio=4.0),) * 12)
    assert counts(autoformer, arch) == expected
