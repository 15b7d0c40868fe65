"""The log of a run in a bucket: written to a folder on this machine's disk, and copied from there.

Objects cannot be appended to, and a slow store must not hold up a step. So what changed is copied by a thread of its
own every EVERY seconds. Only the files that a resumed run continues are copied before each checkpoint as well, so that
no step is missing in them which the resumed run will not repeat.
"""

import os
import tempfile
import threading

from rvm_jax.storage import files
from rvm_jax.storage.atomic import is_partial

EVERY = 60.0  # seconds between copies


class LogUploader:
    """A folder whose files are copied to a remote one, of which a resumed run continues those named continued.

    copied(error) is told after each copy how it went.
    """

    def __init__(self, remote, continued, copied):
        self._remote, self._continued, self._copied = remote, continued, copied
        self._temporary = tempfile.TemporaryDirectory(prefix='rvm_jax_log_')
        self.folder = self._temporary.name
        self._seen = {}  # what each file looked like when it was last copied
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name='mirror', daemon=True)

    def start(self):
        """Fetch the files that are continued, where they are there, then copy now and then. Raises Unavailable."""
        for name in self._continued:
            remote = os.path.join(self._remote, name)
            if files.exists(remote):
                files.write(os.path.join(self.folder, name), files.read(remote))
        self._thread.start()

    def copy_continued(self):
        """Copy the files that are continued, if they changed. Call it before a checkpoint is saved."""
        self._copy(lambda: self._continued)

    def copy(self):
        """Copy what changed since the last time; what fails is tried again the next time."""
        self._copy(lambda: files.files(self.folder))

    def _copy(self, find_names):
        error = None
        try:
            for name in find_names():
                with self._lock:  # for each file alone: a checkpoint does not wait for all that the thread copies
                    self._copy_one(name)
        except Exception as failure:  # of any kind: the log must not end a run. The rest would meet the same store
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
            status = os.stat(path)  # before it is read: what is written meanwhile looks new the next time
            looks = status.st_size, status.st_mtime_ns
            if self._seen.get(name) == looks or is_partial(name):
                return
            data = files.read(path)
        except FileNotFoundError:  # renamed since it was listed, or not there yet
            return
        files.write(os.path.join(self._remote, name), data)
        self._seen[name] = looks

    def _run(self):
        while not self._ended.wait(EVERY):
            self.copy()
