# shellcheck shell=bash
# Named compiler flags for --flags NAME; sourced. All are off by default: none has been measured on this model. Try one
# at a time, for some hundred steps, against a run without it. Several names may be given: --flags overlap,vmem

tpu_flags() {  # goes to LIBTPU_INIT_ARGS
    case $1 in
        # Gathers and reductions run beside matrix products instead of between them. libtpu does much of it by itself.
        overlap) echo --xla_tpu_enable_latency_hiding_scheduler=true \
            --xla_tpu_enable_async_collective_fusion=true \
            --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true \
            --xla_tpu_enable_async_collective_fusion_multiple_steps=true \
            --xla_tpu_overlap_compute_collective_tc=true \
            --xla_enable_async_all_gather=true --xla_enable_async_all_reduce=true ;;
        # More of the on-chip memory for one fusion (v6e has 128 MiB): larger tiles, less room to fetch ahead.
        vmem) echo --xla_tpu_scoped_vmem_limit_kib=98304 ;;
        # Several slices: gradient sums over the data-center network overlap with the backward pass.
        slices) echo --xla_tpu_enable_data_parallel_all_reduce_opt=true \
            --xla_tpu_data_parallel_opt_different_sized_ops=true ;;
        *) return 1 ;;
    esac
}

gpu_flags() {  # goes to XLA_FLAGS
    case $1 in
        # Orders the program so that NCCL runs beside compute.
        overlap) echo --xla_gpu_enable_latency_hiding_scheduler=true ;;
        # Collectives of one layer start while another layer computes, in the scan over layers.
        pipeline) echo --xla_gpu_enable_latency_hiding_scheduler=true \
            --xla_gpu_enable_pipelined_all_gather=true --xla_gpu_enable_pipelined_reduce_scatter=true \
            --xla_gpu_enable_pipelined_all_reduce=true --xla_gpu_enable_while_loop_double_buffering=true ;;
        # Fewer, larger collectives: up to 128 MiB each.
        combine) echo --xla_gpu_all_gather_combine_threshold_bytes=134217728 \
            --xla_gpu_reduce_scatter_combine_threshold_bytes=134217728 \
            --xla_gpu_all_reduce_combine_threshold_bytes=134217728 ;;
        *) return 1 ;;
    esac
}

named_flags() {  # named_flags tpu|gpu NAME,NAME: their flags in one line
    local name flags='' one
    for name in ${2//,/ }; do
        one=$("$1_flags" "$name") || die 2 "--flags $name: unknown set of flags; launch/flags.sh lists them all"
        flags+="${flags:+ }$one"
    done
    printf '%s\n' "$flags"
}
