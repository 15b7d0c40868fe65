import contextlib
import io
import os
import subprocess
import sys
import time

from rvm_jax.training import evaluation
from rvm_jax.training.progress import Progress, format_line, format_seconds

SCALARS = {
    'loss': 0.0123,
    'learning_rate': 1.2e-3,
    'grad_norm': 0.52,
    'clips_per_second': 85.1,
    'mfu': 0.31,
    'data_wait': 0.02,
    'skipped_videos': 3,
    'skipped_steps': 0,
}


def test_the_line_has_all_that_is_known():
    assert format_line(1200, 5000, SCALARS, 754) == (
        'step 1200/5000  loss 0.0123  lr 1.2e-03  |g| 0.52  85.1 clips/s  MFU 31 %  data wait 2 %  '
        'skipped 3 videos  left 12:34'
    )


def test_what_is_not_known_is_left_out():
    assert format_line(1, 9, {'loss': 1.0, 'mfu': None, 'skipped_steps': 2}) == 'step 1/9  loss 1  skipped 2 steps'


def test_time_left_stays_sensible():
    assert [format_seconds(s) for s in (0, 59.6, 3723, -5, 1e30)] == ['0:00', '1:00', '1:02:03', '0:00', '999:00:00']


def test_time_left_follows_the_pace_and_not_the_wall_clock(monkeypatch):
    seconds = iter([0.0, 100.0, 102.0, 104.0])
    monkeypatch.setattr(time, 'monotonic', lambda: next(seconds))
    monkeypatch.setattr(time, 'time', lambda: 1 / 0)
    progress = Progress(10, io.StringIO())
    progress.update(4)
    assert progress.seconds_left() is None
    progress.update(5)
    assert progress.seconds_left() == 500
    progress.update(9)
    progress.update(12)
    assert progress.seconds_left() == 0


def test_without_a_terminal_only_logged_steps_make_a_line():
    stream = io.StringIO()
    with Progress(3, stream) as progress:
        for step in (1, 2, 3):
            progress.update(step, {'loss': 0.5} if step == 2 else None)
    assert stream.getvalue().startswith('step 2/3  loss 0.5  left 0:0')
    assert stream.getvalue().count('\n') == 1


def test_a_log_file_tells_what_the_first_step_waits_for():
    stream = io.StringIO()
    with Progress(3, stream) as progress:
        progress.waiting('compiling the training step')
        progress.update(1, {'loss': 0.5})
        progress.waiting('evaluating')  # short, and at every evaluation
        progress.held_out(1, {'eval_loss': 0.02, 'eval_copy_last': 0.0127, 'eval_mean_color': 0.0233})
    assert stream.getvalue().splitlines() == [
        'compiling the training step',
        'step 1/3  loss 0.5',
        'step 1/3  held-out clips: loss 0.02, copy the last frame 0.0127, mean color 0.0233',
    ]


def read_terminal(descriptor):
    """All that was written to the other end, which is closed by now; one read may give only a part of it."""
    shown = b''
    with open(descriptor, 'rb', buffering=0) as terminal, contextlib.suppress(OSError):  # its end is an error
        while part := terminal.read(4096):
            shown += part
    return shown.decode()


def read_until(descriptor, text):
    """Read what is written to the other end until a text has come; an empty read is its end."""
    shown = ''
    while text not in shown:
        part = os.read(descriptor, 4096)
        assert part, shown
        shown += part.decode(errors='replace')


def test_a_terminal_shows_a_live_bar(monkeypatch):
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('COLUMNS', '120')
    ours, theirs = os.openpty()
    with open(theirs, 'w') as stream, Progress(3, stream) as progress:
        progress.waiting('compiling the training step')
        read_until(ours, 'compiling the training step 0:01')
        progress.update(1, {'loss': 0.5})
        progress.update(2)
        read_until(ours, 'step 2/3  loss 0.5')  # the step of now, with the numbers of the last one that was logged
        progress.held_out(2, {'eval_loss': 0.02, 'eval_copy_last': 0.0127, 'eval_mean_color': 0.0233})
        progress.update(3, {'loss': 0.25})
    shown = read_terminal(ours)
    assert 'held-out clips: loss 0.02' in shown
    assert 'step 3/3  loss 0.25' in shown
    assert '\x1b[' in shown


def test_a_run_outlives_who_reads_its_output():
    code = """
import sys
from rvm_jax.terminal import say
from rvm_jax.training.progress import Progress
with Progress(9) as progress:
    for step in range(9):
        progress.update(step, {'loss': 1.0})
        say('notice')
open(sys.argv[1], 'w').write('reached the end')
"""
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run([sys.executable, '-c', code, '/dev/null'], stdout=writer, stderr=writer)
    os.close(writer)
    assert process.returncode == 0


def test_a_model_that_predicts_no_better_than_nothing_is_told_as_such():
    losses = {'loss': 0.0316, 'copy_last': 0.0127, 'mean_color': 0.0233}
    line = evaluation.judged(losses)
    assert (
        '(error 0.0316; copying the last source frame 0.0127, mean color 0.0233)' in line and '--config.steps' in line
    )
    assert evaluation.judged(losses | {'loss': 0.012}) is None
    assert evaluation.judged(losses | {'loss': 0.02}) is not None  # one of the two is better
