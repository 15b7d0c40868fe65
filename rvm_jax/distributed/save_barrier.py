"""Where the processes that save together wait for each other, and learn that one of them failed.

Orbax has the processes wait for each other when all have written, and again when the first has committed. One that
fails does not arrive, and the others would wait for minutes. Here it leaves its reason, and all fail at once.
"""

import time

from rvm_jax.distributed.process_group import ProcessGroup

FOLDER = 'rvm/save/'  # keys below it: <save>/<where>/<process>
FIRST_WAIT, LONGEST_WAIT = 0.02, 1.0  # seconds between looks


class OtherFailed(OSError):
    """Another process could not write its part."""


class SaveBarrier:
    """The barrier of all processes of a group (hosts); all must begin the same saves."""

    def __init__(self, hosts: ProcessGroup):
        self._hosts, self._client, self._save = hosts, hosts.client, 0

    def begin(self) -> None:
        """A new save begins; called once the one before has ended here."""
        self._save += 1
        if self._hosts.is_first and self._save > 2:  # another process may still read the keys of the one before
            self._client.key_value_delete(f'{FOLDER}{self._save - 2}/')

    def wait(self, *, key: str, timeout_ms: int) -> None:
        """Wait until all processes are here; Orbax calls it in its own thread. Raises OtherFailed."""
        del timeout_ms  # the watchdog ends a wait for a process that is gone
        where = key.replace('/', '_')
        self._arrive(where)
        seconds = FIRST_WAIT
        while len((found := self._found()).get(where, ())) < self._hosts.count:
            if 'failed' in found:
                process, text = min(found['failed'].items())
                raise OtherFailed(0, f'process {process}: {text}')
            time.sleep(seconds)
            seconds = min(2 * seconds, LONGEST_WAIT)

    def fail(self, error: OSError) -> None:
        """This process could not save; returns once none is writing any more."""
        if not isinstance(error, OtherFailed):
            self._arrive('failed', (error.strerror or str(error))[:500])
        self._arrive('ended')
        while len(self._found().get('ended', ())) < self._hosts.count:
            time.sleep(LONGEST_WAIT / 4)

    def _arrive(self, where, text=''):
        self._client.key_value_set(f'{FOLDER}{self._save}/{where}/{self._hosts.index}', text, allow_overwrite=True)

    def _found(self):
        """{where: {process: text}} of this save."""
        found: dict[str, dict[int, str]] = {}
        for key, text in self._client.key_value_dir_get(f'{FOLDER}{self._save}/'):
            _, where, process = key.removeprefix(FOLDER).split('/')
            found.setdefault(where, {})[int(process)] = text
        return found
