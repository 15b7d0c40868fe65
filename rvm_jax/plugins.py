"""Parts of one's own by name, MODULE:ATTRIBUTE: a core, a data source, an objective or a probe task.

Who wrote the name decides. What a user types or writes into a recipe is imported (`load`), because a recipe is a
program anyway. A name in a file that may be anybody's, such as the config.json of an export, is only looked up among
the modules that are imported already (`find`): a file must not choose which code runs. The environment variable
VARIABLE lists modules that may be imported for such a name.
"""

import importlib
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from typing import Any, NamedTuple

from rvm_jax.errors import UserError

VARIABLE = 'RVM_PLUGINS'  # modules, separated by commas
NAME = re.compile(r'((?:[^\W\d]\w*\.)*[^\W\d]\w*):([^\W\d]\w*)')
LONGEST = 200  # characters of a name
EXAMPLE = 'docs/plugins.md has an example'


class Kind(NamedTuple):
    """What a part has to be: its attributes, how many arguments it is called with, and the names of others."""

    what: str
    has: tuple[str, ...] = ()
    takes: int | None = None  # None: how it is called is not checked
    named: tuple[str, ...] = ()


CORE = Kind('core', ('from_architecture', 'shapes', 'init_state', 'scan', 'step', 'sizes', 'keys', 'is_streaming'))
SOURCE = Kind('data source', ('__len__', '__getitem__', 'manifest', 'fingerprint'), takes=2)
OBJECTIVE = Kind('objective', takes=3, named=('learning', 'region', 'patch_norm', 'feature_weight'))
TASK = Kind('task', ('title', 'metric', 'dataset', 'task', 'make_task', 'make_schedule', 'datasets'))


def is_name(text: str) -> bool:
    """Whether a text has the form of a part's name."""
    return len(text) <= LONGEST and NAME.fullmatch(text) is not None


def split_argument(text: str) -> tuple[str, str]:
    """('MODULE:ATTRIBUTE', the rest) of a text MODULE:ATTRIBUTE or MODULE:ATTRIBUTE:REST; ('', '') of any other."""
    found = NAME.match(text[: LONGEST + 1])
    if found is None or not (found.end() == len(text) or text[found.end()] == ':'):
        return '', ''
    return found[0], text[found.end() + 1 :]


def is_there(name: str, kind: Kind) -> bool:
    """Whether `find` finds a part."""
    try:
        find(name, kind)
    except UserError:
        return False
    return True


def load(name: str, kind: Kind, beside: str = '') -> Any:
    """The part that a user has named, imported from Python's path, from the folder `beside`, or from the working one.

    UserError where there is no such module or attribute, the module cannot be imported, or it is no such part.
    """
    _import(name, [folder for folder in (beside, os.getcwd()) if folder])
    return find(name, kind)


def find(name: str, kind: Kind, origin: str | os.PathLike = '') -> Any:
    """The part of a name that may be anybody's; origin is where it stands. UserError if its module is not imported.

    Modules that VARIABLE lists are imported, others never.
    """
    module, _, attribute = name.partition(':')
    if module not in sys.modules and module in allowed():
        _import(name, [os.getcwd()])
    if module not in sys.modules:
        raise UserError(
            origin or name, f'needs the {kind.what} {name}, and code that a file names is not imported',
            f'if you trust {module}, import it first, or set the environment variable {VARIABLE}={module}',
        )  # fmt: skip
    # Not getattr: some modules import others when they are asked for a name.
    part = vars(sys.modules[module]).get(attribute)
    if part is None:
        raise UserError(name, f'{module} does not have {attribute}', f'check the name; {EXAMPLE}')
    if problem := _problem(part, kind):
        raise UserError(name, f'is not a valid {kind.what}: it {problem}', EXAMPLE)
    return part


def allowed() -> list[str]:
    """The modules that VARIABLE lists."""
    return [name.strip() for name in os.environ.get(VARIABLE, '').split(',') if name.strip()]


def environment(names: Iterable[str]) -> dict[str, str]:
    """Variables with which another process of ours finds the modules of these names, which are imported here."""
    modules = sorted({name.partition(':')[0] for name in names})
    if not modules:
        return {}
    own = {os.path.realpath(folder) for folder in sysconfig.get_paths().values()}
    folders = [folder for folder in map(_folder, modules) if folder and os.path.realpath(folder) not in own]
    paths = [*dict.fromkeys(folders), os.environ.get('PYTHONPATH', '')]
    return {VARIABLE: ','.join([*allowed(), *modules]), 'PYTHONPATH': os.pathsep.join(filter(None, paths))}


def source_file(name: str) -> str | None:
    """The file of the module of a name that is imported; None where it has none."""
    return getattr(sys.modules[name.partition(':')[0]], '__file__', None)


def _folder(module):
    """The folder from which a module was imported, as Python's path has it."""
    top = sys.modules[module.partition('.')[0]]
    file = getattr(top, '__file__', None)
    return file and os.path.dirname(os.path.dirname(file) if hasattr(top, '__path__') else os.path.abspath(file))


def _import(name, folders):
    """Import the module of a name; a folder in which it is found goes to the end of Python's path, also of workers."""
    module = name.partition(':')[0]
    if module in sys.modules:
        return
    top = module.partition('.')[0]
    importlib.invalidate_caches()
    if top not in sys.modules and importlib.util.find_spec(top) is None:
        there = [folder for folder in folders if _holds(folder, top)]
        if not there:
            raise _no_module(name, module, folders)
        sys.path.append(os.path.abspath(there[0]))
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f'{module}.'.startswith(f'{error.name}.'):
            raise _no_module(name, module, folders) from error
        raise _cannot(name, error) from error
    except (Exception, SystemExit) as error:  # a module of somebody's may raise anything
        raise _cannot(name, error) from error


def _holds(folder, top):
    return os.path.isfile(os.path.join(folder, f'{top}.py')) or os.path.isdir(os.path.join(folder, top))


def _no_module(name, module, folders):
    places = ' or '.join(dict.fromkeys(os.path.abspath(folder) for folder in folders))
    return UserError(
        name, f"there is no module {module} on Python's path, or in {places}", 'check the name, or set PYTHONPATH'
    )


def _cannot(name, error):
    """What to raise where a module fails while it is imported, with the place in it."""
    is_syntax = isinstance(error, SyntaxError)
    last = traceback.extract_tb(error.__traceback__)[-1]
    file, line = (error.filename, error.lineno) if is_syntax else (last.filename, last.lineno)
    words = ' '.join(str(error.msg if is_syntax else error).split())
    where = f'{os.path.basename(file or "?")} line {line}'
    return UserError(name, f'cannot be imported ({type(error).__name__}: {words}, {where})', 'correct the module')


def _problem(part, kind):
    """What a part lacks, in words; '' if nothing."""
    lacking = [name for name in kind.has if getattr(getattr(part, name, None), '__isabstractmethod__', False)
               or not hasattr(part, name)]  # fmt: skip
    if lacking:
        return f'lacks {", ".join(lacking)}'
    if kind.takes is None:
        return ''
    if not callable(part):
        return 'cannot be called'
    try:
        inspect.signature(part).bind(*range(kind.takes), **dict.fromkeys(kind.named))
    except TypeError as error:
        arguments = [f'{kind.takes} arguments', *kind.named]
        return f'cannot be called with {", ".join(arguments)} ({error})'
    except ValueError:  # written in C: it has no signature
        return ''
    return ''
