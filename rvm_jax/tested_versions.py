"""Which versions of the packages below us serve, for the day one of them changes.

tested.txt holds a requirement a line: from the oldest version that pyproject.toml admits to the newest with which the
whole test suite passed. `make test-newest` writes it, by `python -m rvm_jax.tested_versions`.
"""

import importlib.metadata
import importlib.resources
import re
import tempfile
import traceback

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rvm_jax.errors import UserError

CHANGED = (AttributeError, ImportError, TypeError)  # what a call raises where a package is not what it was

EXTRAS = 'beam', 'gcs'  # that the suite uses


def explain(error: BaseException) -> UserError | None:
    """One line on the packages that an error may come from, the traceback put into a file; None: they are as tested.

    They are those outside of what was tested that the traceback names, or all of them where it names none: a call into
    C leaves no trace, and an error from another process little.
    """
    outside = outside_of_tested()
    if not outside:
        return None
    text = ''.join(traceback.format_exception(error))
    suspects = [wanted for wanted in outside if _is_named(wanted.name, text)] or outside
    with tempfile.NamedTemporaryFile('w', prefix='rvm_jax_', suffix='.txt', delete=False, errors='replace') as file:
        file.write(text)
    return UserError(
        ', '.join(f'{wanted.name} {importlib.metadata.version(wanted.name)}' for wanted in suspects),
        f'not tested with rvm_jax, and a call failed ({type(error).__name__}: {error}; traceback in {file.name})',
        f'pip install {" ".join(repr(str(wanted)) for wanted in suspects)}',
    )


def outside_of_tested() -> list[Requirement]:
    """The lines of tested.txt that a package installed here does not meet."""
    lines = importlib.resources.files('rvm_jax').joinpath('tested.txt').read_text().splitlines()
    return [
        wanted
        for wanted in map(Requirement, lines)
        if (version := _installed(wanted.name)) and not wanted.specifier.contains(version, prereleases=True)
    ]


def _installed(name):
    """The version of a package, or None if it is not here."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_named(package, text):
    """Whether a text holds a name by which the package is imported."""
    return any(
        re.search(rf'\b{re.escape(module)}\b', text)
        for module, packages in importlib.metadata.packages_distributions().items()
        if canonicalize_name(package) in map(canonicalize_name, packages)
    )


def _ranges():
    """Lines of tested.txt, from the bounds of this package's metadata to what is installed here."""
    for wanted in map(Requirement, importlib.metadata.requires('rvm_jax') or ()):
        is_ours = wanted.marker is None or any(wanted.marker.evaluate({'extra': extra}) for extra in EXTRAS)
        if is_ours and wanted.specifier and _installed(wanted.name):
            yield f'{wanted.name}{wanted.specifier},<={_installed(wanted.name)}'


if __name__ == '__main__':
    print('\n'.join(sorted(_ranges(), key=str.lower)))
