"""The work of `rvm prepare` in a folder: begun, stopped, resumed, finished; the shards are the same in any case."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from rvm_jax.data import shard_format
from rvm_jax.data.dataset_manifest import MOST_LINES
from rvm_jax.data.prepare.encode_video import Settings
from rvm_jax.data.prepare.inputs import list_tasks
from rvm_jax.data.prepare.join_shards import make_manifest, skipped_report
from rvm_jax.data.shard_format import MOST_CHARACTERS
from rvm_jax.errors import DataError, UserError
from rvm_jax.storage import files
from rvm_jax.storage.run_lock import confirm, run_lock

ELSEWHERE = 'take another --output, or delete this one to start from the beginning'


class PrepareJob:
    """The tasks of one `rvm prepare`, and the folder that keeps unfinished work.

    path is the input: folder, glob, list, CSV file or video; val_fraction the share of videos for the split 'val'.
    UserError if the input gives nothing, or if the output folder belongs to other videos or settings.
    """

    def __init__(self, path: str, output: str, settings: Settings, val_fraction: float):
        if files.is_remote(output):
            fix = 'mount the bucket (gcsfuse), or give a folder and copy it there afterwards'
            raise UserError(output, 'is in a bucket, and shards are written to a disk', fix)
        self.output, self.folder, self.settings = output, os.path.join(output, shard_format.UNFINISHED), settings
        self.tasks, self.outside = list_tasks(path, val_fraction)
        plan = {
            'settings': dataclasses.asdict(settings),
            'tasks': [dataclasses.astuple(dataclasses.replace(task, path='')) for task in self.tasks],
        }
        self._plan = json.loads(json.dumps(plan))
        self.digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]

    def is_made(self) -> bool:
        """Whether the output folder holds the finished shards of these videos and settings."""
        if not os.path.exists(os.path.join(self.output, shard_format.MANIFEST)):
            return False
        return shard_format.read_manifest(self.output).get('made_from') == self.digest

    def is_begun(self) -> bool:
        """Whether the output folder holds unfinished work on these videos, with these settings."""
        if os.path.exists(os.path.join(self.output, shard_format.MANIFEST)):
            return False
        with contextlib.suppress(OSError, ValueError):
            return files.read_json(os.path.join(self.output, shard_format.PLAN)) == self._plan
        return False

    def finished(self) -> dict[str, Any] | None:
        """The manifest, if an earlier start has finished this same work; None if some is still to be done."""
        if not os.path.exists(os.path.join(self.output, shard_format.MANIFEST)):
            return None
        if not self.is_made():
            raise UserError(self.output, 'holds shards of other videos or settings', ELSEWHERE)
        self._clear()
        return shard_format.read_manifest(self.output)

    def _clear(self):
        if os.path.isdir(self.folder):
            files.remove_folder(self.folder)

    @contextlib.contextmanager
    def begin(self) -> Iterator[None]:
        """Keep others from working there for as long as a `with` block lasts; write down what is to be done.

        Once it is done, the folder of unfinished work is removed. UserError if another process works there.
        """
        with run_lock(self.folder, '--output'):
            self._check_plan()
            yield
        if os.path.exists(os.path.join(self.output, shard_format.MANIFEST)):
            self._clear()

    def _check_plan(self):
        path = os.path.join(self.output, shard_format.PLAN)
        if not os.path.exists(path):
            files.write_json(path, self._plan, durable=True)
            return
        try:
            before = files.read_json(path)
            changed = self._changed(before)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(
                path, f'is not a plan of rvm prepare ({str(error)[:MOST_CHARACTERS]})', ELSEWHERE
            ) from error
        if before != self._plan:
            more = f'; and {len(changed) - MOST_LINES} more' if len(changed) > MOST_LINES else ''
            lines = '; '.join(changed[:MOST_LINES]) or 'the order of the videos'
            raise UserError(self.output, f'was begun with other videos or settings ({lines}{more})', ELSEWHERE)

    def _changed(self, before):
        """What differs from the plan before, one line per difference."""
        changed = [
            f'{name} was {before["settings"].get(name)!r}, now {value!r}'
            for name, value in self._plan['settings'].items()
            if before['settings'].get(name) != value
        ]
        old, new = ({json.dumps(task) for task in plan['tasks']} for plan in (before, self._plan))
        changed += [f'added or changed: {json.loads(task)[0]}' for task in sorted(new - old)]
        changed += [f'removed or changed: {json.loads(task)[0]}' for task in sorted(old - new)]
        return [line[:MOST_CHARACTERS] for line in changed]

    def finish(self, outcomes: Sequence[dict], entries: Sequence[dict]) -> dict[str, Any]:
        """Write the report of what was skipped, and last the manifest.

        DataError if not a single video could be used. UserError if another process took the folder over meanwhile.
        """
        confirm(self.folder)
        report = skipped_report(self.tasks, outcomes, self.outside)
        files.write_json(os.path.join(self.output, shard_format.SKIPPED), report, indent=1)
        if not entries:
            reasons = '; '.join(f'{len(videos)} {reason}' for reason, videos in report['reasons'].items())
            raise DataError(
                self.output, f'none of {len(self.tasks)} videos can be used ({reasons})', 'see skipped.json'
            )
        manifest = make_manifest(self.settings, self.digest, self.tasks, outcomes, entries)
        files.write_json(os.path.join(self.output, shard_format.MANIFEST), manifest, durable=True)
        return manifest
