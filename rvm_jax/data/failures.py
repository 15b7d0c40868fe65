"""Videos that could not be used: counted, named with their reason, and a stop when there are too many."""

import os

from rvm_jax import storage
from rvm_jax.data.batch import FAILED, TOO_SHORT
from rvm_jax.errors import DataError, UserError

MIN_TRIES = 100  # attempts to read a clip before a share means anything
TOP_REASONS = 3


class FailureLog:
    """Adds up the failures of batches and keeps them in a JSON file, over restarts as well.

    The file: clips (delivered), failed and too_short (attempts that gave none), next_step, and reasons:
    {reason: {path: {count, detail}}}.
    """

    def __init__(self, path, max_failures):
        self.path = os.fspath(path)
        self.max_failures = max_failures
        self.report = _read(self.path)

    def update(self, batch):
        """Add one batch; a step that the file knows already, seen again after a restart, is not counted twice.

        DataError, after writing the file, if more than max_failures of all attempts failed, once there were 100.
        Sound videos that are too short for a clip are listed but do not count as failed.
        """
        report = self.report
        if batch['step'] < report['next_step']:
            return
        report['next_step'] = batch['step'] + 1
        report['clips'] += len(batch['record_B'])
        for kind, path, reason in batch['failures']:
            report['too_short' if kind == TOO_SHORT else 'failed'] += 1
            files = report['reasons'].setdefault(reason.split(' (')[0], {})
            files.setdefault(path, {'count': 0, 'detail': reason})['count'] += 1
        if any(kind == FAILED for kind, _, _ in batch['failures']):
            self._check_share()

    def write(self):
        """Write the file, whole or not at all."""
        storage.write_json(self.path, self.report, indent=1)

    def share(self):
        """Failed attempts over attempts that a sound video could have served, in [0, 1]."""
        tries = self.report['clips'] + self.report['failed']
        return self.report['failed'] / tries if tries else 0.0

    def _check_share(self):
        tries = self.report['clips'] + self.report['failed']
        if tries < MIN_TRIES or self.share() <= self.max_failures:
            return
        self.write()
        counts = {reason: sum(f['count'] for f in files.values()) for reason, files in self.report['reasons'].items()}
        top = sorted(counts, key=counts.get, reverse=True)[:TOP_REASONS]
        summary = '; '.join(
            f'{reason}: {counts[reason]} times in {len(self.report["reasons"][reason])} files' for reason in top
        )
        raise DataError(
            self.path,
            f'{self.share():.1%} of {tries} clips failed, more than the {self.max_failures:.1%} allowed ({summary})',
            'repair or remove these videos, or raise --config.data.max_failures',
        )


def _read(path):
    if not storage.exists(path):
        return {'clips': 0, 'failed': 0, 'too_short': 0, 'next_step': 0, 'reasons': {}}
    try:
        report = storage.read_json(path)
        if not {'clips', 'failed', 'too_short', 'next_step', 'reasons'} <= report.keys():
            raise ValueError('keys are missing')
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(path, f'is no data report ({error})', 'move it away to start counting anew') from error
    return report
