"""Version of the package, installed or not."""

import importlib.metadata

from rvm_jax.version import version


def test_version_is_that_of_the_installed_package():
    assert version() == importlib.metadata.version('rvm_jax')


def test_a_checkout_that_is_not_installed_says_so(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'version', missing)
    assert version() == 'not installed'
