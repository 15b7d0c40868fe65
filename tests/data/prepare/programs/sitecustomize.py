"""What a worker process runs first: a decoder that never returns, and one that crashes its process."""

import ctypes
import os
import signal

from rvm_jax.data.prepare import encode_video

real = encode_video.prepare_video


def prepare_video(task, settings, path, heartbeat):
    """Hang or crash for videos of those names."""
    if 'spins' in task.name:
        ctypes.CDLL(None).pause()
    if 'crashes' in task.name:
        os.kill(os.getpid(), signal.SIGSEGV)
    return real(task, settings, path, heartbeat)


encode_video.prepare_video = prepare_video
