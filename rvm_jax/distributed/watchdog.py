"""Keeps a process from waiting forever for another one that is gone.

A collective of JAX that misses one process never ends, and nothing in the main thread can stop it. So each process
runs two threads. `_exchange` writes a heartbeat into the key-value store of `jax.distributed`, which is in process 0,
and reads those of the others. `_look` judges what was read. It is a thread of its own because an exchange may hang,
which is just what it must notice. The first process that misses a heartbeat writes the reason into the store, and all
end with exit code 75 and that reason in one line.
"""

import contextlib
import faulthandler
import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from rvm_jax.errors import DataError, Diverged, Stopped, UserError

FOLDER = 'rvm/watch/'  # keys below it: <process>/beat, a counter; <process>/ended, [exit code, line]; reason, a line
FINAL = (UserError.exit_code, DataError.exit_code, Diverged.exit_code)  # starting again would end the same way
ANSWER = 3.0  # seconds that the store may take to answer, or to take the reason when this process ends
SLOWEST = 2.0  # seconds between heartbeats, at most


class Watchdog:
    """Watches `count` processes from process `index`; client is the one of `jax.distributed`.

    A process without a heartbeat for `heartbeat` seconds is gone. When one ends early, the others have half of that
    time to end by themselves. No step for step_timeout seconds ends this process; that time counts from the end of the
    first step on, because the first one compiles.
    """

    def __init__(self, client: Any, index: int, count: int, heartbeat: float, step_timeout: float):
        self._client, self._index, self._others = client, index, set(range(count)) - {index}
        self._heartbeat, self._step_timeout = heartbeat, step_timeout
        self._interval = min(heartbeat / 10, SLOWEST)
        self._news: dict[str, str] = {}  # what was last read, and when
        self._answered = time.monotonic()
        self._seen = {other: ('', self._answered) for other in self._others}  # last heartbeat, and when it was new
        self._goodbyes: dict[int, float] = {}  # process -> when its end was first seen
        self._stepped: float | None = None  # when the last step was done; None before the first
        self._step = 0
        self._ended, self._leaving, self._parting = threading.Event(), threading.Lock(), False
        self.before_leaving: list[Callable[[], Any]] = []  # called before the process ends: what must not stay behind

    def start(self) -> None:
        """Begin to send heartbeats and to look for those of the others."""
        for target in (self._exchange, self._look):
            threading.Thread(target=target, name=f'watch{target.__name__}', daemon=True).start()

    def stop(self) -> None:
        """End without telling the others, because all have come to the end of the run."""
        self._parting = True
        self._ended.set()

    def stepped(self, step: int) -> None:
        """Note that this process has done this step."""
        self._stepped, self._step = time.monotonic(), step

    def goodbye(self, code: int, line: str) -> None:
        """Tell the others that this process ends early, and why.

        Process 0 waits until the others have ended too, or are silent: the store that they all read is in it.
        """
        self._parting = True
        self._post(f'{self._index}/ended', json.dumps([code, line]))
        deadline = time.monotonic() + self._heartbeat
        while self._index == 0 and time.monotonic() < deadline:
            if all(f'{other}/ended' in self._news for other in self._others):
                break
            time.sleep(self._interval / 4)
        self.stop()

    def wait_for_a_reason(self) -> None:
        """Wait as long as it takes to find out who is gone; then this does not return."""
        self._ended.wait(self._heartbeat + 3 * self._interval)

    def lost(self) -> None:
        """What JAX calls when it finds that process 0 is gone.

        Returns if process 0 still answers: then the terminate handler of C++ was called for another reason.
        """
        if self._answers():
            return
        if not self._parting:
            self._leave(*self._about(0) or (Stopped.exit_code, 'process 0 is gone'))
        threading.Event().wait()  # JAX would end the process with an abort

    def _exchange(self):
        count = 0
        while not self._ended.is_set():
            count += 1
            try:
                self._client.key_value_set(f'{FOLDER}{self._index}/beat', str(count), allow_overwrite=True)
                self._news = {key.removeprefix(FOLDER): text for key, text in self._client.key_value_dir_get(FOLDER)}
                self._answered = time.monotonic()
            except jax.errors.JaxRuntimeError:  # no answer: _look counts the seconds
                pass
            self._ended.wait(self._interval)

    def _look(self):
        looked = time.monotonic()
        while not self._ended.wait(self._interval / 2):
            now, before = time.monotonic(), looked
            looked = now
            verdict = self._judge(now, now - before)
            if verdict is not None and not self._parting:
                self._leave(*verdict)

    def _judge(self, now, pause):
        """(exit code, reason) if this process must end, else None. pause: seconds since it last looked."""
        if pause > self._heartbeat:  # it was suspended, or its machine was: to the others it was gone
            return Stopped.exit_code, f'process {self._index} was suspended for {pause:.0f} s, the others have ended'
        if 'reason' in self._news:
            return Stopped.exit_code, self._news['reason']
        if now - self._answered > self._heartbeat:
            silence = f'process 0, which all need, has not answered for {self._heartbeat:g} s'
            return self._about(0) or (Stopped.exit_code, f'{silence}: dead, suspended or cut off')
        for other in sorted(self._others):
            verdict = self._judge_other(other, now)
            if verdict is not None:
                return verdict
        if self._stepped is not None and now - self._stepped > self._step_timeout:
            faulthandler.dump_traceback(all_threads=True)
            return (
                Stopped.exit_code,
                f'process {self._index} has done no step for {self._step_timeout:g} s after step {self._step}',
            )
        return None

    def _judge_other(self, other, now):
        if f'{other}/ended' in self._news:
            since = self._goodbyes.setdefault(other, now)
            return self._about(other) if now - since > self._heartbeat / 2 else None
        beat, since = self._seen[other]
        if self._news.get(f'{other}/beat', '') != beat:
            self._seen[other] = self._news[f'{other}/beat'], now
        elif now - since > self._heartbeat and now - self._answered < self._heartbeat / 2:
            silence = f'process {other} has sent no heartbeat for {self._heartbeat:g} s'
            return Stopped.exit_code, f'{silence}: dead, suspended or cut off'
        return None

    def _about(self, other):
        """(exit code, reason) that another process left when it ended early, None if there is none."""
        if f'{other}/ended' not in self._news:
            return None
        code, line = json.loads(self._news[f'{other}/ended'])
        return code if code in FINAL else Stopped.exit_code, f'process {other} ended early: {line}'

    def _leave(self, code, reason):
        """End the process, whatever its main thread waits for; the first of several callers does it."""
        with self._leaving:
            line = f'rvm train: {reason}; the same command line resumes from the last checkpoint'
            os.write(2, f'{line if code == Stopped.exit_code else f"rvm train: {reason}"}\n'.encode())
            said = functools.partial(self._post, f'{self._index}/ended', json.dumps([code, reason]))
            acts: list[Callable[[], Any]] = [
                functools.partial(self._post, 'reason', reason),
                said,
                *self.before_leaving,
            ]
            threads = [threading.Thread(target=act, daemon=True) for act in acts]  # each of them may hang
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + ANSWER
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            if self._index == 0:
                time.sleep(2 * self._interval)  # until the others have read the reason
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)

    def _answers(self):
        answers = []

        def ask():
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                answers.append(self._client.key_value_dir_get(FOLDER))

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(ANSWER)
        return bool(answers)

    def _post(self, key, text):
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone, and with it the store
            self._client.key_value_set(f'{FOLDER}{key}', text, allow_overwrite=True)
