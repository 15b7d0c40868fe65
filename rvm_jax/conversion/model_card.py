"""What an export folder says of itself to people (README.md) and to preprocessing code."""

import textwrap
from collections.abc import Container, Mapping
from typing import Any

from rvm_jax import plugins
from rvm_jax.conversion.image_encoders import LICENSES
from rvm_jax.models import param_names
from rvm_jax.models.adapters import STATISTICS
from rvm_jax.models.catalog import NO_CORE, core_class
from rvm_jax.models.rvm import RVM

TEMPLATE = """---
library_name: rvm_jax
pipeline_tag: video-classification
tags:
- video
- self-supervised
- rvm
---

# RVM video encoder

{intro}

| | |
| --- | --- |
{rows}

```python
import rvm_jax

model = rvm_jax.from_pretrained("path/to/this/folder")
features, state = model.encode(frames)  # (B, T, H, W, 3) uint8, or float in [0, 1] -> (B, T, M, D)
```

`model.safetensors` has the prefixes {prefixes}; features need {needed}.
{pixels}
{licence}"""
STREAMING = (
    'A Recurrent Video Masked Autoencoder: a {encoder} encodes each frame, a core carries a state from frame to frame,'
    ' and a decoder, used in pre-training alone, rebuilds masked future frames.'
)
WINDOWS = (
    'A Video Masked Autoencoder: a {encoder} encodes frames, more layers let all frames of a window attend to each'
    ' other, and a decoder, used in pre-training alone, rebuilds masked future frames.'
)
ALONE = 'The {encoder} by itself, each frame as an image: its last tokens are the features, nothing carries over.'
PIXELS = 'Pixels are scaled to [0, 1], without mean and standard deviation.'
PIXELS_OF_FROZEN = (
    'Pixels are scaled to [0, 1]; the model itself takes off the mean and deviation that its encoder wants.'
)
OWN_CORE = (
    'the core is no part of rvm_jax: `import {module}` before `from_pretrained`, or set the environment variable '
    'RVM_PLUGINS={module}, where that module can be imported'
)
LICENCE = """
## License of the image encoder

`encoder.` holds weights of {family}; whoever passes this folder on passes them on. Of those that were released:
{name}: {terms}.
"""
FOR_TRAINING = ('decoder', 'target')  # parts that features do not need


def model_card(model: RVM, facts: Mapping[str, str]) -> str:
    """README.md of an export folder; facts are {what: text} about the training."""
    arch, shapes = model.architecture, param_names.named_shapes(model)
    prefixes = sorted({name.split('/')[0] for name in shapes})
    vit = f'patch {arch.patch_size}, width {arch.width}, {arch.encoder_layers} layers'
    frozen = {'vit': f'ViT, {vit}', 'rvm': f'ViT of another RVM, frozen, {vit}'}
    rows = {
        'Parameters': f'{count(shapes):,} ({count_for_features(shapes):,} without the decoder)',
        'Encoder': frozen.get(arch.encoder, f'{arch.encoder}, frozen, {vit}'),
        'Core': f'{arch.core}, {arch.core_layers} layers',
        'Trained at': f'{arch.image_size} x {arch.image_size} pixels',
        **({'Code': OWN_CORE.format(module=arch.core.partition(':')[0])} if plugins.is_name(arch.core) else {}),
        **facts,
    }
    return TEMPLATE.format(
        intro=textwrap.fill(_intro(arch).format(encoder=_encoder(arch)), 118),
        rows='\n'.join(f'| {name} | {_cell(text)} |' for name, text in rows.items()),
        prefixes=', '.join(f'`{prefix}.`' for prefix in prefixes),
        needed=', '.join(f'`{prefix}.`' for prefix in prefixes if prefix not in FOR_TRAINING),
        pixels=PIXELS_OF_FROZEN if arch.is_frozen else PIXELS,
        licence=_licence(arch),
    )


def _intro(arch):
    if arch.core == NO_CORE:
        return ALONE
    return STREAMING if core_class(arch.core).is_streaming else WINDOWS


def _encoder(arch):
    return f'frozen {arch.encoder} ViT' if arch.is_frozen else 'ViT'


def _licence(arch):
    if arch.image_encoder is None:
        return ''
    name, terms = LICENSES[arch.encoder]
    return LICENCE.format(family=arch.encoder, name=name, terms=terms)


def _cell(text):
    """Text that cannot break out of its table cell."""
    return ' '.join(text.replace('|', '\\|').split())


def preprocessor(model: RVM) -> dict[str, Any]:
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


def count(shapes: Mapping[str, tuple[int, ...]], prefixes: Container[str] | None = None) -> int:
    """Parameters in {name: shape}, of the given first path parts or of all; running statistics are none."""
    from math import prod

    return sum(
        prod(shape)
        for name, shape in shapes.items()
        if (prefixes is None or name.split('/')[0] in prefixes) and name.split('/')[-1] not in STATISTICS
    )


def count_for_features(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Parameters that features need, see `count`."""
    return count(shapes, {name.split('/')[0] for name in shapes}.difference(FOR_TRAINING))
