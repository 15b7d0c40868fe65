"""The GatedMambaMix core: MambaMix whose layers choose, channel by channel, what time adds (arXiv 2605.19137)."""

import jax
import jax.numpy as jnp

from rvm_jax.models import derivatives, layers
from rvm_jax.models.cores.mambamix import MambaMix, MixBlock
from rvm_jax.models.cores.selective_scan import MambaState
from rvm_jax.models.dropout import TrainContext


class GatedMixBlock(MixBlock):
    """z = Spatial(x), y = dropout(Mamba(LN(z))), g = sigmoid(W_g [z, z + y] + b_g); z + g * y."""

    def __init__(self, width, heads, *, dropout, execution, rngs, **sizes):
        super().__init__(width, heads, dropout=dropout, execution=execution, rngs=rngs, **sizes)
        self.block_dtype = execution.precision.block
        self.gate = layers.Dense(2 * width, width, rngs=rngs)

    def __call__(
        self, x_BTMD: jax.Array, state: MambaState, learning: TrainContext | None
    ) -> tuple[jax.Array, MambaState]:
        """Returns (B, T, M, D) and the next state."""
        z_BTMD = derivatives.kept(self.spatial(x_BTMD, learning))
        y_BTMD, state = self.temporal.change(z_BTMD, state, learning and learning.fold_in(4))
        both = jnp.concatenate([z_BTMD, z_BTMD + y_BTMD], axis=-1)
        gate_BTMD = jax.nn.sigmoid(derivatives.kept(self.gate(both.astype(self.block_dtype))))
        return z_BTMD + gate_BTMD * y_BTMD, state


class GMMix(MambaMix):
    """Layers of z = Spatial(x), y = dropout(Mamba(LN(z))), x <- (1 - g) z + g (z + y), with the gate
    g = sigmoid(W_g [z, z + y] + b_g) for each token and channel; output = LN(x).
    """

    block = GatedMixBlock
