"""Keeps a process from waiting for ever for one that is gone: who of several trains on, and who has ended.

Each process leaves signs of life where the processes meet (the key-value store of `jax.distributed`, which lives in
process 0) and reads those of the others. Whoever misses one says so there, and all end with exit code 75, the reason in
one line: a thread of Python can do that while the main thread waits in a collective that will never be complete.
"""

import contextlib
import faulthandler
import functools
import json
import os
import sys
import threading
import time

import jax

from rvm_jax.errors import DataError, Diverged, Stopped, UserError

FOLDER = 'rvm/watch/'  # keys below it: <process>/beat, a counter; <process>/ended, [exit code, line]; reason, a line
FINAL = (UserError.exit_code, DataError.exit_code, Diverged.exit_code)  # starting again would end the same way
ANSWER = 3.0  # seconds that the last words may take
SLOWEST = 2.0  # seconds between signs of life, at most


class Watchdog:
    """Watches over `count` processes from process `index`; client is the one of `jax.distributed`.

    A process that is silent for `heartbeat` seconds is gone. One that ended early leaves the others as long to come to
    their own end. No step for step_timeout seconds ends this process; the clock runs from the first step on, which
    compiles.
    """

    def __init__(self, client, index, count, heartbeat, step_timeout):
        self._client, self._index, self._others = client, index, set(range(count)) - {index}
        self._heartbeat, self._step_timeout = heartbeat, step_timeout
        self._interval = min(heartbeat / 10, SLOWEST)
        self._news, self._answered = {}, time.monotonic()  # what was last read, and when
        self._seen = {other: ('', self._answered) for other in self._others}  # sign of life, and when it was new
        self._goodbyes = {}  # process -> when its end was first seen
        self._stepped, self._step = None, 0
        self._ended, self._leaving, self._parting = threading.Event(), threading.Lock(), False
        self.before_leaving = []  # called before the process ends: what must not stay behind

    def start(self):
        """Begin to give signs of life and to look for them."""
        for target in (self._exchange, self._look):
            threading.Thread(target=target, name=f'watch{target.__name__}', daemon=True).start()

    def stop(self):
        """End without a word, because all have come to the end of the run."""
        self._parting = True
        self._ended.set()

    def stepped(self, step):
        """Tell that this process came as far as this step."""
        self._stepped, self._step = time.monotonic(), step

    def goodbye(self, code, line):
        """Tell the others that this process ends early, and why.

        Process 0 stays, because the others meet there, until they have ended too or are silent.
        """
        self._parting = True
        self._post(f'{self._index}/ended', json.dumps([code, line]))
        deadline = time.monotonic() + self._heartbeat
        while self._index == 0 and time.monotonic() < deadline:
            if all(f'{other}/ended' in self._news for other in self._others):
                break
            time.sleep(self._interval / 4)
        self.stop()

    def wait_for_a_reason(self):
        """Wait as long as it takes to find out who is gone; then this does not return."""
        self._ended.wait(self._heartbeat + 3 * self._interval)

    def lost(self):
        """What to do when JAX finds that the processes cannot meet any more: process 0 is gone.

        Returns if that is not so, because the process met the terminate handler of C++ for another reason.
        """
        if self._answers():
            return
        if not self._parting:
            self._leave(*self._about(0) or (Stopped.exit_code, 'process 0 is gone'))
        threading.Event().wait()  # JAX would end the process with an abort

    def _exchange(self):
        beats = 0
        while not self._ended.is_set():
            beats += 1
            try:
                self._client.key_value_set(f'{FOLDER}{self._index}/beat', str(beats), allow_overwrite=True)
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
        if pause > self._heartbeat:
            return Stopped.exit_code, f'process {self._index} was held up for {pause:.0f} s, the others have ended'
        if 'reason' in self._news:
            return Stopped.exit_code, self._news['reason']
        if now - self._answered > self._heartbeat:
            silence = f'process 0, where all meet, has not answered for {self._heartbeat:g} s'
            return self._about(0) or (Stopped.exit_code, f'{silence}: dead, held up or cut off')
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
            silence = f'process {other} has given no sign of life for {self._heartbeat:g} s'
            return Stopped.exit_code, f'{silence}: dead, held up or cut off'
        return None

    def _about(self, other):
        """(exit code, reason) from the goodbye of another process, None if there is none."""
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
            acts = [functools.partial(self._post, 'reason', reason), said, *self.before_leaving]
            threads = [threading.Thread(target=act, daemon=True) for act in acts]  # they may get no answer
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + ANSWER
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            if self._index == 0:
                time.sleep(2 * self._interval)  # until the others have read it here
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
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # nobody is there to be told
            self._client.key_value_set(f'{FOLDER}{key}', text, allow_overwrite=True)
