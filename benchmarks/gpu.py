"""Run the stages of benchmarks/gpu.sh, each in its own process with its own time limit, and write the results.

    benchmarks/gpu.sh [--sizes tiny] [--seconds 480] [--output FOLDER]

The most useful stages come first. If a stage fails, runs out of time, or is not started because no time is left, a line
of the table says why; the other stages still run, and the exit code is 1. FOLDER gets figures.md (rewritten after each
stage), a log and the rows of each stage, and the compiled programs, which all stages share.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from gpu_stages import RECIPES
from gpu_table import Outcome, find_facts, markdown, read_rows

OUT_OF_TIME = (124, 137)  # exit codes of `timeout`: the command ended on SIGTERM, or had to be killed
FEWEST, GRACE = 15.0, 5.0  # seconds: a stage is not started with less; it has this long to end after SIGTERM
ERROR = re.compile(r'(\w+\.)*\w*(Error|Exception|Interrupt)\b')


class Stage(NamedTuple):
    """arguments: of gpu_stages.py; limit: seconds that it may take."""

    arguments: tuple[str, ...]
    limit: float

    @property
    def name(self) -> str:
        """Its name in the table."""
        return ' '.join(self.arguments)


FULL = (
    Stage(('device',), 45),
    Stage(('train', 's', 'ours'), 100),
    Stage(('doctor',), 75),
    Stage(('train', 'l', 'ours'), 110),
    Stage(('train', 'dinov3_l', 'ours'), 90),
    Stage(('profile', 's'), 50),
    Stage(('train', 's', 'default_flags'), 60),
    Stage(('input',), 75),
    Stage(('stream', 's'), 45),
    Stage(('train', 's', 'released'), 90),
    Stage(('train', 'b', 'ours'), 90),
    Stage(('train', 'dinov3_l', 'released'), 90),
    Stage(('stream', 'l'), 45),
    Stage(('train', 'l', 'released'), 110),
    Stage(('train', 'b', 'released'), 90),
)
TINY = (
    Stage(('device',), 60),
    Stage(('train', 'tiny', 'ours'), 600),
    Stage(('doctor',), 600),
    Stage(('train', 'frozen_tiny', 'ours'), 600),
    Stage(('profile', 'tiny'), 600),
    Stage(('input',), 600),
    Stage(('stream', 'tiny'), 600),
    Stage(('train', 'tiny', 'default_flags'), 600),
    Stage(('train', 'tiny', 'released'), 600),
    Stage(('train', 'frozen_tiny', 'released'), 600),
)
STAGES = {'full': FULL, 'tiny': TINY}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', choices=RECIPES, default='full', help='tiny: small models, also on a CPU')
    parser.add_argument('--seconds', type=float, default=480, help='time limit in all (default: 480)')
    parser.add_argument('--output', type=Path, default=Path('runs/gpu'), help='folder for results (default: runs/gpu)')
    flags = parser.parse_args()
    sys.exit(run(STAGES[flags.sizes], flags.sizes, flags.seconds, flags.output))


def run(stages: tuple[Stage, ...], sizes: str, seconds: float, folder: Path) -> int:
    """Run the stages within `seconds` and write folder/figures.md; returns 1 if a stage has a problem, else 0."""
    folder.mkdir(parents=True, exist_ok=True)
    deadline, outcomes, figures = time.monotonic() + seconds, [], folder / 'figures.md'
    for stage in stages:
        outcomes.append(run_stage(stage, sizes, folder, deadline - time.monotonic() - GRACE))
        figures.write_text(markdown(outcomes))
        facts = find_facts(outcomes)
        if sizes == 'full' and facts and facts['platform'] != 'gpu':
            print(f'no GPU: JAX {facts["jax"]} sees {facts["device"]}; without a GPU, try --sizes tiny')
            return 2
    print(f'\n{figures.read_text()}\nwritten to {figures}')
    return int(any(outcome.problem for outcome in outcomes))


def run_stage(stage: Stage, sizes: str, folder: Path, seconds: float) -> Outcome:
    """Run one in its own process, for its time limit or for `seconds`, whichever is less."""
    limit, stem = min(stage.limit, seconds), stage.name.replace(' ', '_')
    if limit < FEWEST:
        return Outcome(stage.name, 0.0, [], 'not started: no time was left')
    rows, log = folder / f'{stem}.jsonl', folder / f'{stem}.log'
    rows.unlink(missing_ok=True)
    print(f'{stage.name}: at most {limit:.0f} s', flush=True)
    script = Path(__file__).with_name('gpu_stages.py')
    command = [sys.executable, script, '--sizes', sizes, '--rows', rows, *stage.arguments]
    started = time.monotonic()
    with open(log, 'w') as file:
        code = subprocess.run(
            ['timeout', f'--kill-after={GRACE}', str(limit), *command],
            stdout=file, stderr=subprocess.STDOUT, env=environment(folder),
        ).returncode  # fmt: skip
    problem = describe(code, limit, log.read_text(errors='replace'))
    return Outcome(stage.name, time.monotonic() - started, read_rows(rows), problem)


def environment(folder: Path) -> dict[str, str]:
    """The environment of every stage: one shared cache of compiled programs."""
    return {'JAX_COMPILATION_CACHE_DIR': str(folder.absolute() / 'compiled')} | os.environ


def describe(code: int, limit: float, log: str) -> str:
    """The problem that a stage ended with; '' if there was none."""
    if code in OUT_OF_TIME:
        return f'out of time after {limit:.0f} s'
    return f'failed: {reason(log) or f"exit code {code}"}' if code else ''


def reason(log: str, longest: int = 200) -> str:
    """The last line of a log that names an error, else its last line; '' if there is none."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if ERROR.match(line)]
    return (named or lines or [''])[-1][:longest]


if __name__ == '__main__':
    main()
