"""Operations of the layers that several families share.

Sizes are integers or arrays over a population (`hwnas.workload`); `times` is 1 for networks that have the part, else 0.
"""

from hwnas.workload import FLOAT32, STRIDED, Attention, Convolution, Elementwise, Linear, Norm, Operation, Size, Table

Operations = tuple[Operation, ...]
Traits = tuple[str, ...]

RESIDUAL: Traits = (FLOAT32,)
"""Traits of norms and sums on a residual stream after a position table."""
PIXELS: Traits = (STRIDED,)
"""Traits of norms and sums on tokens that are a view of the pixels of a convolution."""


def patch_stem(*, image_size: int, channels: int, patch_size: Size, embed: Size) -> Operations:
    """Return patch embedding, class token and position embedding."""
    patches = (image_size // patch_size) ** 2
    elements = (patches + 1) * embed
    patch_embed = Convolution(
        name="patch_embed",
        positions_in=image_size**2,
        positions_out=patches,
        inputs=channels,
        outputs=embed,
        kernel=patch_size**2,
    )
    return (patch_embed, Table(name="class_token", elements=embed), *position("position", elements))


def position(name: str, elements: Size, *, traits: Traits = RESIDUAL) -> Operations:
    """Return a position embedding and its addition to the tokens."""
    # One operand: the elements of the table are read as parameters.
    added = Elementwise(name=f"add_{name}", variant="add", elements=elements, traits=traits)
    return (Table(name=name, elements=elements), added)


def attention_branch(*, times: Size, tokens: Size, embed: Size, heads: Size, width: Size) -> Operations:
    """Return an attention branch: norm, joint q, k and v of `width` each, attention, projection, residual sum."""
    return (
        Norm(name="norm1", times=times, tokens=tokens, channels=embed, traits=RESIDUAL),
        Linear(name="qkv", times=times, tokens=tokens, inputs=embed, outputs=3 * width),
        Attention(name="attention", times=times, heads=heads, width=width, queries=tokens, keys=tokens),
        Linear(name="proj", times=times, tokens=tokens, inputs=width, outputs=embed),
        residual("add1", times=times, elements=tokens * embed),
    )


def mlp_branch(*, times: Size, tokens: Size, embed: Size, hidden: Size, traits: Traits = RESIDUAL) -> Operations:
    """Return an MLP branch: norm, two linear layers with a GELU between them, residual sum."""
    return (
        Norm(name="norm2", times=times, tokens=tokens, channels=embed, traits=traits),
        Linear(name="fc1", times=times, tokens=tokens, inputs=embed, outputs=hidden),
        Elementwise(name="gelu", times=times, variant="gelu", elements=tokens * hidden),
        Linear(name="fc2", times=times, tokens=tokens, inputs=hidden, outputs=embed),
        residual("add2", times=times, elements=tokens * embed, traits=traits),
    )


def residual(name: str, *, times: Size, elements: Size, traits: Traits = RESIDUAL) -> Operation:
    """Return the sum of a branch and its input."""
    return Elementwise(name=name, times=times, variant="add", elements=elements, operands=2, traits=traits)


def head(
    *, tokens: Size, embed: Size, num_classes: int, pool: Operations = (), traits: Traits = RESIDUAL
) -> Operations:
    """Return the final norm, a pool if there is one, and the classifier."""
    return (
        Norm(name="norm", tokens=tokens, channels=embed, traits=traits),
        *pool,
        Linear(name="classifier", tokens=1, inputs=embed, outputs=num_classes),
    )
