"""How far away every pixel is: ScanNet (RVM, section 11; WALT probes)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.probing.metrics import depth as metrics
from rvm_jax.probing.readouts.attention import AttentionReadout, blocks_to_frames
from rvm_jax.probing.readouts.dense import DepthDecoder, pixel_positions
from rvm_jax.probing.readouts.streaming import FrameReadout
from rvm_jax.probing.tasks.losses import average, known, masked_mean


@dataclasses.dataclass(frozen=True)
class Depth:
    """L2 on log depth (on meters if log_depth=False) of pixels with known depth; AbsRel.

    One learned query for each block of 2 frames x 8 x 8 pixels of a clip; streaming, for each 8 x 8 pixels of a frame.
    per_pixel is the third readout: single pixels query their frame (`DepthDecoder`, sizes decoder_*). Training takes
    every train_stride-th pixel of a grid with a random offset, evaluation every eval_stride-th.
    """

    image_size: int = 224
    channels: int = 1024
    heads: int = 16
    block: tuple[int, int, int] = (2, 8, 8)  # frames, rows, columns
    streaming: bool = False
    per_pixel: bool = False
    decoder_zeros: int = 1024  # the width of the features in the publication
    decoder_channels: int = 512
    decoder_heads: int = 2
    train_stride: int = 8
    eval_stride: int = 4
    log_depth: bool = True

    def __post_init__(self):
        if self.streaming and self.per_pixel:
            raise UserError('streaming and per_pixel', 'are two different readouts', 'choose one')
        parts = (self.train_stride, self.eval_stride) if self.per_pixel else self.block[1:]
        if any(self.image_size % part for part in parts):
            raise UserError(f'image_size {self.image_size}', f'must be a multiple of {parts}', 'choose another')

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of settings that the chosen readout does not read."""
        of_decoder = ('decoder_zeros', 'decoder_channels', 'decoder_heads', 'train_stride', 'eval_stride')
        return ('channels', 'heads', 'block') if self.per_pixel else of_decoder

    def readout(self, width: int, num_frames: int, rngs: nnx.Rngs) -> nnx.Module:
        """The module that `loss` and `predict` take, for features of this width."""
        if self.per_pixel:
            return DepthDecoder(
                width, zeros=self.decoder_zeros, channels=self.decoder_channels, heads=self.decoder_heads, rngs=rngs
            )
        grid, block = self._grid(num_frames)
        sizes = {'channels': self.channels, 'heads': self.heads, 'rngs': rngs}
        if self.streaming:
            return FrameReadout(width, math.prod(block), num_queries=math.prod(grid), has_code=True, **sizes)
        return AttentionReadout(width, math.prod(block), num_queries=math.prod(grid), num_frames=num_frames, **sizes)

    def loss(
        self, readout: Any, features_BTMD: jax.Array, batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean squared error over known pixels of all clips."""
        truth_BTHW = batch['depth_THW']
        if self.per_pixel:
            rows, columns = (_grid_lines(self.image_size, self.train_stride, o) for o in self._offsets(truth_BTHW))
            output_BTHW = self._at_pixels(readout, features_BTMD, rows, columns)
            truth_BTHW = truth_BTHW[:, :, rows][..., columns]
        else:
            output_BTHW = self._whole(readout, features_BTMD)
        has_depth = truth_BTHW > 0
        target_BTHW = known(truth_BTHW, has_depth, filler=1)
        target_BTHW = jnp.log(target_BTHW) if self.log_depth else target_BTHW
        return masked_mean(jnp.square(output_BTHW - target_BTHW), has_depth), {}

    def predict(self, readout: Any, features_BTMD: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`depth_THW` in meters; with per_pixel, of every eval_stride-th pixel."""
        if self.per_pixel:
            lines = _grid_lines(self.image_size, self.eval_stride)
            output_BTHW = self._at_pixels(readout, features_BTMD, lines, lines)
        else:
            output_BTHW = self._whole(readout, features_BTMD)
        return {'depth_THW': jnp.exp(output_BTHW) if self.log_depth else output_BTHW}

    def measure(self, found: Mapping[str, np.ndarray], example: Mapping[str, Any]) -> dict[str, Any]:
        """AbsRel of one clip."""
        lines = _grid_lines(self.image_size, self.eval_stride if self.per_pixel else 1)
        abs_rel = metrics.abs_rel(found['depth_THW'], example['depth_THW'][:, lines][:, :, lines])
        return {'id': example['id'], 'abs_rel': abs_rel}

    def scores(self, measures: Sequence[dict[str, Any]]) -> dict[str, float]:
        """AbsRel, by clip and then over clips."""
        return average(measures)

    def _grid(self, num_frames):
        """How many blocks along time, rows and columns, and the block. The last block may reach beyond the clip."""
        frames, rows, columns = (1, *self.block[1:]) if self.streaming else self.block
        times = 1 if self.streaming else math.ceil(num_frames / frames)
        return (times, self.image_size // rows, self.image_size // columns), (frames, rows, columns)

    def _whole(self, readout, features_BTMD):
        num_frames = features_BTMD.shape[1]
        outputs = readout(features_BTMD)
        if self.streaming:
            outputs = rearrange(outputs, 'b t q k -> (b t) q k')
            return rearrange(blocks_to_frames(outputs, *self._grid(1)), '(b t) 1 h w -> b t h w', t=num_frames)
        return blocks_to_frames(outputs, *self._grid(num_frames))[:, :num_frames]

    def _at_pixels(self, readout, features_BTMD, rows, columns):
        pixels_Q2 = pixel_positions(rows, columns, (self.image_size, self.image_size))
        return rearrange(readout(features_BTMD, pixels_Q2), 'b t (h w) -> b t h w', h=len(rows))

    def _offsets(self, truth_BTHW):
        """Offset (row, column) of the training grid. A loss gets no random key, so the batch itself is the seed."""
        bits = jax.lax.bitcast_convert_type(truth_BTHW.astype(jnp.float32).sum(), jnp.int32)
        return jax.random.randint(jax.random.fold_in(jax.random.key(0), bits), (2,), 0, self.train_stride)


def _grid_lines(size, stride, offset=None):
    """Every stride-th row or column; without an offset, the middle one of each stride."""
    return np.arange(size // stride) * stride + (stride // 2 if offset is None else offset)
