"""What processes that train together share: one prints, one decides, all have the same config, code and data."""

import collections
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rvm_jax import errors
from rvm_jax.errors import Stopped, UserError
from rvm_jax.terminal import say

if TYPE_CHECKING:  # it imports JAX
    from rvm_jax.distributed.watchdog import Watchdog

FOREVER = 7 * 24 * 3600 * 1000  # milliseconds; the watchdog ends a wait for a process that is gone
SHOWN = 4  # differences that a message lists


class ProcessGroup:
    """This process among those that train together; `ALONE` where there is one.

    `broadcast_from_first`, `all_gather` and `check_agreement` wait for all processes: call them in all, in the same
    order, in the main thread.
    """

    def __init__(self, client: Any = None, index: int = 0, count: int = 1, watch: 'Watchdog | None' = None):
        self.index, self.count, self.watch = index, count, watch
        self.client, self._calls, self._posts = client, 0, 0

    @property
    def is_first(self) -> bool:
        """Whether this process prints and writes for all."""
        return self.index == 0

    def say(self, message: str) -> None:
        """Print one line, in the first process only."""
        if self.is_first:
            say(message)

    def stepped(self, step: int) -> None:
        """Tell the watchdog that this process has done this step."""
        if self.watch is not None:
            self.watch.stepped(step)

    def before_leaving(self, act: Callable[[], Any]) -> None:
        """Have act() called in the first process if the watchdog ends it, which runs no `finally` block."""
        if self.watch is not None and self.is_first:
            self.watch.before_leaving.append(act)

    def broadcast_from_first(self, act: Callable[[], Any]) -> Any:
        """What act() returned, or raised, in the first process, in all of them; it must fit into JSON.

        Of exceptions only those of `errors` are passed on.
        """
        if self.count == 1:
            return act()
        key = self._next_key('decided')
        if not self.is_first:
            return _unpack(self.client.blocking_key_value_get(key, FOREVER))
        try:
            value = act()
        except (UserError, errors.ConfigErrors, errors.Unavailable, Stopped) as error:
            self.client.key_value_set(key, json.dumps({'raised': type(error).__name__, 'message': str(error)}))
            raise
        text = json.dumps({'value': value})
        self.client.key_value_set(key, text)
        return _unpack(text)  # lists for tuples, as the others get them

    def all_gather(self, value: Any) -> list:
        """The values of all processes, in their order; each must fit into JSON."""
        if self.count == 1:
            return [value]
        key = self._next_key('gathered')
        self.client.key_value_set(f'{key}/{self.index:06}', json.dumps(value))
        self.client.wait_at_barrier(key, FOREVER)
        return [json.loads(text) for _, text in sorted(self.client.key_value_dir_get(f'{key}/'))]

    def post(self, topic: str, value: Any) -> None:
        """Leave a value for the first process, without waiting."""
        self._posts += 1
        self.client.key_value_set(f'rvm/{topic}/{self.index}/{self._posts}', json.dumps(value))

    def collect(self, topic: str) -> list:
        """In the first process: the values that others have left under this topic since the last time."""
        entries = self.client.key_value_dir_get(f'rvm/{topic}/') if self.count > 1 else []
        for key, _ in entries:
            self.client.key_value_delete(key)
        return [json.loads(text) for _, text in entries]

    def check_agreement(self, facts: Mapping[str, str]) -> None:
        """Raise UserError, in every process, unless all have the same facts ({what: text})."""
        differences = _differences(self.all_gather(facts))
        if differences:
            more = f' and {len(differences) - SHOWN} more' if len(differences) > SHOWN else ''
            raise UserError(
                f'{self.count} processes', '; '.join(differences[:SHOWN]) + more,
                'start all with the same command, code and data',
            )  # fmt: skip

    def _next_key(self, topic):
        self._calls += 1
        return f'rvm/{topic}/{self._calls}'


ALONE = ProcessGroup()


def _unpack(text):
    answer = json.loads(text)
    if 'raised' not in answer:
        return answer['value']
    kind = getattr(errors, answer['raised'])
    raise kind.__new__(kind, answer['message'])  # its first argument is what str() shows


def _differences(all_facts):
    """['process 3 has config.seed=1, not 0', ...]: who differs from most, and in what."""
    lines = []
    for name in sorted(set().union(*all_facts)):
        values = [facts.get(name, 'nothing') for facts in all_facts]
        usual = collections.Counter(values).most_common(1)[0][0]
        lines += [
            f'process {index} has {name} {value}, the others {usual}'
            for index, value in enumerate(values)
            if value != usual
        ]
    return lines
