"""The ways in which a command can end early, each with the exit code that the launcher and the user see.

Raise one of these where the cause is known; `cli.py` prints it as one line, without a traceback.
"""

from collections.abc import Sequence

LONGEST, TAIL = 3000, 500  # characters of a reason, and of its end


def printable(text: object) -> str:
    """Text for one line of a terminal: line breaks, control characters and the like are written as escapes.

    Names of files and what is in them come from outside, and may hold anything. The middle of a long text is left out.
    """
    text = str(text)
    if len(text) > LONGEST:
        text = f'{text[: -TAIL + LONGEST]} ... {text[-TAIL:]}'
    return ''.join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


class UserError(Exception):
    """A mistake in a command, config, path or weights file.

    value is what was given, reason says why it cannot be used, fix says what to do about it.
    """

    exit_code = 2

    def __init__(self, value: object, reason: str, fix: str):
        super().__init__(printable(f'{value}: {reason}; {fix}'))
        self.value, self.reason, self.fix = value, reason, fix

    def __reduce__(self):  # so that a worker process can raise it in its parent
        return type(self), (self.value, self.reason, self.fix)


class DataError(UserError):
    """Data that cannot be used: too many broken videos, or a video without frames."""

    exit_code = 65


class Diverged(UserError):
    """Too many non-finite steps in a row; the last good checkpoint is kept."""

    exit_code = 76


class Stopped(Exception):
    """Stopped early with everything saved; the same command line resumes."""

    exit_code = 75


class Interrupted(Stopped):
    """Ctrl-C, with everything saved."""

    exit_code = 130


class Unavailable(Exception):
    """A disk or store that failed many times in a way that may pass; the last good step stays usable."""

    exit_code = Stopped.exit_code

    def __init__(self, path: object, reason: str | None):
        super().__init__(printable(f'{path}: does not answer ({reason}); start again once it does'))
        self.path, self.reason = path, reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


class ConfigErrors(Exception):
    """Every mistake found in a config, one line each."""

    exit_code = UserError.exit_code

    def __init__(self, errors: Sequence[Exception]):
        super().__init__('\n'.join(str(error) for error in errors))
        self.errors = errors
