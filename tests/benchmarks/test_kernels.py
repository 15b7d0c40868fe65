"""Reading the profiler's traces."""

import jax
import jax.numpy as jnp
import pytest
from kernels import Event, Kernel, kind_of, read_trace, summarize


def test_a_cpu_trace_names_operations_and_counts_them(tmp_path):
    program = jax.jit(lambda x: jax.lax.sort(jnp.sin(x)))
    x = jnp.ones((64, 4096))
    program(x).block_until_ready()
    with jax.profiler.trace(tmp_path):
        for _ in range(3):
            program(x).block_until_ready()
    trace = read_trace(str(tmp_path))
    sort = next(kernel for kernel in trace.kernels if 'sort' in kernel.name)
    assert sort.calls == 3
    assert 0 < sort.seconds <= trace.kernel_seconds
    assert 0 < trace.busy_seconds <= trace.seconds
    assert [kernel.seconds for kernel in trace.kernels] == sorted((k.seconds for k in trace.kernels), reverse=True)


def test_a_folder_without_a_trace_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='wrote no trace'):
        read_trace(str(tmp_path))


def test_kernels_add_up_and_parallel_time_counts_once():
    trace = summarize(
        [
            Event('gemm_fusion_dot_7', 5e9, 8e9),
            Event('gemm_fusion_dot_12', 0, 4e9),
            Event('nvjet_tst_128x256_64x4_2x1_v_bz_TNT', 1e9, 2e9),
        ]
    )
    assert trace.kernels == [Kernel('gemm_fusion_dot', 7.0, 2), Kernel('nvjet_tst_128x256_64x4_2x1_v_bz_TNT', 1.0, 1)]
    assert (trace.seconds, trace.busy_seconds, trace.kernel_seconds) == (8.0, 7.0, 8.0)


@pytest.mark.parametrize(
    'name, kind',
    [
        ('loop_add_fusion', 'loop_add_fusion'),
        ('loop_add_fusion_31', 'loop_add_fusion'),
        ('fusion.12.3', 'fusion'),
        ('input_reduce_fusion_1_2', 'input_reduce_fusion'),
        ('sm90_gemm_bf16_tn_n_tilesize64x64x64', 'sm90_gemm_bf16_tn_n_tilesize64x64x64'),
    ],
)
def test_kernels_are_told_apart_by_name_without_numbers(name, kind):
    assert kind_of(name) == kind
