"""Damages valid files in the ways that find faults in readers; the same damage for the same seed."""

import random

EXTREMES = (0, 1, 2**7, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)


def mutants(data, count, seed=0):
    """[(what was done, bytes)]: `count` damaged copies of valid bytes, the same ones for the same seed."""
    return [_mutant(data, random.Random(f'{seed} {index}')) for index in range(count)]


def _mutant(data, rng):
    name = rng.choice(list(DAMAGES))
    size = len(data)
    # Headers and the directory of a zip lie at the ends: two thirds of the damage goes there.
    near = min(size, 2048)
    start = rng.choice([rng.randrange(near), size - 1 - rng.randrange(near), rng.randrange(size)])
    length = min(rng.choice([1, 2, 4, 8, 16, 64, 512, 4096]), size - start)
    return f'{name} at {start} ({length})', DAMAGES[name](data, start, length, rng)


def _put(data, start, replaced, new):
    return data[:start] + new + data[start + replaced :]


def _number(data, start, length, rng):
    width = rng.choice([1, 2, 4, 8])
    new = (rng.choice(EXTREMES) % 256**width).to_bytes(width, rng.choice(['little', 'big']))
    return _put(data, min(start, max(0, len(data) - width)), width, new)


def _digits(data, start, length, rng):
    """The next decimal number of a text, replaced."""
    first = next((i for i in range(start, len(data)) if data[i : i + 1].isdigit()), start)
    last = next((i for i in range(first, len(data)) if not data[i : i + 1].isdigit()), len(data))
    new = rng.choice([b'0', b'-1', b'1e999', b'NaN', b'null', b'"1"', b'[]', b'9' * 30, b'65537', b'3.5', b'true'])
    return _put(data, first, last - first, new)


DAMAGES = {
    'flipped bit': lambda data, start, length, rng: _put(data, start, 1, bytes([data[start] ^ 1 << rng.randrange(8)])),
    'zeros': lambda data, start, length, rng: _put(data, start, length, bytes(length)),
    'ones': lambda data, start, length, rng: _put(data, start, length, b'\xff' * length),
    'noise': lambda data, start, length, rng: _put(data, start, length, rng.randbytes(length)),
    'cut off': lambda data, start, length, rng: data[:start],
    'left out': lambda data, start, length, rng: _put(data, start, length, b''),
    'put in': lambda data, start, length, rng: _put(data, start, 0, rng.randbytes(length)),
    'repeated': lambda data, start, length, rng: _put(data, start, 0, data[start : start + length]),
    'copied over': lambda data, start, length, rng: _put(
        data, start, length, data[(at := rng.randrange(len(data) - length + 1)) : at + length]
    ),
    'number': _number,
    'digits': _digits,
}
