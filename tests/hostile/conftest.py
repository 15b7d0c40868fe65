"""What all tests on hostile files share: the guard, and how many examples hypothesis tries."""

import importlib.util
import pathlib
import sys

import hypothesis
import pytest

# Loaded by its path, because the folders of tests are no packages.
spec = importlib.util.spec_from_file_location('guard', pathlib.Path(__file__).with_name('guard.py'))
spec.loader.exec_module(loaded := importlib.util.module_from_spec(spec))

SAME = {
    'derandomize': True,
    'deadline': None,
    'database': None,
    'suppress_health_check': [hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
}
hypothesis.settings.register_profile('hostile', max_examples=25, **SAME)
hypothesis.settings.load_profile('hostile')


@pytest.fixture(scope='session')
def guard():
    """The module guard.py."""
    if sys.platform != 'linux':
        pytest.skip('the guard looks into /proc')
    return loaded


@pytest.fixture
def guarded(guard):
    """guarded(read, files, ...) -> [Outcome] as guard.run gives them, none of which has a fault."""

    def run(read, files, **how):
        outcomes = guard.run(read, files, **how)
        faults = [f'{outcome.file}: {outcome.fault}' for outcome in outcomes if outcome.fault]
        assert not faults, f'{len(faults)} of {len(outcomes)} files:\n' + '\n'.join(faults[:20])
        return outcomes

    return run
