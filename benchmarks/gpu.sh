#!/usr/bin/env bash
# Figures of one GPU in at most 8 minutes, from a checkout: is the machine ready (rvm doctor), training steps of S, B, L
# and a frozen DINOv3-L (ours, and the way of the released code beside it), kernels of a step, input, streaming.
#
#     benchmarks/gpu.sh [--sizes tiny] [--seconds 480] [--output runs/gpu]
#
# Prints one Markdown table and writes it to runs/gpu/figures.md. What fails, or has no time left, is named in it, and
# the exit code is then 1. --sizes tiny tries all of it on small models, on a CPU too. Nothing is downloaded: weights are
# random and videos are drawn.
#
# Needs python3 (or $PYTHON) with jax for the GPU, flax, optax, einops, ml_collections, numpy and rich for everything;
# av, cv2 (OpenCV), grain, array_record, pebble, psutil and etils for the input; and what `rvm doctor` asks for. It needs
# neither an installed rvm_jax, nor tensorflow, tensorflow-datasets, apache-beam, gcsfs or matplotlib. And coreutils.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}"
exec "${PYTHON:-python3}" "$root/benchmarks/gpu.py" "$@"
