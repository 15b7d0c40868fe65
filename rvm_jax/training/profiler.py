"""Traces a few steps with XProf: what ran on the devices, when, and what they waited for."""

import os
import shutil
import tempfile
import threading
from typing import Any, Self

import jax
import ml_collections

from rvm_jax.storage import files
from rvm_jax.terminal import Extras, say


class Profiler:
    """Traces profile.steps steps into folder/plugins/profile, where TensorBoard's profile page finds them.

    profile is `config.profile`: the first traced step comes `first` steps after first_step, the one that this start of
    the run begins with, so that compiling is over. Each process of a run traces its own devices, and the first one
    prints where. XProf writes to disks only: if folder is in a bucket, each process writes to a temporary folder of its
    host and prints where.
    """

    def __init__(self, profile: ml_collections.ConfigDict, folder: str, first_step: int):
        self._folder = self._local = folder
        if profile.steps and files.is_remote(folder):
            self._local = tempfile.mkdtemp('_rvm_trace')
        self._copies = threading.Thread(target=self._copy, name='trace_upload', daemon=True)
        self._start = first_step + profile.first if profile.steps else None
        self._stop = self._start + profile.steps if profile.steps else None
        self._is_running, self._extras = False, Extras('training continues')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        if self._copies.is_alive():
            self._copies.join()

    def before(self, step: int, state: Any) -> None:
        """Start or end the trace if it is time for it; call it before a step is started from state."""
        if step == self._start:
            jax.block_until_ready(state)  # the trace has whole steps: none is in flight when it starts or ends
            self._extras.attempt('profile', self._begin)
        elif step == self._stop:
            jax.block_until_ready(state)
            self._end()

    def _begin(self):
        jax.profiler.start_trace(self._local)
        self._is_running = True

    def _end(self):
        if self._is_running:
            self._is_running = False
            self._extras.attempt('profile', self._write)

    def _write(self):
        jax.profiler.stop_trace()
        if self._local != self._folder:
            self._copies.start()
        else:
            self._say()

    def _copy(self):
        self._extras.attempt('profile', self._upload)

    def _upload(self):
        for name in files.files(self._local):
            files.write(os.path.join(self._folder, name), files.read(os.path.join(self._local, name)))
        shutil.rmtree(self._local)
        self._say()

    def _say(self):
        if jax.process_index() == 0:
            say(f'traced from step {self._start}: tensorboard --logdir {self._folder}')
