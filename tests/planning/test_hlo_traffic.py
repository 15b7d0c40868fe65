import jax
import jax.numpy as jnp
import pytest

from rvm_jax.planning import hlo
from rvm_jax.planning.hlo_traffic import memory_bytes, traffic

LAYERS, ROWS, WIDTH = 7, 64, 128


def counted(function, *shapes, once=False):
    """(our bytes, the compiler's) of a function compiled for float32 arrays of these shapes."""
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(function).lower(*arrays).compile()
    program = hlo.parse(compiled.as_text())
    times, _ = hlo.runs(program)
    return traffic(program, dict.fromkeys(times, 1) if once else times), compiled.cost_analysis()['bytes accessed']


def stack(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


def unrolled(x, weights):
    for w in weights:
        x = jnp.tanh(x @ w)
    return x


def test_elementwise_functions_read_and_write_arrays_once():
    ours, theirs = counted(lambda x: jnp.sin(x) * 2 + 1, (ROWS, WIDTH))
    assert ours == theirs == 2 * ROWS * WIDTH * 4


def test_with_loops_counted_once_it_is_about_the_compilers_count():
    ours, theirs = counted(
        jax.grad(lambda x, w: stack(x, w).sum(), 1), (ROWS, WIDTH), (LAYERS, WIDTH, WIDTH), once=True
    )
    assert ours == pytest.approx(theirs, rel=0.15)


def test_a_scanned_stack_costs_as_much_as_its_layers_inlined():
    scanned, _ = counted(stack, (ROWS, WIDTH), (LAYERS, WIDTH, WIDTH))
    inlined, theirs = counted(unrolled, (ROWS, WIDTH), (LAYERS, WIDTH, WIDTH))
    assert inlined == pytest.approx(theirs, rel=0.15) and scanned == pytest.approx(inlined, rel=0.35)


def test_an_update_in_place_costs_the_update():
    ours, _ = counted(lambda rows: jax.lax.scan(lambda n, row: (n, row + n), 1.0, rows)[1], (100, WIDTH))
    assert ours < 10 * 2 * 100 * WIDTH * 4  # a hundred times that if every step wrote the whole array


def of_text(*lines):
    """Bytes of a program of these instructions, of which the last is its result."""
    body = '\n'.join(f'  {line}' for line in lines[:-1]) + f'\n  ROOT {lines[-1]}'
    program = hlo.parse(f'HloModule m\n\nENTRY %main () -> f32[] {{\n{body}\n}}\n')
    return traffic(program, hlo.runs(program)[0])


def test_the_workspace_of_cublas_is_no_traffic():
    call = 'custom-call(%x, %x), custom_call_target="__cublas$lt$matmul"'
    x = '%x = bf16[64,64]{1,0} parameter(0)'
    product = f'%p = (bf16[64,64]{{1,0}}, s8[4194304]{{0}}) {call}'
    assert of_text(x, product) == 3 * 64 * 64 * 2
    two = f'%p = (bf16[64,64]{{1,0}}, bf16[64,64]{{1,0}}, s8[4194304]{{0}}) {call}'
    assert of_text(x, two) == 4 * 64 * 64 * 2  # with what goes into a GELU
    eight_bit = '%p = (s8[4096]{0}, s8[4194304]{0}) custom-call(%x), custom_call_target="__cublas$gemm"'
    assert of_text(x, eight_bit) == 64 * 64 * 2 + 4096
    other = '%p = (bf16[64,64]{1,0}, s8[4194304]{0}) custom-call(%x), custom_call_target="mine"'
    assert of_text(x, other) == 2 * 64 * 64 * 2 + 4194304


def test_the_workspace_of_cudnn_counts_where_it_is_known():
    x = '%x = bf16[64,64]{1,0} parameter(0)'
    call = 'custom-call(%x), custom_call_target="__cudnn$fmhaSoftmaxBackward"'
    assert of_text(x, f'%p = (bf16[64,64]{{1,0}}, u8[0]{{0}}) {call}') == 2 * 64 * 64 * 2
    assert of_text(x, f'%p = (bf16[64,64]{{1,0}}, u8[900]{{0}}) {call}') == 2 * 64 * 64 * 2 + 900


@pytest.mark.parametrize(
    ('start', 'size'),
    [
        ('(f32[32]{0}, f32[32]{0}, u32[]) copy-start(%x)', 2 * 128),
        ('(f32[32]{0:T(256)S(1)}, f32[32]{0}, u32[]) copy-start(%x)', 128),
        ('(f32[32]{0}, f32[256]{0}) all-gather-start(%x), replica_groups=[1,8]<=[8], dimensions={0}', 128 + 1024),
        ('((f32[32]{0}, f32[32]{0}), (f32[256]{0}, f32[256]{0})) all-gather-start(%x, %x), dimensions={0}', 2 * 1152),
        ('((f32[32]{0}), f32[4]{0}) reduce-scatter-start(%x), replica_groups=[1,8]<=[8]', 128 + 16),
        ('f32[32]{0} all-reduce-start(%x), replica_groups=[1,8]<=[8]', 2 * 128),
        ('(f32[32]{0}, f32[32]{0}) all-reduce-start(%x, %x), replica_groups=[1,8]<=[8]', 4 * 128),
    ],
)
def test_what_runs_beside_other_work_moves_its_arrays_once(start, size):
    assert of_text('%x = f32[32]{0} parameter(0)', f'%s = {start}') == size


def test_of_a_conditional_the_dearest_branch_counts():
    def dear(x):
        return jax.lax.fori_loop(0, 5, lambda _, x: jnp.sin(x) @ x, x)

    def choose(x):
        return jax.lax.switch(jnp.int32(x[0, 0]), [lambda x: x, dear, lambda x: x + 1], x)

    chosen, _ = counted(choose, (WIDTH, WIDTH))
    alone, _ = counted(dear, (WIDTH, WIDTH))
    assert alone <= chosen < 1.4 * alone


@pytest.mark.parametrize(
    ('shape', 'size'),
    [
        ('f32[3,5]{1,0}', 60),
        ('f32[10,100]{1,0:T(8,128)}', 16 * 128 * 4),
        ('bf16[100,10]{0,1:T(8,128)(2,1)}', 16 * 128 * 2),  # the first axis is the minor one
        ('bf16[4,257,16,32]{3,2,1,0:T(8,128)(2,1)}', 4 * 257 * 16 * 128 * 2),
        ('f32[300]{0:T(256)}', 512 * 4),
        ('f32[300]{0:T(8,128)}', 384 * 4),
        ('s32[]{:T(128)}', 4),
        ('f32[10,100]{1,0:T(8,128)S(1)}', 0),
        ('(f32[2]{0}, f32[8,128]{1,0:T(8,128)S(1)})', 8),
    ],
)
def test_arrays_in_main_memory_take_the_room_of_their_tiles(shape, size):
    assert memory_bytes(shape) == size
