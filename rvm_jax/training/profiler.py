"""A few steps traced with XProf: what ran on the devices, when, and what they waited for."""

import tempfile

import jax

from rvm_jax.storage import files
from rvm_jax.terminal import Extras, say


class Profiler:
    """Traces profile.steps steps into folder/plugins/profile, where TensorBoard's profile page finds them.

    profile is `config.profile`: the first traced step is its `first` after the one that this start of the run begins
    with, so that compiling is over. Each process of a run traces its own devices, and the first says where. XProf
    writes to disks alone: where folder is in a bucket, each trace goes to a temporary folder of its host and is named.
    """

    def __init__(self, profile, folder, first_step):
        is_elsewhere = profile.steps and files.is_remote(folder)
        self._folder = tempfile.mkdtemp('_rvm_trace') if is_elsewhere else folder
        self._is_said = is_elsewhere or jax.process_index() == 0
        self._start = first_step + profile.first if profile.steps else None
        self._stop = self._start + profile.steps if profile.steps else None
        self._is_running, self._extras = False, Extras('training continues')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._end()

    def before(self, step, state):
        """Start or end the trace if this step, about to be started from state, is the one to do so at."""
        if step == self._start:
            jax.block_until_ready(state)  # the trace holds whole steps: none is in flight where it starts or ends
            self._extras.attempt('profile', self._begin)
        elif step == self._stop:
            jax.block_until_ready(state)
            self._end()

    def _begin(self):
        jax.profiler.start_trace(self._folder)
        self._is_running = True

    def _end(self):
        if self._is_running:
            self._is_running = False
            self._extras.attempt('profile', self._write)

    def _write(self):
        jax.profiler.stop_trace()
        if self._is_said:
            say(f'traced from step {self._start}: tensorboard --logdir {self._folder}')
