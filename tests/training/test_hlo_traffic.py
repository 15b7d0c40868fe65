import jax
import jax.numpy as jnp
import pytest

from rvm_jax.training import hlo
from rvm_jax.training.hlo_traffic import memory_bytes, traffic

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


def test_an_elementwise_function_reads_and_writes_its_arrays_once():
    ours, theirs = counted(lambda x: jnp.sin(x) * 2 + 1, (ROWS, WIDTH))
    assert ours == theirs == 2 * ROWS * WIDTH * 4


def test_with_loops_counted_once_it_is_about_the_compilers_count():
    ours, theirs = counted(
        jax.grad(lambda x, w: stack(x, w).sum(), 1), (ROWS, WIDTH), (LAYERS, WIDTH, WIDTH), once=True
    )
    assert ours == pytest.approx(theirs, rel=0.15)


def test_a_scanned_stack_costs_what_the_same_layers_one_by_one_cost():
    scanned, _ = counted(stack, (ROWS, WIDTH), (LAYERS, WIDTH, WIDTH))
    inlined, theirs = counted(unrolled, (ROWS, WIDTH), (LAYERS, WIDTH, WIDTH))
    assert inlined == pytest.approx(theirs, rel=0.15) and scanned == pytest.approx(inlined, rel=0.35)


def test_an_update_in_place_costs_the_update():
    ours, _ = counted(lambda rows: jax.lax.scan(lambda n, row: (n, row + n), 1.0, rows)[1], (100, WIDTH))
    assert ours < 10 * 2 * 100 * WIDTH * 4  # a hundred times that if every step wrote the whole array


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
def test_arrays_take_the_room_of_their_tiles_in_main_memory_alone(shape, size):
    assert memory_bytes(shape) == size
