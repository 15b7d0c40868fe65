"""What all processes found: lines for a person, or JSON."""

import json
from collections.abc import Callable
from typing import Any, Self

from rvm_jax.checkup.finding import Finding, attempt, worst
from rvm_jax.distributed.process_group import ProcessGroup
from rvm_jax.errors import printable

NAME_WIDTH, COLOR_WIDTH = 13, 6


class Report:
    """Runs checks in all processes, one after the other; the first process prints each as it is done.

    A context manager, because a terminal shows progress. `red` has the names of checks that are red in any process;
    `about` is added to the JSON.
    """

    def __init__(self, hosts: ProcessGroup, host: str, *, is_json: bool):
        from rich.console import Console

        self.host = host
        self.red: list[str] = []
        self.about: dict[str, Any] = {}
        self._hosts, self._is_json = hosts, is_json
        self._checks: list[dict[str, Any]] = []
        self._console = Console(soft_wrap=True, highlight=False, stderr=is_json)
        self._status = self._console.status('looking at this machine')  # shown on a terminal only

    def __enter__(self) -> Self:
        if self._hosts.is_first:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._hosts.is_first:
            self._status.stop()

    def check(self, name: str, act: Callable[[], Finding], doing: str = '') -> Finding:
        """attempt(name, act) in every process, and the line about it. Returns this process's own Finding."""
        if self._hosts.is_first:
            self._status.update(doing or f'looking at {name}')
        own = attempt(name, act)
        everyone = [Finding(*one) for one in self._hosts.all_gather(list(own))]
        hosts = self._hosts.all_gather(self.host)
        self._checks += [
            {**one._asdict(), 'process': index, 'host': hosts[index]} for index, one in enumerate(everyone)
        ]
        index = worst(everyone)
        if everyone[index].color == 'red':
            self.red.append(name)
        if self._hosts.is_first and not self._is_json:
            self._print(everyone, index, hosts)
        return own

    def all_have(self, here: bool) -> bool:
        """Whether all processes have what the next checks do together."""
        return all(self._hosts.all_gather(here))

    def end(self, about: dict[str, Any]) -> None:
        """Print the JSON, if it is wanted."""
        if not self._hosts.is_first:
            return
        if self._is_json:
            print(json.dumps({'ready': not self.red, **about, **self.about, 'checks': self._checks}, indent=2))

    def _print(self, everyone, index, hosts):
        """The worst Finding of all processes, with the process's number if others found better."""
        from rich.text import Text

        one = everyone[index]
        is_alike = all(other.color == one.color for other in everyone)
        who = '' if is_alike else f'process {index} on {hosts[index]}: '
        line = Text.assemble((f'{one.color:{COLOR_WIDTH}}', one.color), f'  {one.check:{NAME_WIDTH}}  ')
        self._console.print(line.append(printable(who + one.text)))
        if one.fix:
            self._console.print(Text(' ' * (COLOR_WIDTH + NAME_WIDTH + 4) + f'-> {printable(one.fix)}'))
