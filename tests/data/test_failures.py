import json

import numpy as np
import pytest

from rvm_jax.data.failures import FailureLog
from rvm_jax.errors import DataError, UserError

BROKEN = ('failed', 'bad.mp4', 'is damaged (at 3.00 s: invalid data)')
SHORT = ('too short', 'short.mp4', 'has too few frames (3, a clip needs 8)')


def batch(step, failures=(), clips=10):
    return {'step': step, 'record_B': np.zeros(clips, np.int64), 'failures': list(failures)}


def test_files_are_listed_by_reason(tmp_path):
    log = FailureLog(tmp_path / 'data_report.json', 0.5)
    log.update(batch(0, [BROKEN, SHORT]))
    log.update(batch(1, [BROKEN]))
    log.write()
    report = json.loads((tmp_path / 'data_report.json').read_text())
    assert (report['clips'], report['failed'], report['too_short']) == (20, 2, 1)
    assert report['reasons']['is damaged'] == {'bad.mp4': {'count': 2, 'detail': BROKEN[2]}}
    assert list(report['reasons']['has too few frames']) == ['short.mp4']
    assert [p.name for p in tmp_path.iterdir()] == ['data_report.json']


def test_too_many_failures_stop_the_run(tmp_path):
    log = FailureLog(tmp_path / 'data_report.json', 0.1)
    for step in range(7):
        log.update(batch(step, [BROKEN] * 3))
    with pytest.raises(DataError, match=r'23\.1% of 104 clips failed.*is damaged: 24 times in 1 files') as error:
        log.update(batch(7, [BROKEN] * 3))
    assert error.value.exit_code == 65
    assert (tmp_path / 'data_report.json').exists()


def test_few_clips_prove_nothing(tmp_path):
    log = FailureLog(tmp_path / 'data_report.json', 0.1)
    log.update(batch(0, [BROKEN] * 5))


def test_short_videos_are_no_failures(tmp_path):
    log = FailureLog(tmp_path / 'data_report.json', 0.1)
    for step in range(30):
        log.update(batch(step, [SHORT] * 9))
    assert log.share() == 0


def test_counting_goes_on_after_a_restart_and_counts_no_step_twice(tmp_path):
    log = FailureLog(tmp_path / 'data_report.json', 0.5)
    for step in range(5):
        log.update(batch(step, [BROKEN]))
    log.write()
    again = FailureLog(tmp_path / 'data_report.json', 0.5)
    for step in range(3, 7):  # the newest checkpoint was older than the report
        again.update(batch(step, [BROKEN]))
    assert (again.report['clips'], again.report['failed']) == (70, 7)


def test_a_report_that_is_none_is_named(tmp_path):
    (tmp_path / 'data_report.json').write_text('[]')
    with pytest.raises(UserError, match='is no data report'):
        FailureLog(tmp_path / 'data_report.json', 0.5)
