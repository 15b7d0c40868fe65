"""The pre-training head: target tokens attend to the source features and become pixels (RVM, section 3.3, Table 6)."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from rvm_jax.models import layers, masking, positions

NUM_DELTAS = 64  # a clip has 64 frames; a delta outside 0..63 adds the bias alone, as released


class Decoder(nnx.Module):
    """Cross-attention decoder of one width for every encoder size.

    All targets of a clip share one set of source keys and values (the released code tiles them: same numbers, more
    work). The source frames carry no time code there; the delta says how far away each target is.
    """

    def __init__(
        self, *, input_width, width, depth, heads, head_dim, mlp, patch_size, gelu, block_order, delta_embedding,
        feature_head, execution, rngs,
    ):  # fmt: skip
        self.width, self.tokens_dtype = width, execution.precision.tokens
        self.embedder = layers.Dense(input_width, width, rngs=rngs)
        self.delta_embedder = layers.Dense(NUM_DELTAS, width, rngs=rngs) if delta_embedding else None
        self.mask_token = nnx.Param(0.02 * nnx.initializers.normal(1.0)(rngs.params(), (1, width)))

        def make_block(rngs):
            return layers.CrossBlock(
                width, heads, head_dim, mlp, gelu=gelu, order=block_order, execution=execution, rngs=rngs
            )

        self.layers = layers.Stack(make_block, depth, execution=execution, rngs=rngs)
        self.norm = layers.layer_norm(width, execution.precision.block, rngs=rngs)
        self.detokenizer = layers.Dense(width, patch_size * patch_size * 3, rngs=rngs)
        self.feature_head = layers.Dense(width, input_width, rngs=rngs) if feature_head else None

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Encoder tokens or core features (..., D) to decoder width (..., E); one layer serves both, as released."""
        return self.embedder(tokens.astype(self.tokens_dtype))

    def __call__(
        self,
        tokens_BFME: jax.Array,
        visible_BFV: jax.Array,
        deltas_BF: jax.Array | None,
        source_BKE: jax.Array,
        num_patches: int,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Patches (B, F, N, P*P*3) float32 from embedded target tokens (prefix first, then visible patches).

        source_BKE: embedded features of all source frames. deltas_BF in frames, or None: then nothing is added.
        Also returns what the feature head makes of each patch, (B, F, N, D) float32, or None without one.
        """
        num_prefix = tokens_BFME.shape[2] - visible_BFV.shape[2]
        prefix_BFpE, patches_BFVE = tokens_BFME[:, :, :num_prefix], tokens_BFME[:, :, num_prefix:]
        grid_BFNE = masking.restore_grid(patches_BFVE, visible_BFV, self.mask_token[0], num_patches)
        if deltas_BF is not None and self.delta_embedder is not None:
            one_hot = jax.nn.one_hot(deltas_BF, NUM_DELTAS, dtype=self.tokens_dtype)
            grid_BFNE = grid_BFNE + self.delta_embedder(one_hot)[:, :, None]
        table_NE = jnp.asarray(positions.sincos_table(num_patches, self.width))
        x_BFQE = jnp.concatenate([prefix_BFpE, grid_BFNE + table_NE.astype(self.tokens_dtype)], axis=2)
        x_BFNE = self.norm(self.layers(x_BFQE, source_BKE))[:, :, num_prefix:]
        features_BFND = None if self.feature_head is None else self.feature_head(x_BFNE).astype(jnp.float32)
        return self.detokenizer(x_BFNE).astype(jnp.float32), features_BFND


def flatten_time(features_BTMD: jax.Array) -> jax.Array:
    """Features of all source frames as one sequence (B, T*M, D), time outermost."""
    return rearrange(features_BTMD, 'b t m d -> b (t m) d')
