"""Objects in Google Cloud Storage, named gs://bucket/path, through Google's own client.

Every failure is an OSError: FileNotFoundError, PermissionError, FileExistsError where a condition did not hold, and
errno.EAGAIN for what may pass (429, 5xx, a broken or silent connection). Nothing is tried again here.
"""

import base64
import contextlib
import errno
import functools
import hashlib
import http
import importlib.util
import os
import re

from rvm_jax.errors import UserError

SCHEME = 'gs://'
TIMEOUT = 60.0  # seconds without a byte, after which a request counts as failed
PASSING = (408, 429, 500, 502, 503, 504)
ABSENT = 0  # the version of an object that is not there


def read(path: str | os.PathLike) -> tuple[bytes, int]:
    """(bytes, version) of an object."""
    with _errors(path):
        blob = _blob(path)
        data = blob.download_as_bytes(timeout=TIMEOUT, retry=None)
        return data, blob.generation


def write(path: str | os.PathLike, data: bytes, version: int | None = None) -> None:
    """Put an object, whole or not at all; only in place of the given version, where there is one."""
    with _errors(path):
        _blob(path).upload_from_string(
            data, 'application/octet-stream', timeout=TIMEOUT, retry=None, if_generation_match=version
        )


def exists(path: str | os.PathLike) -> bool:
    """Whether there is an object, or any below it."""
    with _errors(path):
        bucket, name = _split(path)
        listed = _client().list_blobs(bucket, prefix=name, delimiter='/', timeout=TIMEOUT, retry=None)
        return any(blob.name == name for blob in listed) or f'{name}/' in listed.prefixes


def names(folder: str | os.PathLike) -> list[str]:
    """Names of the objects and folders directly in a folder."""
    with _errors(folder):
        bucket, prefix = _split(folder, is_folder=True)
        listed = _client().list_blobs(bucket, prefix=prefix, delimiter='/', timeout=TIMEOUT, retry=None)
        found = [blob.name for blob in listed] + [name.rstrip('/') for name in listed.prefixes]
        return [name[len(prefix) :] for name in found if name != prefix]


def files(folder: str | os.PathLike) -> dict[str, int]:
    """{name: bytes} of every object below a folder."""
    with _errors(folder):
        bucket, prefix = _split(folder, is_folder=True)
        listed = _client().list_blobs(bucket, prefix=prefix, timeout=TIMEOUT, retry=None)
        return {blob.name[len(prefix) :]: blob.size for blob in listed if not blob.name.endswith('/')}


def digest(path: str | os.PathLike, kind: str) -> str:
    """A checksum of an object in hex; its MD5 is known to the store and costs no download."""
    with _errors(path):
        blob = _blob(path)
        blob.reload(timeout=TIMEOUT, retry=None)
        if kind == 'md5' and blob.md5_hash:
            return base64.b64decode(blob.md5_hash).hex()
    return hashlib.new(kind, read(path)[0]).hexdigest()


def remove(path: str | os.PathLike, version: int | None = None) -> None:
    """Delete an object; only the given version of it, where there is one."""
    with _errors(path):
        _blob(path).delete(timeout=TIMEOUT, retry=None, if_generation_match=version)


def orbax_errors() -> tuple[type[Exception], ...]:
    """What Orbax raises when a bucket fails, besides OSError and ValueError."""
    if importlib.util.find_spec('gcsfs') is None:
        return ()
    import aiohttp
    from gcsfs.retry import ChecksumError, HttpError
    from google.auth.exceptions import GoogleAuthError

    return aiohttp.ClientError, ChecksumError, HttpError, GoogleAuthError


@contextlib.contextmanager
def _errors(path):
    """Every error of the client and of the libraries below it, as an OSError that names the path."""
    import requests
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth

    try:
        yield
    except api.NotFound:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
    except api.PreconditionFailed:
        raise FileExistsError(errno.EEXIST, 'is of another version', path) from None
    except (api.Forbidden, api.Unauthorized) as error:
        raise PermissionError(errno.EACCES, _reason(error), path) from error
    except api.GoogleAPICallError as error:
        number, reason = (
            (errno.EAGAIN, http.HTTPStatus(error.code).phrase)
            if error.code in PASSING
            else (errno.EINVAL, _reason(error))
        )
        raise OSError(number, f'{reason} ({error.code})', path) from error
    except auth.TransportError as error:
        raise OSError(errno.EAGAIN, _reason(error), path) from error
    except auth.GoogleAuthError as error:
        raise PermissionError(errno.EACCES, _reason(error), path) from error
    except requests.RequestException as error:
        raise OSError(errno.EAGAIN, f'{type(error).__name__}', path) from error


@functools.cache
def _client():
    from google.cloud import storage  # type: ignore[attr-defined]  # a namespace package without stubs

    return storage.Client()


def _blob(path):
    bucket, name = _split(path)
    return _client().bucket(bucket).blob(name)


def _split(path, is_folder=False):
    """(bucket, name within it). Raises UserError where the libraries for buckets are not installed."""
    if importlib.util.find_spec('gcsfs') is None:
        raise UserError(path, 'needs libraries that are not installed', "run pip install 'rvm_jax[gcs]'")
    bucket, _, name = os.fspath(path).removeprefix(SCHEME).partition('/')
    name = name.strip('/')
    return bucket, f'{name}/' if is_folder and name else name


def _reason(error):
    text = re.sub(r'^\d* ?[A-Z]+ https?://\S+: ', '', str(error))
    return (text.splitlines() or [type(error).__name__])[0][:200]
