"""Shapes of the layers that a clip passes through, as encoders and cores state them."""

from typing import NamedTuple


class Attention(NamedTuple):
    """Attentions of one shape that run side by side: `groups` sequences of queries, each with its own keys."""

    groups: int
    queries: int
    keys: int
    heads: int
    head_dim: int


class Recurrence(NamedTuple):
    """Mamba over the frames: channels inside, and numbers that each of them carries for every token of a frame."""

    tokens: int
    channels: int
    state: int


class Blocks(NamedTuple):
    """Layers of one shape, as often as a clip passes through one; tokens are those of a clip. mlp 0: it has none."""

    passes: int
    tokens: int
    width: int
    mlp: int
    attentions: tuple[Attention, ...]
    is_gated: bool = False  # the MLP
    is_rotated: bool = False  # queries and keys, by RoPE
    recurrence: Recurrence | None = None
