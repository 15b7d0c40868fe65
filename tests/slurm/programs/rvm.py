"""Stand-in for `rvm train` in a task of a job: rvm.py FOLDER train ARGUMENTS...

Line n of FOLDER/plan says how start n goes, one word a task: CODE or `wait`, each with @STEP for a checkpoint that it
leaves. On SIGTERM `wait` ends with 75, `wait:CODE` with that code, and `wait:deaf` not at all.
"""

import os
import pathlib
import signal
import sys
import time

folder, arguments = pathlib.Path(sys.argv[1]), sys.argv[2:]
start, task = int(os.environ.get('SLURM_RESTART_COUNT', 0)) + 1, int(os.environ['SLURM_PROCID'])
flags = os.environ.get('XLA_FLAGS')
if flags is not None and not flags.strip().startswith('--'):
    os.abort()  # XLA takes it for the name of a file
word, _, step = (folder / 'plan').read_text().splitlines()[start - 1].split()[task].partition('@')
action, _, code = word.partition(':')
if code == 'deaf':
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    # Slurm may signal this process itself, and its parent passes the signal on too: the second one changes nothing.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(int(code or 75)))
if step:
    (pathlib.Path(arguments[arguments.index('--workdir') + 1]) / 'checkpoints' / step).mkdir(
        parents=True, exist_ok=True
    )
seen = [os.environ.get('RVM_DISTRIBUTED', ''), os.environ.get('SETTING', ''), flags or '', os.getcwd(), *arguments]
(folder / f'started.{start}.{task}').write_text('\n'.join(seen))
print(f'task {task} start {start}', flush=True)
if action == 'wait':
    time.sleep(600)
else:
    while len(list(folder.glob(f'started.{start}.*'))) < int(os.environ['SLURM_NTASKS']):
        time.sleep(0.05)
    sys.exit(int(action))
