"""Videos that could not be used: counted, named with their reason, and a stop when there are too many."""

import os

from rvm_jax.errors import DataError, UserError
from rvm_jax.storage import files

MIN_TRIES = 100  # attempts to read a clip before a share means anything
TOP_REASONS = 3


class FailureLog:
    """Adds up the failures of all steps in a `report`, which goes on where the one of an earlier start ended.

    The report: clips (delivered), failed and too_short (attempts that gave none), next_step, and reasons:
    {reason: {path: {count, detail}}}. Where several processes read clips, each counts what all of them met, so that all
    stop at the same step; only the first has the reasons of all. path is where the report lies, for messages.
    """

    def __init__(self, path, max_failures, report):
        self.path, self.max_failures, self.report = os.fspath(path), max_failures, report

    def new(self, batch):
        """The failures of a batch; [] if its step, seen again after a restart, was counted before."""
        return batch['failures'] if batch['step'] >= self.report['next_step'] else []

    def name(self, failures):
        """List failures, (kind, path, reason), by reason."""
        for _, path, reason in failures:
            videos = self.report['reasons'].setdefault(reason.split(' (')[0], {})
            videos.setdefault(path, {'count': 0, 'detail': reason})['count'] += 1

    def count(self, step, clips, failed, too_short):
        """Add up a step; one that was counted before is not counted twice.

        DataError if more than max_failures of all attempts failed, once there were 100. Sound videos that are too short
        for a clip are listed but do not count as failed.
        """
        if step < self.report['next_step']:
            return
        self.report['next_step'] = step + 1
        for name, number in (('clips', clips), ('failed', failed), ('too_short', too_short)):
            self.report[name] += number
        if failed:
            self._check_share()

    def share(self):
        """Failed attempts over attempts that a sound video could have served, in [0, 1]."""
        tries = self.report['clips'] + self.report['failed']
        return self.report['failed'] / tries if tries else 0.0

    def _check_share(self):
        tries = self.report['clips'] + self.report['failed']
        if tries < MIN_TRIES or self.share() <= self.max_failures:
            return
        counts = {reason: sum(f['count'] for f in videos.values()) for reason, videos in self.report['reasons'].items()}
        top = sorted(counts, key=counts.get, reverse=True)[:TOP_REASONS]
        summary = '; '.join(
            f'{reason}: {counts[reason]} times in {len(self.report["reasons"][reason])} files' for reason in top
        )
        raise DataError(
            self.path,
            f'{self.share():.1%} of {tries} clips failed, more than the {self.max_failures:.1%} allowed'
            + (f' ({summary})' if summary else ''),
            'repair or remove these videos, or raise --config.data.max_failures',
        )


def read_report(path):
    """The report in a file, or an empty one. Raises UserError if it cannot be read."""
    if not files.exists(path):
        return {'clips': 0, 'failed': 0, 'too_short': 0, 'next_step': 0, 'reasons': {}}
    try:
        report = files.read_json(path)
        if not all(isinstance(report[name], int) for name in ('clips', 'failed', 'too_short', 'next_step')):
            raise ValueError('it counts in something else than numbers')
        if not all(
            isinstance(found['count'], int) for videos in report['reasons'].values() for found in videos.values()
        ):
            raise ValueError('its reasons are not counted')
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(path, f'is not a data report ({error})', 'move it away to start counting anew') from error
    return report
