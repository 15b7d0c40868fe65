#!/usr/bin/env bash
# Measures one GPU in at most 8 minutes, from a checkout: is the machine ready (rvm doctor), training steps of S, B, L
# and a frozen DINOv3-L (ours, and the method of the released code), kernels of a step, data loading, streaming.
#
#     benchmarks/gpu.sh [--sizes tiny] [--seconds 480] [--output runs/gpu]
#
# Prints one Markdown table and writes it to runs/gpu/figures.md. The table names what failed or ran out of time; the
# exit code is then 1. --sizes tiny tries all of it on small models, also on a CPU. Nothing is downloaded: weights are
# random and videos are rendered.
#
# Needs python3 (or $PYTHON) with jax for the GPU, flax, optax, einops, ml_collections, numpy and rich for everything;
# av, cv2 (OpenCV), grain, array_record, pebble, psutil and etils for the input; the packages that `rvm doctor` asks
# for; and coreutils. It does not need an installed rvm_jax, tensorflow, tensorflow-datasets, apache-beam, gcsfs or
# matplotlib.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}"
exec "${PYTHON:-python3}" "$root/benchmarks/gpu.py" "$@"
