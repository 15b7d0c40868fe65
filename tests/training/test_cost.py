import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from rvm_jax import config as configs
from rvm_jax.models import build, layers
from rvm_jax.objectives.pixel_loss import pixel_loss
from rvm_jax.training import cost

# Wide enough that matrix products dominate: the compiler also counts what is done element by element.
WIDE = dataclasses.replace(
    build.SIZES['tiny'],
    patch_size=16,
    width=256,
    encoder_layers=2,
    encoder_heads=4,
    encoder_head_dim=64,
    encoder_mlp=1024,
    core_layers=1,
    core_heads=2,
    core_head_dim=128,
    core_mlp=512,
    decoder_width=192,
    decoder_layers=2,
    decoder_heads=3,
    decoder_head_dim=64,
    decoder_mlp=768,
    mask_ratio=0.75,
)
CLIP = {'num_source': 3, 'num_target': 2, 'image_size': 96}
PAPER = {'num_source': 4, 'num_target': 4, 'image_size': 256}
SIZES = (('s', 0.513), ('b', 1.131), ('l', 2.788), ('h', 5.217))  # TFLOP a clip in training, one projection of keys
DEVICES = (
    ('NVIDIA H100 80GB HBM3', 'bf16', 989e12),
    ('NVIDIA A100-SXM4-40GB', 'float32', 156e12),
    ('TPU v5 lite', 'bf16', 197e12),
    ('TPU v5p', 'official_mixed', 459e12),
    ('TPU v6 lite', 'bf16', 918e12),
)


def compiled(function, execution, *args):
    """function(model, *args) of the wide model, compiled for shapes alone."""
    graphdef, params = nnx.split(build.abstract(WIDE, execution))

    def run(params, *args):
        return function(nnx.merge(graphdef, params), *args)

    return jax.jit(run).lower(params, *args).compile()


def compiled_flops(function, *args):
    return compiled(function, layers.Execution(implementation='xla', unroll=True), *args).cost_analysis()['flops']


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def batch_of(clips):
    return {
        'source_BTHWC': jax.ShapeDtypeStruct((clips, 3, 96, 96, 3), jnp.uint8),
        'target_BFHWC': jax.ShapeDtypeStruct((clips, 2, 96, 96, 3), jnp.uint8),
        'deltas_BF': jax.ShapeDtypeStruct((clips, 2), jnp.int32),
    }


def gradients(model, batch):
    options = configs.default().objective
    visible_BFV = model.random_visible(jax.random.key(0), batch['target_BFHWC'].shape)
    return nnx.grad(lambda model: pixel_loss(model, batch, visible_BFV, **options)[0])(model)


@pytest.mark.parametrize(('size', 'teraflops'), SIZES)
def test_flops_of_the_presets_are_those_of_the_paper(size, teraflops):
    assert cost.train_flops(build.SIZES[size], **PAPER) == pytest.approx(teraflops * 1e12, rel=0.005)


def test_training_flops_are_the_compilers_of_an_unrolled_model():
    counted = compiled_flops(gradients, batch_of(2)) / 2
    assert cost.train_flops(WIDE, **CLIP) == pytest.approx(counted, rel=0.05)


def test_encoder_flops_are_the_compilers():
    ours = cost.forward_flops(WIDE, **CLIP)
    counted = compiled_flops(lambda model, frames: model.encoder(frames), floats(3, 96, 96, 3))
    embedding = 2 * 3 * 36 * 768 * 256
    assert ours['encoder_source'] + embedding == pytest.approx(counted, rel=0.04)


def test_core_flops_are_the_compilers():
    counted = compiled_flops(lambda model, tokens: model.core.scan(tokens), floats(1, 3, 37, 256))
    assert cost.forward_flops(WIDE, **CLIP)['core'] == pytest.approx(counted, rel=0.04)


def test_decoder_flops_are_the_compilers():
    ours = cost.forward_flops(WIDE, **CLIP)
    counted = compiled_flops(
        lambda model, x, source: model.decoder.layers(x, source), floats(1, 2, 37, 192), floats(1, 111, 192)
    )
    assert ours['decoder'] + ours['decoder_attention'] == pytest.approx(counted, rel=0.04)


def test_weights_without_a_decoder_cost_nothing_there():
    flops = cost.forward_flops(dataclasses.replace(WIDE, decoder_width=0), **CLIP)
    assert flops['decoder'] == flops['decoder_attention'] == flops['embedder_detokenizer'] == 0 < flops['core']


@pytest.mark.parametrize('remat', ['none', 'dots'])
def test_memory_is_near_what_the_compiler_allots(remat):
    execution = layers.Execution(implementation='xla', remat=remat)
    allotted = compiled(gradients, execution, batch_of(16)).memory_analysis()
    ours = cost.memory(WIDE, execution, 16, **CLIP)
    assert ours['weights'] == pytest.approx(allotted.argument_size_in_bytes, rel=0.2)
    assert ours['optimizer'] == 2 * ours['gradients'] == 2 * ours['weights']
    needed = allotted.temp_size_in_bytes + allotted.output_size_in_bytes
    assert 1 / 1.3 < (ours['activations'] + ours['gradients']) / needed < 1.3


def test_remat_and_half_precision_need_less_memory():
    def activations(**execution):
        return cost.memory(build.SIZES['s'], layers.Execution(**execution), 2, **PAPER)['activations']

    bf16 = layers.PRECISIONS['bf16']
    assert activations() > activations(remat='dots') > activations(remat='full')
    assert activations(implementation='xla') > activations() > activations(precision=bf16)


@pytest.mark.parametrize(('kind', 'precision', 'peak'), DEVICES)
def test_peak_of_known_devices(kind, precision, peak):
    assert cost.device_peak(types.SimpleNamespace(device_kind=kind), precision) == peak


def test_no_peak_is_claimed_for_a_cpu():
    assert cost.device_peak(jax.devices('cpu')[0], 'float32') is None
