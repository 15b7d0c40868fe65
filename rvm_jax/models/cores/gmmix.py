"""The GatedMambaMix core: MambaMix whose layers choose, channel by channel, what time adds (arXiv 2605.19137)."""

import jax
import jax.numpy as jnp

from rvm_jax.models import derivatives, layers
from rvm_jax.models.cores.mamba import MambaCore
from rvm_jax.models.cores.mambamix import MixBlock


class GatedMixBlock(MixBlock):
    """z = Spatial(x), y = dropout(Mamba(LN(z))), g = sigmoid(W_g [z, z + y] + b_g); z + g * y."""

    def __init__(self, width, heads, *, dropout, execution, rngs, **sizes):
        super().__init__(width, heads, dropout=dropout, execution=execution, rngs=rngs, **sizes)
        self.block_dtype = execution.precision.block
        self.gate = layers.Dense(2 * width, width, rngs=rngs)

    def __call__(self, x_BTMD, state, learning):
        """Returns (B, T, M, D) and the next state."""
        z_BTMD = derivatives.kept(self.spatial(x_BTMD, learning))
        y_BTMD, state = self.temporal.change(z_BTMD, state, learning and learning.fold_in(4))
        both = jnp.concatenate([z_BTMD, z_BTMD + y_BTMD], axis=-1)
        gate_BTMD = jax.nn.sigmoid(derivatives.kept(self.gate(both.astype(self.block_dtype))))
        return z_BTMD + gate_BTMD * y_BTMD, state


class GMMix(MambaCore):
    """Layers of z = Spatial(x), y = dropout(Mamba(LN(z))), x <- (1 - g) z + g (z + y), with the gate
    g = sigmoid(W_g [z, z + y] + b_g) for each token and channel; output = LN(x).
    """

    def __init__(self, *, width, depth, heads, d_state=16, d_conv=4, expand=2, dropout, execution, rngs):
        sizes = {'d_state': d_state, 'd_conv': d_conv, 'expand': expand}

        def make_block(rngs):
            return GatedMixBlock(width, heads, **sizes, dropout=dropout, execution=execution, rngs=rngs)

        super().__init__(make_block, width=width, depth=depth, **sizes, execution=execution, rngs=rngs)
