"""Recurrent tracker of points or boxes: one latent per track, corrected frame by frame (MooG)."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from rvm_jax.models import layers
from rvm_jax.probing.readouts.attention import swap_axes
from rvm_jax.probing.readouts.readout_layers import EXECUTION, MLP, CrossAttentionBlock, QueryNet, scale_norm


class RecurrentTracker(nnx.Module):
    """z = query at its query frame;  c_t = z + Tx(z, tokens_t);  z = norm(c_t + MLP(c_t));  output = heads(c_t).

    Tracks do not see each other. coordinates: 2 for points (with a sigmoid at the end) or 4 for boxes (without).
    """

    def __init__(self, width, coordinates, *, channels, heads, hidden, depth, rngs):
        self.coordinates = coordinates
        self.query_net = QueryNet(coordinates, channels, rngs=rngs)
        self.dense_in = layers.Dense(channels, channels, rngs=rngs)

        def make_block(rngs):
            return CrossAttentionBlock(channels, width, qkv=channels, heads=heads, hidden=hidden, rngs=rngs)

        self.layers = layers.Stack(make_block, depth, execution=EXECUTION, rngs=rngs)
        self.norm = scale_norm(channels, rngs=rngs)
        self.dense_out = layers.Dense(channels, channels, rngs=rngs)
        self.predictor = MLP(channels, channels, channels, gelu='tanh', rngs=rngs)
        self.state_norm = scale_norm(channels, epsilon=1e-4, rngs=rngs)
        self.values = MLP(channels, channels, coordinates, gelu='tanh', rngs=rngs)
        self.logits = MLP(channels, channels, 2, gelu='tanh', rngs=rngs)

    def __call__(
        self, features_BTMD: jax.Array, positions_BQc: jax.Array, frames_BQ: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Tracks (B, Q, T, c), and logits (B, Q, T) that a track is visible and its place certain.

        positions_BQc: x, y or x0, y0, x1, y1 in frame frames_BQ. Frames before it have arbitrary values, and so has
        every frame of a track whose query frame is not in the clip.
        """
        start_BQE = self.first_latents(positions_BQc)
        tracks, visible, certain, _ = self.track(features_BTMD, start_BQE, start_BQE, frames_BQ)
        return tracks, visible, certain

    def first_latents(self, positions_BQc: jax.Array) -> jax.Array:
        """Latents (B, Q, E) at the query frame."""
        positions_BQc = positions_BQc if self.coordinates == 2 else swap_axes(positions_BQc)
        return self.query_net(positions_BQc)

    def track(
        self, features_BTMD: jax.Array, latents_BQE: jax.Array, start_BQE: jax.Array, frames_BQ: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """As a call, for one part of a clip: takes the latents of the part before, and also returns its own."""
        tokens_TBMD = rearrange(features_BTMD.astype(jnp.float32), 'b t m d -> t b m d')

        def step(latents_BQE, inputs):
            frame, tokens_BMD = inputs
            latents_BQE = jnp.where((frames_BQ == frame)[..., None], start_BQE, latents_BQE)
            read_BQE = self.layers(self.dense_in(latents_BQE), tokens_BMD)
            corrected_BQE = latents_BQE + self.dense_out(self.norm(read_BQE))
            return self.state_norm(corrected_BQE + self.predictor(corrected_BQE)), corrected_BQE

        frames_T = jnp.arange(len(tokens_TBMD))
        latents_BQE, corrected_TBQE = jax.lax.scan(step, latents_BQE, (frames_T, tokens_TBMD))
        corrected_BQTE = rearrange(corrected_TBQE, 't b q e -> b q t e')
        values_BQTc, logits_BQT2 = self.values(corrected_BQTE), self.logits(corrected_BQTE)
        values_BQTc = jax.nn.sigmoid(values_BQTc) if self.coordinates == 2 else swap_axes(values_BQTc)
        return values_BQTc, logits_BQT2[..., 0], logits_BQT2[..., 1], latents_BQE
