"""What a user is told when a package below is not what it was."""

import os
import pathlib
import re
import subprocess
import sys
import tomllib

import av
import pytest
from packaging.requirements import Requirement

from rvm_jax import cli, tested_versions

ROOT = pathlib.Path(__file__).parents[1]
CHANGES = {
    'TypeError': 'def open(file): pass',
    'AttributeError': 'del open',
    'ImportError': 'from numpy import what_is_gone',
}


@pytest.fixture
def newer_av(tmp_path):
    """newer_av(code) -> environment in which version 99.0 of PyAV is installed, which ends with this code."""

    def make(code):
        info = tmp_path / 'site' / 'av-99.0.dist-info'
        info.mkdir(parents=True)
        (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: av\nVersion: 99.0\n')
        (info / 'top_level.txt').write_text('av\n')
        package = tmp_path / 'site' / 'av'
        package.mkdir()
        real = pathlib.Path(av.__file__)
        (package / '__init__.py').write_text(
            f'__path__.append({str(real.parent)!r})\nexec(open({str(real)!r}).read())\n__version__ = "99.0"\n{code}\n'
        )
        paths = tmp_path / 'site', ROOT, os.environ.get('PYTHONPATH', '')
        return {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, paths)), 'TMPDIR': str(tmp_path)}

    return make


def rvm(environment, *words):
    return subprocess.run([sys.executable, '-m', f'rvm_jax.{words[0]}', *words[1:]], capture_output=True, text=True,
                          env=environment)  # fmt: skip


def check(done, error):
    """One line that names package, versions and command; the traceback is in the file that it names."""
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert 'Traceback' not in done.stderr and f'av 99.0: not tested with rvm_jax, and a call failed ({error}: ' in line
    wanted = re.search(r"pip install '(.*)'$", line)[1]
    assert Requirement(wanted).name == 'av' and '99.0' not in Requirement(wanted).specifier
    text = pathlib.Path(re.search(r'traceback in (\S+)\)', line)[1]).read_text()
    assert 'Traceback (most recent call last)' in text and error in text


@pytest.mark.parametrize('error', CHANGES)
def test_a_newer_package_that_breaks_a_call_is_named(newer_av, tmp_path, error):
    (tmp_path / 'clip.mp4').write_bytes(b'0' * 2048)
    done = rvm(newer_av(CHANGES[error]), 'info', str(tmp_path / 'clip.mp4'))
    check(done, error)


def test_it_is_named_too_when_the_call_was_in_another_process(newer_av, tmp_path):
    (tmp_path / 'clip.mp4').write_bytes(b'0' * 2048)
    environment = newer_av(CHANGES['TypeError'])
    done = rvm(environment, 'prepare', '--input', str(tmp_path / 'clip.mp4'), '--output', str(tmp_path / 'shards'))
    check(done, 'TypeError')


def test_an_error_with_tested_packages_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(tested_versions, 'outside_of_tested', list)
    assert tested_versions.explain(TypeError('ours')) is None
    monkeypatch.setattr('rvm_jax.info.run', lambda args: None + 1)
    with pytest.raises(TypeError, match='NoneType'):
        cli.run('info', ['path'])


def test_tested_ranges_match_pyproject_and_constraints():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    extras = project['optional-dependencies']
    admitted = {
        wanted.name.lower().replace('_', '-'): wanted.specifier
        for wanted in map(Requirement, project['dependencies'] + extras['beam'] + extras['gcs'])
    }
    tested = [Requirement(line) for line in (ROOT / 'rvm_jax' / 'tested.txt').read_text().splitlines()]
    assert {wanted.name.lower().replace('_', '-') for wanted in tested} == set(admitted)
    pinned = dict(line.lower().replace('_', '-').split('==') for line in (ROOT / 'constraints.txt').open())
    for wanted in tested:
        name = wanted.name.lower().replace('_', '-')
        (lowest,) = admitted[name]
        assert lowest in list(wanted.specifier) and wanted.specifier.contains(pinned[name].strip()), name
