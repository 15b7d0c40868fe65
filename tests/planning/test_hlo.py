import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from rvm_jax.planning import hlo

LAYERS, WIDTH = 6, 32

# As the TPU compiler writes: no length at the loop, groups named by axes of a mesh, a scattered reduction as a fusion.
TPU_TEXT = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (in: bf16[256,128]) -> bf16[64,128] {
  %in = bf16[256,128]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.9 = bf16[256,128]{1,0:T(8,128)(2,1)} all-reduce(%in), replica_groups=[2,4]<=[8], to_apply=%add
  %zero = s32[] constant(0)
  ROOT %mine = bf16[64,128]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.9, %zero, %zero), dynamic_slice_sizes={64,128}
}

%body (state: (s32[], bf16[64,128])) -> (s32[], bf16[64,128]) {
  %state = (s32[]{:T(128)}, bf16[64,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %step = s32[]{:T(128)} get-tuple-element(%state), index=0
  %part = bf16[64,128]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %whole = bf16[256,128]{1,0:T(8,128)(2,1)} all-gather(%part), replica_groups=mesh['x'=2,'y'=4] {'y'}, dimensions={0}
  %scattered = bf16[64,128]{1,0:T(8,128)(2,1)} fusion(%whole), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %next = (s32[]{:T(128)}, bf16[64,128]{1,0:T(8,128)(2,1)}) tuple(%step, %scattered)
}

%condition (state.1: (s32[], bf16[64,128])) -> pred[] {
  %bound = s32[]{:T(128)} constant(12)
  %state.1 = (s32[]{:T(128)}, bf16[64,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %step.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%step.1, %bound), direction=LT
}

ENTRY %main (argument: bf16[64,128]) -> (s32[], bf16[64,128]) {
  %argument = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %first = s32[]{:T(128)} constant(0)
  %begin = (s32[]{:T(128)}, bf16[64,128]{1,0:T(8,128)(2,1)}) tuple(%first, %argument)
  ROOT %while.1 = (s32[], bf16[64,128]{1,0:T(8,128)(2,1)}) while(%begin), condition=%condition, body=%body
}
"""


@pytest.fixture(scope='module')
def split_step():
    """Gradient of a scanned stack of layers whose weights are split four ways, and summed over two, compiled."""
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ('data', 'fsdp'))
    weights, clips = PartitionSpec(None, 'fsdp'), PartitionSpec(('data', 'fsdp'))

    def step(w, x):
        def body(x, layer):
            return jnp.tanh(x @ jax.lax.all_gather(layer, 'fsdp', axis=0, tiled=True)), None

        loss, grad = jax.value_and_grad(lambda w: (jax.lax.scan(body, x, w)[0] ** 2).mean())(w)
        return jax.lax.psum(grad, 'data'), jax.lax.pmean(loss, ('data', 'fsdp'))

    step = jax.shard_map(
        step, mesh=mesh, in_specs=(weights, clips), out_specs=(weights, PartitionSpec()), check_vma=False
    )
    shapes = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32), jax.ShapeDtypeStruct((16, WIDTH), jnp.float32)
    return hlo.parse(jax.jit(step).lower(*shapes).compile().as_text())


def found(program, devices=8):
    times, unknown = hlo.runs(program)
    assert not unknown
    return {(one.kind, one.size, one.group, one.times) for one in hlo.collectives(program, times, devices)}


def test_every_collective_of_a_program_is_counted_as_it_runs(split_step):
    layer = WIDTH * WIDTH * 4
    assert found(split_step) == {
        ('all-gather', layer, 4, LAYERS),
        ('reduce-scatter', layer, 4, LAYERS),
        ('all-reduce', LAYERS * layer // 4, 2, 1),
        ('all-reduce', 4, 8, 1),
    }


def test_a_program_of_one_device_has_no_collectives():
    text = jax.jit(lambda x: jnp.sin(x) @ x).lower(jnp.ones((8, 8))).compile().as_text()
    assert found(hlo.parse(text), 1) == set()


def test_loops_within_loops_multiply():
    def inner(x, _):
        return jax.lax.scan(lambda x, _: (jnp.sin(x) @ x, None), x, None, length=3)[0], None

    text = jax.jit(lambda x: jax.lax.scan(inner, x, None, length=5)[0]).lower(jnp.ones((8, 8))).compile().as_text()
    times, unknown = hlo.runs(hlo.parse(text))
    assert sorted(times.values()) == [1, 5, 15] and not unknown


def test_a_loop_of_unknown_length_counts_once_and_is_reported():
    text = jax.jit(lambda x: jax.lax.while_loop(lambda x: x < 9, lambda x: x * x, x)).lower(2.0).compile().as_text()
    times, unknown = hlo.runs(hlo.parse(text))
    assert set(times.values()) == {1} and len(unknown) == 1


def test_the_text_of_a_tpu_program_is_understood():
    assert found(hlo.parse(TPU_TEXT)) == {
        ('all-gather', 256 * 128 * 2, 4, 12),
        ('reduce-scatter', 256 * 128 * 2, 4, 12),
    }


def reduced(groups):
    """A program that sums one number over the devices of each group."""
    instructions = f'  %x = f32[] constant(1)\n  %r = f32[] all-reduce(%x), {groups}\n'
    return hlo.parse(f'HloModule m\n\nENTRY %e () -> f32[] {{\n{instructions}}}\n')


@pytest.mark.parametrize(
    ('groups', 'size'),
    [
        ('replica_groups={{0,1,2},{3,4,5}}', 3),
        ('replica_groups=[4,2]<=[2,4]T(1,0)', 2),
        ("replica_groups=mesh['a'=2,'b'=3,'c'=4] {'a','c'}", 8),
        ('replica_groups={}', 24),
    ],
)
def test_groups_are_written_in_several_ways(groups, size):
    assert found(reduced(groups), 24) == {('all-reduce', 4, size, 1)}


@pytest.mark.parametrize(
    ('groups', 'slices'),
    [
        ('replica_groups={{0,1,2,3},{4,5,6,7}}', 1),
        ('replica_groups=[2,4]<=[8]', 1),
        ('replica_groups=[4,2]<=[2,4]T(1,0)', 2),
        ("replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}", 1),
        ("replica_groups=mesh['data'=2,'fsdp'=4] {'data'}", 2),
        ('replica_groups={}', 2),
    ],
)
def test_a_group_knows_how_many_slices_it_spans(groups, slices):
    program = reduced(groups)
    assert [one.slices for one in hlo.collectives(program, hlo.runs(program)[0], 8, 2)] == [slices]


def test_between_slices_each_device_fetches_its_part():
    one = hlo.Collective('all-reduce', 800, 8, 1, 2)  # 4 devices of each of 2 slices
    assert one.moved == 2 * 800 * 3 / 4 and one.crossing == 2 * 800 / 4 / 2
    one = hlo.Collective('all-gather', 800, 2, 1, 2)
    assert one.moved == 0 and one.crossing == 400
    assert hlo.Collective('all-gather', 800, 8, 1).crossing == 0


def test_what_a_device_receives_of_each_kind():
    def moved(kind):
        return hlo.Collective(kind, 800, 4, 10).moved

    assert moved('all-gather') == moved('reduce-scatter') == moved('all-to-all') == 6000
    assert moved('all-reduce') == 12000 and moved('collective-permute') == 8000


def test_bytes_of_shapes():
    assert hlo.num_bytes('bf16[3,5]{1,0:T(8,128)(2,1)}') == 30
    assert hlo.num_bytes('(f32[2], /*index=1*/pred[7]{0}, s32[])') == 8 + 7 + 4
