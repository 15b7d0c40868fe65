"""Videos that could not be used: counted, listed by reason, and an error when there are too many."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from rvm_jax.distributed.process_group import ALONE, ProcessGroup
from rvm_jax.errors import DataError, UserError
from rvm_jax.storage import files

MIN_TRIES = 100  # attempts to read a clip before a share means anything
TOP_REASONS = 3
MOST_NAMED = 1000  # failures that a process reports to the first one at once

Failure = tuple[str, str, str]  # kind, path, reason; see data/batch.py


class FailureLog:
    """Adds up the failures of all steps in a `report`, which continues the one of an earlier start.

    The report: clips (delivered), failed and too_short (attempts that gave none), next_step, and reasons:
    {reason: {path: {count, detail}}}. Where several processes read clips, each counts the failures of all, so that all
    stop at the same step; only the first one has all reasons. path is where the report is, for messages.
    """

    def __init__(
        self, path: str | os.PathLike, max_failures: float, report: dict[str, Any], hosts: ProcessGroup = ALONE
    ):
        self.path, self.max_failures, self.report = os.fspath(path), max_failures, report
        self._hosts = hosts
        self._unnamed: list[Failure] = []  # of this process, which the first one does not know yet

    def new(self, batch: Mapping[str, Any]) -> list[Failure]:
        """The failures of a batch; [] if its step, repeated after a restart, was counted before."""
        return batch['failures'] if batch['step'] >= self.report['next_step'] else []

    def name(self, failures: Iterable[Failure]) -> None:
        """List failures by reason; a process that is not the first keeps them until `share_names`."""
        if not self._hosts.is_first:
            self._unnamed += failures
            return
        for _, path, reason in failures:
            videos = self.report['reasons'].setdefault(reason.split(' (')[0], {})
            videos.setdefault(path, {'count': 0, 'detail': reason})['count'] += 1

    def share_names(self) -> None:
        """Report new failures to the first process, or in that one take over what the others have reported."""
        if self._hosts.is_first:
            for failures in self._hosts.collect('failures'):
                self.name(failures)
        elif self._unnamed:
            self._hosts.post('failures', self._unnamed[:MOST_NAMED])
        self._unnamed = []

    def count(self, step: int, clips: int, failed: int, too_short: int) -> None:
        """Add up a step; one that was counted before is not counted twice.

        Raises DataError if more than max_failures of all attempts failed, once there were 100. Sound videos that are
        too short for a clip are listed, but do not count as failed.
        """
        if step < self.report['next_step']:
            return
        self.report['next_step'] = step + 1
        for name, number in (('clips', clips), ('failed', failed), ('too_short', too_short)):
            self.report[name] += number
        if failed:
            self._check_share()

    def share(self) -> float:
        """Failed attempts over attempts that a sound video could have served, in [0, 1]."""
        tries = self.report['clips'] + self.report['failed']
        return self.report['failed'] / tries if tries else 0.0

    def _check_share(self):
        tries = self.report['clips'] + self.report['failed']
        if tries < MIN_TRIES or self.share() <= self.max_failures:
            return
        counts = {reason: sum(f['count'] for f in videos.values()) for reason, videos in self.report['reasons'].items()}
        top = sorted(counts, key=lambda reason: counts[reason], reverse=True)[:TOP_REASONS]
        summary = '; '.join(
            f'{reason}: {counts[reason]} times in {len(self.report["reasons"][reason])} files' for reason in top
        )
        raise DataError(
            f'{self.share():.1%} of {tries} clips',
            f'could not be read, more than the {self.max_failures:.1%} allowed' + (f' ({summary})' if summary else ''),
            f'repair or remove the videos that {self.path} lists, or raise --config.data.max_failures',
        )


def open_failure_log(path: str, max_failures: float, hosts: ProcessGroup) -> FailureLog:
    """A FailureLog that continues the report in a file.

    The first process reads it. The others get the counts only, because they do not need the reasons. Raises UserError,
    in all processes, if the file cannot be read.
    """
    report: dict[str, Any] = {}  # of the first process: reasons can be large, and stay there
    counts = hosts.broadcast_from_first(lambda: report.update(read_report(path)) or report | {'reasons': {}})
    return FailureLog(path, max_failures, report or counts, hosts)


def read_report(path: str | os.PathLike) -> dict[str, Any]:
    """The report in a file, or an empty one. Raises UserError if it cannot be read."""
    if not files.exists(path):
        return {'clips': 0, 'failed': 0, 'too_short': 0, 'next_step': 0, 'reasons': {}}
    try:
        report = files.read_json(path)
        if not all(isinstance(report[name], int) for name in ('clips', 'failed', 'too_short', 'next_step')):
            raise ValueError('its counts are not numbers')
        if not all(
            isinstance(found['count'], int) for videos in report['reasons'].values() for found in videos.values()
        ):
            raise ValueError('its reasons have no counts')
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(path, f'is not a data report ({error})', 'move it away to start counting from zero') from error
    return report
