"""No core: an image encoder by itself, frame by frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from rvm_jax.models.block_shapes import Blocks
from rvm_jax.models.cores.core import Core
from rvm_jax.models.dropout import TrainContext
from rvm_jax.models.layers import Execution

if TYPE_CHECKING:
    from rvm_jax.models.architecture import Architecture


class Identity(Core):
    """output = e, the tokens of the frame; there are no parameters, and the state is ()."""

    @classmethod
    def from_architecture(cls, arch: Architecture, *, execution: Execution, rngs: nnx.Rngs) -> Identity:
        """The same for every architecture."""
        return cls()

    @staticmethod
    def shapes(arch: Architecture, frames: int, num_tokens: int) -> Blocks:
        """No layers."""
        return Blocks(0, frames * num_tokens, arch.width, 0, ())

    def init_state(self, batch: int, tokens: jax.Array | jax.ShapeDtypeStruct) -> tuple[()]:
        """Nothing."""
        return ()

    def scan(
        self, tokens_BTMD: jax.Array, state: Any = None, learning: TrainContext | None = None
    ) -> tuple[jax.Array, tuple[()]]:
        """All frames: their tokens as float32 and ()."""
        return tokens_BTMD.astype(jnp.float32), ()
