"""Processes whose decoder hangs or crashes."""

import os
import pathlib

import pytest

PROGRAMS = pathlib.Path(__file__).parent / 'programs'


@pytest.fixture
def bad_decoder(monkeypatch):
    """Processes started from now on run programs/sitecustomize.py first."""
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(PROGRAMS), os.environ.get('PYTHONPATH', '')]))
