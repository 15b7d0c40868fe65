"""Called by pod.sh before each start: waits for the bucket of the workdir, and bounds starts without a new checkpoint.

    python count_start.py WORKDIR 'SLICE HOST'

The first host keeps the count in the workdir, since a pod keeps nothing. A start by the same `launch/gke.sh train`
(RVM_LAUNCH_ID) that finds no newer step than the last one did counts; after RVM_LAUNCH_RETRIES of them exit code 77
tells the JobSet to give up. Before that the waits grow.
"""

import os
import sys
import time

from rvm_jax.errors import Unavailable
from rvm_jax.storage import files
from rvm_jax.training import checkpoint_files

NAME = 'gke_starts.json'
GIVE_UP = 77
FIRST_WAIT = float(os.environ.get('RVM_LAUNCH_POLL', '15'))  # seconds, doubled with each start
LONGEST_WAIT = 240.0  # below config.hosts.start_timeout, for which the other hosts wait
BUCKET_WAIT = float(os.environ.get('RVM_LAUNCH_BUCKET_WAIT', '600'))  # seconds; a new node gets its rights late


def say(text: str) -> None:
    """One line in the log of the pod."""
    print(f'launch/gke: {text}', flush=True)


def newest_step(workdir: str) -> int:
    """The newest complete checkpoint's step, 0 without one."""
    return max(checkpoint_files.find_steps(os.path.join(workdir, 'checkpoints')), default=0)


def count(workdir: str, launch: str, most: int) -> int:
    """Count this start; returns how many before it brought no new checkpoint, or -1 if there are too many."""
    step, path = newest_step(workdir), os.path.join(workdir, NAME)
    try:
        last = files.read_json(path)
    except (FileNotFoundError, ValueError):
        last = {}
    barren = last['starts'] if last.get('launch') == launch and last['step'] >= step else 0
    if barren >= most:
        say(f'{barren} starts without a new checkpoint after step {step}: the run is given up')
        return -1
    files.write_json(path, {'launch': launch, 'step': step, 'starts': barren + 1})
    return barren


def main(workdir: str, place: str) -> int:
    """Exit code: 0 to train, GIVE_UP to end the run."""
    deadline, told = time.monotonic() + BUCKET_WAIT, ''
    while True:
        try:
            if place != '0 0':
                newest_step(workdir)
                return 0
            barren = count(workdir, os.environ['RVM_LAUNCH_ID'], int(os.environ['RVM_LAUNCH_RETRIES']))
            break
        except (OSError, Unavailable) as error:
            if time.monotonic() > deadline:
                say(f'the run is given up: for {BUCKET_WAIT:.0f} s no access to {workdir}: {error}')
                return GIVE_UP
            if str(error) != told:
                say(f'waiting for access to {workdir}: {error}')
                told = str(error)
            time.sleep(min(FIRST_WAIT, 10))
    if barren < 0:
        return GIVE_UP
    if barren:
        wait = min(FIRST_WAIT * 2 ** (barren - 1), LONGEST_WAIT)
        say(f'{barren} starts brought no new checkpoint; waiting {wait:.0f} s before the next one')
        time.sleep(wait)
    return 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
