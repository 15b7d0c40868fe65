"""Random histories of a run on a TPU: no capacity, preemptions, lost hosts and networks, signals, other operators."""

import random
import re
import signal
import time

import pytest

pytestmark = pytest.mark.long
COMMAND = ('--name', 'rvm', '--zones', 'a,b', '--project', 'p', '--accelerator', 'v6e-8', '--wait', '600')
RUN = ('--', 'train', '--config', 'configs/rvm_h.py', '--workdir', 'gs://bucket/runs/h')
STEPS = 20
REFUSALS = (
    'RESOURCE_EXHAUSTED: There is no more capacity in the zone',
    'UNAVAILABLE: try again',
    'INTERNAL: an internal error',
)
# What the operator is told of what is left: nothing, or something that costs money.
NOTHING = 'nothing is requested|is deleted from|was deleted by someone|nothing was requested|nothing was created'
SOMETHING = (
    'costs money|cost money|stays: launch|tries again|nothing was changed|launch/tpu.sh delete|is in several zones|'
    'not every zone|asks again'
)


class History:
    """One history: what Google will do, and what people do and when."""

    def __init__(self, tpu, seed):
        self.tpu, self.random, self.told = tpu, random.Random(seed), []
        tpu.trains(STEPS, pace=5)
        tpu.plan(a=self.offers(), b=self.offers())
        self.delete_at_end = self.random.random() < 0.5
        self.events = sorted(
            (self.event() for _ in range(self.random.choice([0, 0, 1, 1, 2, 3]))), key=lambda event: event[0]
        )
        for attempt in range(1, 4):
            if self.random.random() < 0.15:
                tpu.sign(f'crash.{attempt}')
        for sign in ('scp1.0', 'flaky.0'):
            if self.random.random() < 0.15:
                tpu.sign(sign)
        self.running, self.starts = [], 0

    def offers(self):
        return [self.offer() for _ in range(self.random.randrange(4))] + [{}]

    def offer(self):
        pick = self.random
        offer = pick.choice([
            {'refuse': pick.choice(REFUSALS)},
            {'after': None},
            {'fail': pick.randrange(10, 400)},
            {'preempt': pick.randrange(0, 40)},  # while it is installed
            {'preempt': pick.randrange(40, 160)},  # while it trains
            {'preempt': 80, 'gap': pick.choice([0, 600, 99999]), 'suspending': pick.choice([10, 500])},
            {'preempt': pick.randrange(40, 160), 'vanish': True},
            {'silent': {pick.choice('01'): pick.randrange(0, 160)}},
            {'silent': {'0': 60, '1': 60}, 'health': 'UNHEALTHY_MAINTENANCE', 'sick': 50},
            {'after': pick.randrange(500, 700)},
        ])  # fmt: skip
        offer |= {'lost': pick.random() < 0.2, 'late': pick.choice([0, 0, 10]), 'refuses': pick.choice([0, 0, 0, 2])}
        return offer | {'deleting': pick.choice([10, 30, 300])}

    def event(self):
        at = self.random.randrange(0, 500)
        return at, self.random.choice(
            ['INT', 'TERM', 'HUP', 'KILL', 'second', 'second', 'stop', 'delete', 'offline', 'unreachable']
        )

    def play(self):
        """Until nobody does anything any more."""
        self.start()
        deadline = time.monotonic() + 900  # only if it hangs
        while True:
            assert time.monotonic() < deadline
            now = self.tpu.cloud.now - 1800000000
            while self.events and self.events[0][0] <= now:
                self.act(self.events.pop(0)[1])
            for process in [process for process in self.running if process.poll() is not None]:
                self.running.remove(process)
                self.ended(process)
            if not self.running:
                if self.is_over():
                    return
                self.tpu.cloud.advance(120)  # the operator reads, and types the same command again
                for sign in ('offline', 'unreachable'):
                    self.tpu.cloud.clear(sign)
                self.start()
            time.sleep(0.01)

    def start(self):
        self.starts += 1
        arguments = ['--delete-at-end'] if self.delete_at_end else []
        self.running.append(self.tpu.start('tpu.sh', 'train', *COMMAND, *arguments, *RUN))

    def act(self, what):
        process = self.running[0] if self.running else None
        if what in ('INT', 'TERM', 'HUP', 'KILL') and process:
            process.send_signal(getattr(signal, f'SIG{what}'))
        elif what == 'second' and len(self.running) < 2:
            self.start()
        elif what in ('stop', 'delete'):
            self.running.append(self.tpu.start('tpu.sh', what, *COMMAND))
        elif what in ('offline', 'unreachable'):
            self.tpu.sign(f'{what}.0')
            at = self.tpu.cloud.now - 1800000000
            self.events = sorted([*self.events, (at + self.random.choice([60, 300, 3000]), f'end {what}')])
        elif what.startswith('end '):
            self.tpu.cloud.clear(what[4:])

    def ended(self, process):
        stdout, stderr = process.communicate()
        self.told.append((process.returncode, process.args[2], stdout, stderr))
        print(f'--- {process.args[2]} ended with {process.returncode}\n{stdout}{stderr}')

    def is_over(self):
        """Steps done, deleted on purpose, or told so often that nobody tries again."""
        trained = [code for code, verb, *_ in self.told if verb == 'train']
        texts = ' '.join(text for *_, text in self.told)
        return trained[-1] in (0, 1, 2) or 'was deleted by someone' in texts or self.starts >= 8


def check(tpu, history):
    """Every history ends with the steps done or a clear word, and what is left was asked for."""
    code, _, _, words = [told for told in history.told if told[1] == 'train'][-1]
    assert not tpu.cloud.two and not tpu.lines('violations') and not tpu.lines('errors')
    assert code in (0, 1, 2, 75, 130, -9, -1)
    if code == 0:
        assert max(tpu.steps()) == STEPS
    last = words.strip().splitlines()[-2:] if words.strip() else ['']
    if code in (1, 2, 75, 130):
        assert re.search(f'{NOTHING}|{SOMETHING}', ' '.join(last))
    if tpu.there() and code not in (-9, -1):
        told = ' '.join(line for told in history.told for line in told[3].strip().splitlines()[-2:])
        assert re.search(SOMETHING, told)
    if code == 0 and history.delete_at_end:
        assert not tpu.there()
    begun = [int(step) for told in history.told for step in re.findall(r'training from step (\d+)', told[2])]
    assert all(step in (0, *tpu.steps()) for step in begun), history.told  # each start resumed from a checkpoint


def outcome(history):
    code, _, _, words = [told for told in history.told if told[1] == 'train'][-1]
    return f'{code} {words.strip().splitlines()[-1][:100] if words.strip() else ""}'


@pytest.mark.parametrize('seed', range(8))
def test_a_history_ends_well(tpu, seed):
    history = History(tpu, seed)
    history.play()
    check(tpu, history)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(100, 200))
def test_a_hundred_histories_end_well(tpu, seed):
    history = History(tpu, seed)
    history.play()
    print(f'history {seed}: {history.starts} starts, {tpu.cloud.now - 1800000000} s, {outcome(history)}')
    check(tpu, history)
