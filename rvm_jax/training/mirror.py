"""The log of a run in a bucket: written to a folder on this machine's disk, and copied from there.

Objects cannot be appended to, and a slow store must not hold up a step. So what changed is copied by a thread of its
own every EVERY seconds, and by `copy` before a checkpoint: no step is missing which a resumed run will not repeat.
"""

import os
import tempfile
import threading

from rvm_jax import storage
from rvm_jax.errors import Unavailable

EVERY = 60.0  # seconds between copies


class Mirror:
    """A folder whose files are copied to a remote one. copied(error) is told after each copy how it went."""

    def __init__(self, remote, copied):
        self._remote, self._copied = remote, copied
        self._temporary = tempfile.TemporaryDirectory(prefix='rvm_jax_log_')
        self.folder = self._temporary.name
        self._seen = {}  # what each file looked like when it was last copied
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name='mirror', daemon=True)

    def start(self, continued):
        """Fetch the file that is continued, if it is there, then copy now and then. Raises Unavailable."""
        remote = os.path.join(self._remote, continued)
        if storage.exists(remote):
            storage.write(os.path.join(self.folder, continued), storage.read(remote))
        self._thread.start()

    def copy(self):
        """Copy what changed since the last time; what fails is tried again the next time."""
        error = None
        with self._lock:
            try:
                for name in storage.files(self.folder):
                    self._copy_one(name)
            except (OSError, Unavailable) as failure:  # the rest would only wait for the same store
                error = failure
        self._copied(error)

    def close(self):
        """Copy what is left."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self.copy()
        self._temporary.cleanup()

    def _copy_one(self, name):
        path = os.path.join(self.folder, name)
        try:
            status, data = os.stat(path), storage.read(path)
        except FileNotFoundError:  # renamed since it was listed
            return
        looks = status.st_size, status.st_mtime_ns
        if self._seen.get(name) != looks and not name.endswith(storage.PARTIAL):
            storage.write(os.path.join(self._remote, name), data)
            self._seen[name] = looks

    def _run(self):
        while not self._ended.wait(EVERY):
            self.copy()
