"""What an export folder says of itself to people (README.md) and to preprocessing code."""

from rvm_jax.conversion import mapping

TEMPLATE = """---
library_name: rvm_jax
pipeline_tag: video-classification
tags:
- video
- self-supervised
- rvm
---

# RVM video encoder

A Recurrent Video Masked Autoencoder: a ViT encodes each frame, a recurrent core carries a state from frame to frame,
and a decoder, used in pre-training alone, rebuilds masked future frames.

| | |
| --- | --- |
{rows}

```python
import rvm_jax

model = rvm_jax.from_pretrained("path/to/this/folder")
features, state = model.encode(frames)  # (B, T, H, W, 3) uint8, or float in [0, 1] -> (B, T, M, D)
```

`model.safetensors` has the prefixes {prefixes}; features need only `encoder.` and `core.`.
Pixels are scaled to [0, 1], without mean and standard deviation.
"""


def model_card(model, facts):
    """README.md of an export folder; facts are {what: text} about the training."""
    arch, shapes = model.architecture, mapping.named_shapes(model)
    prefixes = sorted({name.split('/')[0] for name in shapes})
    rows = {
        'Parameters': f'{count(shapes):,} ({count(shapes, ("encoder", "core")):,} without the decoder)',
        'Encoder': f'ViT, patch {arch.patch_size}, width {arch.width}, {arch.encoder_layers} layers',
        'Core': f'{arch.core}, {arch.core_layers} layers',
        'Trained at': f'{arch.image_size} x {arch.image_size} pixels',
        **facts,
    }
    return TEMPLATE.format(
        rows='\n'.join(f'| {name} | {_cell(text)} |' for name, text in rows.items()),
        prefixes=', '.join(f'`{prefix}.`' for prefix in prefixes),
    )


def _cell(text):
    """Text that cannot break out of its table cell."""
    return ' '.join(text.replace('|', '\\|').split())


def preprocessor(model):
    """preprocessor_config.json in the keys that Hugging Face image processors use."""
    size = model.architecture.image_size
    return {
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': False,
        'do_resize': True,
        'size': {'height': size, 'width': size},
        'resample': 3,
    }


def count(shapes, prefixes=None):
    """Parameters in {name: shape}, of the given first path parts or of all."""
    from math import prod

    return sum(prod(shape) for name, shape in shapes.items() if prefixes is None or name.split('/')[0] in prefixes)
