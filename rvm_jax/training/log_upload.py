"""The log of a run in a bucket: written to a folder on this machine's disk, and copied from there.

Objects in a bucket cannot be appended to, and a slow store must not delay a step. So a thread copies what changed every
EVERY seconds. The files that a resumed run continues are copied before each checkpoint too: a resumed run does not
repeat the steps before it, so their numbers must be there.
"""

import os
import tempfile
import threading
from collections.abc import Callable, Sequence

from rvm_jax.storage import files
from rvm_jax.storage.atomic import is_partial

EVERY = 60.0  # seconds between copies


class LogUploader:
    """A folder whose files are copied to a remote one; a resumed run continues the files in `continued`.

    copied(error) is called after each copy, with None if it worked.
    """

    def __init__(self, remote: str, continued: Sequence[str], copied: Callable[[Exception | None], object]):
        self._remote, self._continued, self._copied = remote, continued, copied
        self._temporary = tempfile.TemporaryDirectory(prefix='rvm_jax_log_')
        self.folder = self._temporary.name
        self._seen: dict[str, tuple[int, int]] = {}  # size and time of each file when it was last copied
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name='log_upload', daemon=True)

    def start(self) -> None:
        """Fetch the files to continue, if they exist, then start the thread that copies. Raises Unavailable."""
        for name in self._continued:
            remote = os.path.join(self._remote, name)
            if files.exists(remote):
                files.write(os.path.join(self.folder, name), files.read(remote))
        self._thread.start()

    def copy_continued(self) -> None:
        """Copy the files that a resumed run continues, if they changed. Call it before a checkpoint is saved."""
        self._copy(lambda: self._continued)

    def copy(self) -> None:
        """Copy what changed since the last time; what fails is tried again the next time."""
        self._copy(lambda: files.files(self.folder))

    def _copy(self, find_names):
        error = None
        try:
            for name in find_names():
                with self._lock:  # for each file by itself, so that a checkpoint need not wait until all are copied
                    self._copy_one(name)
        except Exception as failure:  # a log must never end a run; the other files would only wait for the same store
            error = failure
        self._copied(error)

    def close(self) -> None:
        """Copy the rest, and delete the local folder."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self.copy()
        self._temporary.cleanup()

    def _copy_one(self, name):
        path = os.path.join(self.folder, name)
        try:
            status = os.stat(path)  # before reading: what is written meanwhile is seen as a change the next time
            seen = status.st_size, status.st_mtime_ns
            if self._seen.get(name) == seen or is_partial(name):
                return
            data = files.read(path)
        except FileNotFoundError:  # renamed since it was listed, or not written yet
            return
        files.write(os.path.join(self._remote, name), data)
        self._seen[name] = seen

    def _run(self):
        while not self._ended.wait(EVERY):
            self.copy()
