"""Runs a reader on files from outside, many in one process of its own, and reports what each file made it do.

In a test (both are fixtures of conftest.py):

    def read(path):                 # at the top of the test module: it is imported again in the other process
        from rvm_jax import pretrained
        pretrained.load(path)

    def test_...(guarded, tmp_path):
        outcomes = guarded(read, files, first=[valid])
        assert [outcome.kind for outcome in outcomes] == ['refused'] * len(files)

A reader that runs a command says `import guard; guard.command(['info', path])`; this folder is on the path there.
The other process is watched by an audit hook (see Watch), which sees Python alone; what compiled libraries do is
bounded by memory and time, and by a look at the folders before and after. Linux only.
"""

import dataclasses
import faulthandler
import gc
import importlib.util
import inspect
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import traceback

MEBIBYTE = 2**20
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {  # audit event: which of its arguments are paths that it changes
    'os.rename': (0, 1), 'os.remove': (0,), 'os.rmdir': (0,), 'os.mkdir': (0,), 'os.link': (1,), 'os.symlink': (1,),
    'os.truncate': (0,), 'os.chmod': (0,), 'os.chown': (0,), 'os.utime': (0,), 'os.setxattr': (0,),
    'shutil.rmtree': (0,), 'shutil.move': (0, 1),
}  # fmt: skip
PROCESSES = {'subprocess.Popen', 'os.system', 'os.exec', 'os.posix_spawn', 'os.spawn', 'os.fork', 'os.forkpty'}
NETWORK = {'socket.connect', 'socket.bind', 'socket.sendto', 'socket.getaddrinfo', 'socket.gethostbyname'}
TRUSTED = tuple({os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, '/usr/lib', '/lib')})
REPOSITORY = str(pathlib.Path(__file__).parents[2])


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one file.

    kind: 'used', 'refused' (a UserError or one of its kin; text is what it says), 'crashed' (any other exception;
    text is the end of its traceback), or 'died' (the process ended or was too slow; text is what it left on stderr).
    added: bytes by which the process grew at most meanwhile. did: what the audit hook saw and no reader may do.
    """

    file: str
    kind: str
    text: str = ''
    seconds: float = 0.0
    added: int = 0
    did: tuple = ()
    memory: int = 2**63  # bytes allowed

    @property
    def fault(self):
        """What is wrong with it, '' if nothing: used, or refused in one printable line that names the file."""
        found = list(self.did)
        if self.kind in ('crashed', 'died'):
            found.append(f'{self.kind}: {self.text}')
        if self.kind == 'refused' and not self.text.isprintable():
            found.append(f'its reason is more than a line of printable text: {self.text!r}')
        if self.kind == 'refused' and len(self.text) > 4000:
            found.append(f'its reason has {len(self.text):,} characters: {self.text[:200]}')
        if self.kind == 'refused' and os.path.basename(self.file) not in self.text:
            found.append(f'its reason does not name the file: {self.text}')
        if self.added > self.memory:
            found.append(f'took {self.added / MEBIBYTE:,.0f} MiB')
        return '; '.join(found)


def run(read, files, *, first=(), writable=(), allow=(), memory=500 * MEBIBYTE, seconds=20):
    """[Outcome] of read(path) for each path of files, in order.

    read: a function at the top level of a file that can be imported alone. It imports what it needs itself.
    first: files that are read before the watch begins, so that what is imported late or made once is there by then.
    writable: folders in which files may change (a folder for temporary files is there in any case).
    allow: audit events that this reader may cause, as 'subprocess.Popen'.
    memory: bytes by which one file may make the process grow. seconds: time for one file, after which it is ended.
    Raises AssertionError if a file beside those read, or in the working folder, is not as it was before.
    """
    files = [os.path.abspath(file) for file in files]
    writable = [os.path.realpath(folder) for folder in writable]
    before, outcomes = _seen(files, writable), []
    with tempfile.TemporaryDirectory(prefix='guard_') as scratch:
        job = {'module': inspect.getfile(read), 'name': read.__name__, 'first': [*map(str, first)], 'memory': memory,
               'seconds': seconds, 'allow': list(allow), 'writable': [*writable, scratch]}  # fmt: skip
        os.mkdir(here := os.path.join(scratch, 'here'))
        while len(outcomes) < len(files):
            outcomes += _process({**job, 'files': files[len(outcomes) :]}, here)
        assert not os.listdir(here), f'written to the working folder: {os.listdir(here)}'
    after = _seen(files, writable)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    assert not changed, f'changed beside the files that were read: {changed[:8]}'
    return outcomes


def _process(job, here):
    """Outcomes of the files up to the last, or up to one that ended the process."""
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'TMPDIR': os.path.dirname(here), 'PYTHONPATH': REPOSITORY}
    environment.pop('JAX_COMPILATION_CACHE_DIR', None)
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as errors, os.fdopen(reading) as reports:
        command = [sys.executable, '-B', __file__, str(writing)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, cwd=here,
                              env=environment, pass_fds=[writing]) as process:  # fmt: skip
            os.close(writing)
            process.stdin.write(json.dumps(job).encode())
            process.stdin.close()
            found = [json.loads(line) for line in reports]
        errors.seek(0)
        left = errors.read().decode(errors='replace')[-3000:]
    assert found, f'the reader cannot even be started: {left}'
    outcomes = [Outcome(**report, memory=job['memory']) for report in found[1:]]
    outcomes = [dataclasses.replace(outcome, did=tuple(outcome.did)) for outcome in outcomes]
    if process.returncode:
        assert len(outcomes) < len(job['files']), f'ended badly after the last file: {left}'
        outcomes.append(Outcome(job['files'][len(outcomes)], 'died', f'exit {process.returncode}: {left}'))
    return outcomes


def _seen(files, writable):
    """{path: what a change would change} of all files in the folders of the files."""
    roots = {os.path.dirname(file) for file in files}
    seen = {}
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if os.path.realpath(os.path.join(folder, name)) not in writable]
            for name in names:
                facts = os.lstat(path := os.path.join(folder, name))
                seen[path] = facts.st_mode, facts.st_size, facts.st_mtime_ns
            seen[folder] = tuple(sorted(folders))
    return seen


class Watch:
    """An audit hook that notes what no reader of data may do.

    That is: start a process; use the network; look up a name for a pickle; load a library from outside the Python
    installation; run code from there, or code made of text, save where an import does; change, make or delete files
    outside the writable folders.
    """

    def __init__(self, writable, allow):
        self.writable, self.allow = tuple(f'{folder}{os.sep}' for folder in writable), frozenset(allow)
        self.did, self.armed = [], False
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if not self.armed or event in self.allow:
            return
        if event in PROCESSES or event in NETWORK or event == 'pickle.find_class':
            self.did.append(f'{event} {arguments!r:.200}')
        elif event == 'open' and isinstance(arguments[0], (str, bytes, os.PathLike)) and arguments[2] & WRITES:
            self._changes(event, arguments[0])
        elif event in CHANGES:
            for index in CHANGES[event]:
                self._changes(event, arguments[index])
        elif event == 'ctypes.dlopen' and os.sep in str(arguments[0]) and not _is_trusted(arguments[0]):
            self.did.append(f'{event} {arguments[0]}')
        elif event == 'exec' and not _is_trusted(arguments[0].co_filename) and not _imports(sys._getframe(1)):
            self.did.append(f'{event} {arguments[0]!r:.200}')

    def _changes(self, event, path):
        path = os.path.realpath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else str(path)
        if not path.startswith(self.writable) and path != os.devnull:
            self.did.append(f'{event} {path}')


def _is_trusted(path):
    return os.path.realpath(path).startswith(TRUSTED) or os.path.realpath(path).startswith(f'{REPOSITORY}/rvm_jax')


def _imports(frame):
    while frame is not None:
        if frame.f_code.co_filename == '<frozen importlib._bootstrap>':
            return True
        frame = frame.f_back
    return False


def _child(reports, job):
    """What the other process does: one line of JSON to begin with, then one for each file."""
    from rvm_jax.errors import ConfigErrors, Stopped, Unavailable, UserError

    spec = importlib.util.spec_from_file_location('outside_reader', job['module'])
    sys.modules['outside_reader'] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    faulthandler.enable()
    read = getattr(module, job['name'])
    watch = Watch(job['writable'], job['allow'])
    for path in job['first']:
        read(path)
    gc.collect()
    gc.freeze()
    room = _status('VmData') + 4 * job['memory']  # beyond it allocation fails, so that this machine stays well
    resource.setrlimit(resource.RLIMIT_DATA, (room, room))
    print('{}', file=reports, flush=True)
    for path in job['files']:
        faulthandler.dump_traceback_later(job['seconds'], exit=True)
        pathlib.Path('/proc/self/clear_refs').write_text('5')  # the peak is counted from here
        before, began, text = _status('VmRSS'), time.monotonic(), ''
        watch.did, watch.armed, kind = [], True, 'used'
        try:
            read(path)
        except (UserError, ConfigErrors, Stopped, Unavailable) as error:
            kind, text = 'refused', str(error)
        except BaseException as error:
            kind, text = 'crashed', ''.join(traceback.format_exception(error)[-4:])[-2000:]
        watch.armed = False
        seconds = time.monotonic() - began
        faulthandler.cancel_dump_traceback_later()
        outcome = {'file': path, 'kind': kind, 'text': text, 'seconds': seconds, 'did': watch.did[:20],
                   'added': max(0, _status('VmHWM') - before)}  # fmt: skip
        print(json.dumps(outcome), file=reports, flush=True)
        gc.collect()


def _status(key):
    lines = pathlib.Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f'{key}:'))


def command(argv):
    """Run `rvm ...` in this process, for readers; one that ends with exit code 2, 65 or 75 raises as UserError does.

    Whatever it says on standard error is the reason; any other exit code is RuntimeError.
    """
    import contextlib
    import io

    from rvm_jax import cli
    from rvm_jax.errors import UserError

    class Ended(UserError):
        def __str__(self):
            return self.reason

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = cli.run(argv[0], argv[1:])
    if code in (2, 65, 75):
        raise Ended(argv[0], said.getvalue().rstrip('\n'), '')
    if code:
        raise RuntimeError(f'exit {code}: {said.getvalue()}')


def refused_or_used(act, *arguments):
    """Whether act(*arguments) raised nothing; any exception but a UserError or the like is raised."""
    from rvm_jax.errors import UserError

    try:
        act(*arguments)
    except UserError:
        return False
    return True


def open_model(path):
    """Load whatever model is at a path, for readers. Whether `rvm info` can use it too; it may not fare worse."""
    from rvm_jax import pretrained
    from rvm_jax.errors import UserError

    try:
        pretrained.load(path)
    except UserError:
        refused_or_used(command, ['info', path])
        raise
    return refused_or_used(command, ['info', path])


if __name__ == '__main__':
    with os.fdopen(int(sys.argv[1]), 'w') as pipe:
        _child(pipe, json.load(sys.stdin))
