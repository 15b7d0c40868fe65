"""What a check of `rvm doctor` found: a color, a line, and the fix where something is wrong or slow."""

from collections.abc import Callable
from typing import NamedTuple

from rvm_jax.errors import UserError, printable

COLORS = ('green', 'yellow', 'red')  # ready; works, but slowly or not for long; training will not work


class Finding(NamedTuple):
    """One line; values has the same facts as numbers, for --json."""

    check: str
    color: str
    text: str
    fix: str = ''
    values: dict = {}  # noqa: RUF012 (never changed)


def attempt(check: str, act: Callable[[], Finding]) -> Finding:
    """act(), or a red Finding with the reason if it raises, so that the other checks still run."""
    try:
        return act()
    except UserError as error:
        return Finding(check, 'red', printable(f'{error.value}: {error.reason}'), error.fix)
    except Exception as error:  # a broken driver or library raises anything
        reason = (str(error) or 'no reason given').strip().splitlines()[0]
        text = printable(f'{type(error).__name__}: {reason}')
        return Finding(check, 'red', text, 'see what this names, and docs/doctor.md about this line')


def worst(findings: list[Finding]) -> int:
    """Index of the first Finding with the worst color."""
    return max(range(len(findings)), key=lambda index: (COLORS.index(findings[index].color), -index))


def gigabytes(count: float) -> str:
    """Bytes as 12.3 GB, small ones as 7 MB."""
    if count < 1e9:
        return f'{count / 1e6:,.3g} MB'
    return f'{count / 1e9:,.3g} GB' if count < 1e12 else f'{count / 1e9:,.0f} GB'
