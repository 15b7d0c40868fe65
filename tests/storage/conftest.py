"""Processes that take locks, for those of disks and of buckets."""

import pathlib
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).parent / 'programs' / 'take_lock.py'


@pytest.fixture
def start_takers():
    """start_takers(workdir, count): processes that have tried to take the lock at one moment, and what they said."""
    started = []

    def start(workdir, count=1):
        pipe = subprocess.PIPE
        command = [sys.executable, PROGRAM, str(workdir)]
        processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(count)]
        started.extend(processes)
        for process in processes:
            assert process.stdout.readline() == 'ready\n'
        for process in processes:
            process.stdin.write('go\n')
            process.stdin.flush()
        return processes, sorted(process.stdout.readline() for process in processes)

    yield start
    for process in started:
        process.kill()
        process.communicate()
