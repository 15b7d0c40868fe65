import json

import pytest

from rvm_jax.data.batch import FAILED
from rvm_jax.errors import DataError, UserError
from rvm_jax.training.data_report import FailureLog, read_report

BROKEN = ('failed', 'bad.mp4', 'is damaged (at 3.00 s: invalid data)')
SHORT = ('too short', 'short.mp4', 'has too few frames (3, a clip needs 8)')


def open_log(folder, max_failures):
    path = folder / 'data_report.json'
    return FailureLog(path, max_failures, read_report(path))


def add(log, step, failures=(), clips=10):
    """Count and name the failures of a step, as the run log of a single process does."""
    new = log.new({'step': step, 'failures': list(failures)})
    log.name(new)
    failed = sum(kind == FAILED for kind, _, _ in new)
    log.count(step, clips, failed, len(new) - failed)


def test_files_are_listed_by_reason(tmp_path):
    log = open_log(tmp_path, 0.5)
    add(log, 0, [BROKEN, SHORT])
    add(log, 1, [BROKEN])
    assert (log.report['clips'], log.report['failed'], log.report['too_short']) == (20, 2, 1)
    assert log.report['reasons']['is damaged'] == {'bad.mp4': {'count': 2, 'detail': BROKEN[2]}}
    assert list(log.report['reasons']['has too few frames']) == ['short.mp4']


def test_too_many_failures_stop_the_run(tmp_path):
    log = open_log(tmp_path, 0.1)
    for step in range(7):
        add(log, step, [BROKEN] * 3)
    with pytest.raises(
        DataError, match=r'23\.1% of 104 clips: could not be read.*is damaged: 24 times in 1 files'
    ) as error:
        add(log, 7, [BROKEN] * 3)
    assert error.value.exit_code == 65


def test_processes_that_count_the_same_stop_at_the_same_step(tmp_path):
    logs = [open_log(tmp_path, 0.1), open_log(tmp_path, 0.1)]
    logs[0].name([BROKEN])  # only the first process knows reasons
    for log in logs:
        with pytest.raises(DataError, match=r'50\.0% of 200 clips: could not be read'):
            log.count(0, 100, 100, 0)


def test_few_clips_prove_nothing(tmp_path):
    add(open_log(tmp_path, 0.1), 0, [BROKEN] * 5)


def test_short_videos_are_not_failures(tmp_path):
    log = open_log(tmp_path, 0.1)
    for step in range(30):
        add(log, step, [SHORT] * 9)
    assert log.share() == 0


def test_counting_continues_and_counts_no_step_twice(tmp_path):
    log = open_log(tmp_path, 0.5)
    for step in range(5):
        add(log, step, [BROKEN])
    (tmp_path / 'data_report.json').write_text(json.dumps(log.report))
    again = open_log(tmp_path, 0.5)
    for step in range(3, 7):  # the newest checkpoint was older than the report
        add(again, step, [BROKEN])
    assert (again.report['clips'], again.report['failed']) == (70, 7)
    assert again.report['reasons']['is damaged']['bad.mp4']['count'] == 7


def test_a_file_that_is_not_a_report_is_an_error(tmp_path):
    (tmp_path / 'data_report.json').write_text('[]')
    with pytest.raises(UserError, match='is not a data report'):
        open_log(tmp_path, 0.5)
