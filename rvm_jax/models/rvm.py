"""Recurrent Video Masked Autoencoder: encode, step, reconstruct (RVM, arXiv 2512.13684)."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.models import masking, patches, targets
from rvm_jax.models.adapters import tapped_blocks
from rvm_jax.models.decoder import NUM_DELTAS, flatten_time
from rvm_jax.models.dropout import TrainContext
from rvm_jax.models.layers import compiled

OVERSHOOT = 0.25  # resizing with a bicubic filter goes a little beyond [0, 1]


class Reconstruction(NamedTuple):
    """What `RVM.reconstruct` gives."""

    pixels: jax.Array  # (B, F, H, W, 3) float32, not clipped
    visible: jax.Array  # (B, F, V) int32, patches that the model saw
    features: jax.Array  # (B, T, M, D) float32, core output of the source frames
    predicted: jax.Array | None = None  # (B, F, N, D) float32, of the feature head where there is one
    statistics: Any = ()  # running statistics after this batch as a tree of parameters, where the model learns


class RVM(nnx.Module):
    """An image encoder, a core over frames, and a decoder that rebuilds masked target frames.

    The encoder is a ViT that is trained and shared by source and target frames, or a frozen image encoder, with
    adapters (several of its depths become one set of tokens) and a way for target frames of its own; both may be None.
    architecture is the record that `build.py` made it from; it is stored with the weights. decoder may be None
    (weights released without one): then the model encodes but does not reconstruct.
    """

    def __init__(self, architecture, encoder, adapters, core, target, decoder):
        self.architecture = architecture
        self.encoder, self.adapters, self.core = encoder, adapters, core
        self.target, self.decoder = target, decoder

    @property
    def image_size(self) -> int:
        """Pixels on a side that it is trained at; any size from one patch on works."""
        return self.architecture.image_size

    @property
    def patch_size(self) -> int:
        """Pixels on a side of a patch."""
        return self.encoder.patch_size

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens of a frame that come before its patches (CLS)."""
        return self.encoder.num_prefix_tokens

    @property
    def window(self) -> int | None:
        """Frames that a core sees at once if it does not stream, as many as in training; None where it streams."""
        return None if self.core.is_streaming else self.architecture.num_source

    def encode(self, frames_BTHWC: jax.Array | np.ndarray, state: Any = None) -> tuple[jax.Array, Any]:
        """Features of a video, whole or in pieces: T frames at once equal T calls that carry the state.

        frames: uint8, or float in [0, 1]; sides are multiples of the patch. Returns features (B, T, M, D) float32,
        M = prefix tokens + h*w with CLS first, and the state for the next call. Raises UserError for another shape or
        a state of another frame size, and, unless under jit, for floats of another range.
        A core that is not streaming (self_attention) carries nothing: each call is a window by itself.
        """
        frames_BTHWC = self._checked(frames_BTHWC, 'frames', 'B, T, H, W, 3')
        h, w = patches.grid_size(*frames_BTHWC.shape[2:4], patch_size=self.patch_size)
        tokens_MD = jax.ShapeDtypeStruct((self.num_prefix_tokens + h * w, self.encoder.width), jnp.float32)
        first_state = self.core.init_state(len(frames_BTHWC), tokens_MD)
        if state is not None and jax.tree.map(jnp.shape, state) != jax.tree.map(jnp.shape, first_state):
            raise UserError(
                f'state of shape {jax.tree.map(jnp.shape, state)}',
                f'frames of shape {frames_BTHWC.shape} go with {jax.tree.map(jnp.shape, first_state)}',
                'batch and frame size must not change within a stream; start a new one with state=None',
            )
        return self._encode(frames_BTHWC, first_state if state is None else state)

    def reconstruct(
        self,
        source: jax.Array | np.ndarray,
        target: jax.Array | np.ndarray,
        deltas: jax.Array | np.ndarray | None,
        visible: jax.Array | np.ndarray | None = None,
        key: jax.Array | None = None,
        learning: TrainContext | None = None,
    ) -> Reconstruction:
        """Rebuild masked target frames from source frames.

        source (B, T, H, W, 3), target (B, F, H, W, 3): uint8, or float in [0, 1]. deltas (B, F) int: frames from
        source to target, or None to add nothing. visible (B, F, V) int: patches kept, in the order they are fed;
        without it they are drawn by key (without a key, the same draw every time). learning: given in
        training alone, see dropout.py.
        Raises UserError for other shapes, if the weights came without a decoder, and, unless under jit, for floats,
        deltas or patches of another range.
        """
        if self.decoder is None:
            raise UserError(
                'reconstruct', 'these weights do not have a decoder', 'load a file that has the decoder keys'
            )
        source = self._checked(source, 'source', 'B, T, H, W, 3')
        target = self._checked(target, 'target', 'B, F, H, W, 3')
        height, width = target.shape[2:4]
        if source.shape[2:4] != (height, width):
            raise UserError(
                f'source {source.shape} and target {target.shape}',
                'both need one frame size',
                'resize or crop the frames',
            )
        if len(source) != len(target):
            raise UserError(
                f'source {source.shape} and target {target.shape}', 'hold unequal numbers of clips', 'pair them up'
            )
        if deltas is not None:
            deltas = _checked_integers(deltas, 'deltas', target.shape[:2], 'B, F')
            if self.decoder.delta_embedder is not None:
                _check_range(deltas, 'deltas', 0, NUM_DELTAS - 1, 'count frames from source to target')
        if visible is None:
            visible = self.random_visible(jax.random.key(0) if key is None else key, target.shape)
        else:
            visible = _checked_integers(visible, 'visible', target.shape[:2], 'B, F, V')
            last = math.prod(patches.grid_size(height, width, patch_size=self.patch_size)) - 1
            _check_range(visible, 'visible', 0, last, 'give indices of patches')
        return self._reconstruct(source, target, deltas, visible, learning)

    def random_visible(self, key: jax.Array, target_shape: tuple[int, ...]) -> jax.Array:
        """Draw the patches (B, F, V) that stay visible of targets (B, F, H, W, 3), at this model's mask ratio."""
        height, width = target_shape[2:4]
        num_patches = (height // self.patch_size) * (width // self.patch_size)
        arch = self.architecture
        return masking.random_visible(key, target_shape[:2], num_patches, arch.mask_ratio, shared=arch.shared_mask)

    def step(self, frame_BHWC: jax.Array | np.ndarray, state: Any = None) -> tuple[jax.Array, Any]:
        """One frame of a stream: features (B, M, D) and the next state. UserError if the core is not streaming."""
        if not self.core.is_streaming:
            core = self.architecture.core
            raise UserError('step', f'{core} sees windows of frames at once', 'call encode with a window of frames')
        features_BTMD, state = self.encode(frame_BHWC[:, None], state)
        return features_BTMD[:, 0], state

    def image_features(self, frames_BFHWC: jax.Array) -> jax.Array:
        """Patches of frames in [0, 1] after the encoder's final norm, each frame by itself, (B, F, N, D)."""
        return self.image_tokens(frames_BFHWC, self.encoder.num_layers)[:, :, self.num_prefix_tokens :]

    def image_tokens(self, frames_BTHWC: jax.Array, block: int) -> jax.Array:
        """Tokens of frames in [0, 1] after so many blocks of the encoder, each frame by itself, (B, T, M, D).

        block 0 gives the embeddings. The encoder's final norm comes after all of its blocks, not after fewer.
        """
        pixels = self._encoder_input(rearrange(frames_BTHWC, 'b t h w c -> (b t) h w c'))
        tokens_KMD = self.encoder.tapped(pixels, (block - 1,), is_normed=block == self.encoder.num_layers)[0]
        return rearrange(tokens_KMD, '(b t) m d -> b t m d', b=len(frames_BTHWC))

    def core_tokens(self, frames_BTHWC: jax.Array, state: Any, block: int) -> tuple[jax.Array, Any]:
        """Tokens of frames in [0, 1] after so many blocks within the core, (B, T, M, D), and its next state.

        block 0 gives what the core reads. For cores whose `scan` knows blocks.
        """
        tokens_BTMD, _ = self._tokens(frames_BTHWC, None)
        return self.core.scan(tokens_BTMD, state, block=block)

    @compiled
    def _encode(self, frames_BTHWC, state):
        return self._features(frames_BTHWC, state)[:2]

    def _features(self, frames_BTHWC, state, learning=None):
        """Features of frames, the core's last state, and running statistics where the model learns."""
        tokens_BTMD, statistics = self._tokens(to_unit_range(frames_BTHWC), learning)
        features_BTMD, state = self.core.scan(tokens_BTMD, state, learning)
        return features_BTMD, state, statistics

    def _tokens(self, pixels_BTHWC, learning):
        """What the core reads, (B, T, M, D), and running statistics."""
        if not self.architecture.is_frozen and not self.core.is_streaming:
            return self.encoder.encode_clip(pixels_BTHWC), ()
        batch, statistics = len(pixels_BTHWC), ()
        pixels = self._encoder_input(rearrange(pixels_BTHWC, 'b t h w c -> (b t) h w c'))
        if self.architecture.is_frozen:
            tokens, statistics = self._frozen_tokens(pixels, learning)
        else:
            tokens = self.encoder(pixels)
        return rearrange(tokens, '(b t) m d -> b t m d', b=batch), statistics

    def _frozen_tokens(self, pixels_BHWC, learning):
        taps = tapped_blocks(self.architecture.taps, self.encoder.num_layers)
        tapped_JBMD = jax.lax.stop_gradient(self.encoder.tapped(pixels_BHWC, taps))
        if self.adapters is None:
            return tapped_JBMD[-1], ()
        tokens, statistics = self.adapters(tapped_JBMD, self.num_prefix_tokens, learning)
        return tokens, {'adapters': {'norm': statistics}} if statistics else ()

    def _encoder_input(self, pixels):
        """Pixels in [0, 1] as the encoder wants them."""
        if not any(self.encoder.mean) and set(self.encoder.std) == {1.0}:
            return pixels
        return (pixels - jnp.asarray(self.encoder.mean)) / jnp.asarray(self.encoder.std)

    @compiled
    def _reconstruct(self, source_BTHWC, target_BFHWC, deltas_BF, visible_BFV, learning):
        features_BTMD, _, statistics = self._features(source_BTHWC, None, learning)
        target_BFHWC = to_unit_range(target_BFHWC)
        grid = patches.grid_size(*target_BFHWC.shape[2:4], patch_size=self.patch_size)
        patches_BFNP, predicted_BFND = self.decoder(
            self._target_tokens(target_BFHWC, visible_BFV),
            visible_BFV,
            deltas_BF,
            self.decoder.embed(flatten_time(features_BTMD)),
            num_patches=grid[0] * grid[1],
        )
        pixels_BFHWC = patches.to_pixels(patches_BFNP, grid, self.patch_size)
        return Reconstruction(pixels_BFHWC, visible_BFV, features_BTMD, predicted_BFND, statistics)

    def _target_tokens(self, target_BFHWC, visible_BFV):
        """Visible patches of the targets as tokens of decoder width, (B, F, prefix+V, E), prefix first."""
        if self.target is None:
            return self.decoder.embed(targets.fold_frames(self.encoder.encode_visible, target_BFHWC, visible_BFV))
        if self.architecture.target == 'light_target':
            return targets.fold_frames(self.target, target_BFHWC, visible_BFV)
        encode = functools.partial(self.target, self.encoder)
        return targets.fold_frames(encode, self._encoder_input(target_BFHWC), visible_BFV)

    def _checked(self, frames, name, axes):
        frames = frames if isinstance(frames, jax.Array) else np.asarray(frames)
        if frames.ndim != 5 or frames.shape[-1] != 3 or min(frames.shape[2:4]) < self.patch_size:
            raise UserError(
                f'{name} of shape {frames.shape}',
                f'expected ({axes}) with at least {self.patch_size} pixels a side',
                'add the missing axes or enlarge the frames',
            )
        height, width = frames.shape[2:4]
        h, w = patches.grid_size(height, width, patch_size=self.patch_size)
        if (height, width) != (h * self.patch_size, w * self.patch_size):
            raise UserError(
                f'{name} of {height} x {width} pixels',
                f'sides must be a multiple of the patch, {self.patch_size}',
                f'resize them, or crop them to {h * self.patch_size} x {w * self.patch_size}',
            )
        if frames.dtype != jnp.uint8 and not jnp.issubdtype(frames.dtype, jnp.floating):
            raise UserError(f'{name} of {frames.dtype}', 'pixels are uint8, or float in [0, 1]', 'convert them')
        frames = jnp.asarray(frames)
        if frames.dtype != jnp.uint8:
            _check_range(
                frames, name, -OVERSHOOT, 1 + OVERSHOOT, 'give uint8, or divide by 255; the model norms them itself'
            )
        return frames


def _check_range(values, name, least, most, fix):
    """UserError if concrete values are not all in a range; one pass. Under jit they are not known."""
    if isinstance(values, jax.core.Tracer) or not values.size:
        return
    low, high = jax.device_get(_extremes(values))
    if not (least <= low and high <= most):  # also if they are not numbers
        wanted = (
            'floats are pixels in [0, 1]'
            if jnp.issubdtype(values.dtype, jnp.floating)
            else f'expected {least} to {most}'
        )
        raise UserError(f'{name} from {low:.4g} to {high:.4g}', wanted, fix)


@jax.jit
def _extremes(values):
    return values.min(), values.max()


def _checked_integers(values, name, leading, axes):
    values = values if isinstance(values, jax.Array) else np.asarray(values)
    if values.ndim != len(axes.split()) or values.shape[: len(leading)] != leading:
        raise UserError(f'{name} of shape {values.shape}', f'expected ({axes}) with (B, F) = {leading}', 'reshape them')
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise UserError(f'{name} of {values.dtype}', 'they are counted in whole numbers', 'convert them to integers')
    return jnp.asarray(values)


def to_unit_range(frames: jax.Array) -> jax.Array:
    """uint8 pixels to float32 in [0, 1]; floats are taken to be there already."""
    return frames.astype(jnp.float32) / 255 if frames.dtype == jnp.uint8 else frames.astype(jnp.float32)
