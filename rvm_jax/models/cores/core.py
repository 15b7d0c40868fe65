"""What every core has: how it is made, what it costs, and how it takes frames."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, ClassVar

import jax
from flax import nnx

from rvm_jax.models.block_shapes import Blocks
from rvm_jax.models.dropout import TrainContext
from rvm_jax.models.layers import Execution

if TYPE_CHECKING:
    from rvm_jax.models.architecture import Architecture


class Core(nnx.Module):
    """Tokens of the frames of a clip and a state become features and the next state.

    Nothing is kept inside: a state is an argument and a result, and `scan` equals `step` by `step`.
    """

    is_streaming: ClassVar[bool] = True  # False: each call of `scan` is a window by itself, and the state is ()
    sizes: ClassVar[dict[str, tuple[int, int]]] = {}  # model size -> (layers, heads), if not those of the size itself
    # Of a core that is named MODULE:CLASS: the keys of config.model that it reads besides those that all cores have.
    keys: ClassVar[tuple[str, ...]] = ()

    @classmethod
    @abc.abstractmethod
    def from_architecture(cls, arch: Architecture, *, execution: Execution, rngs: nnx.Rngs) -> Core:
        """The core of a model of this architecture, with fresh parameters."""
        raise NotImplementedError

    @staticmethod
    @abc.abstractmethod
    def shapes(arch: Architecture, frames: int, num_tokens: int) -> Blocks:
        """The Blocks that a clip of so many frames, of num_tokens tokens each, goes through.

        passes counts a layer once for each time that a clip goes through it: a core that takes frames one by one has
        frames x layers. Costs, memory and `rvm plan` follow from these and from the parameters.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def init_state(self, batch: int, tokens: jax.Array | jax.ShapeDtypeStruct) -> Any:
        """The state before the first frame; tokens_BMD or tokens_BTMD gives M and D."""
        raise NotImplementedError

    @abc.abstractmethod
    def scan(
        self, tokens_BTMD: jax.Array, state: Any = None, learning: TrainContext | None = None
    ) -> tuple[jax.Array, Any]:
        """All frames in order: features_BTMD float32 and the last state. None starts from `init_state`."""
        raise NotImplementedError

    def step(self, tokens_BMD: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """One frame: features_BMD float32 and the next state."""
        features_BTMD, state = self.scan(tokens_BMD[:, None], state)
        return features_BTMD[:, 0], state
