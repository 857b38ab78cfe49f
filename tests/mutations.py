"""Damage to files, by a seeded generator: flips, cuts, swaps, other types, sizes that lie."""

import copy
import io
import json
import zipfile

import numpy as np

ODD = [
    None, True, -1, 7, 99, 2**31, 2**63, 10**400, 0.5, -1e300, float("nan"), float("inf"),
    "", "x", "\ud800", [], [[]], [1, [2]], {}, {"a": 1}, [0] * 1000,
]  # fmt: skip
DTYPES = ["c16", "f4", "f8", "i1", "i8", "u1", "u8", "?", "S3", "U2", "M8[s]"]


def flipped(data, rng):
    """Some bits the other way round."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        out[rng.integers(len(out))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def cut(data, rng):
    """A part missing: at the end, at the start, or in the middle."""
    a, b = sorted(rng.integers(0, len(data), 2).tolist())
    return [data[:a], data[b:], data[:a] + data[b:]][rng.integers(3)]


def blotted(data, rng):
    """A stretch of zeros, or of something that stands elsewhere."""
    n = int(rng.integers(1, 64))
    a, b = rng.integers(0, len(data) - n, 2).tolist()
    return data[:a] + (bytes(n) if rng.integers(2) else data[b : b + n]) + data[a + n :]


def members_of(data):
    """Contents of the members of an archive by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members):
    """An archive, of contents by name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def array_of(content):
    return np.load(io.BytesIO(content))


def content_of(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def swapped(data, rng):
    """Two members under each other's name, or one that is missing."""
    members = members_of(data)
    a, b = rng.choice(list(members), 2, replace=False)
    if rng.integers(4):
        members[a], members[b] = members[b], members[a]
    else:
        del members[a]
    return archive_of(members)


def retyped(data, rng):
    """The values of a member as another type."""
    members = members_of(data)
    name = rng.choice(list(members))
    dtype = rng.choice(DTYPES)
    array = array_of(members[name])
    with np.errstate(all="ignore"):
        try:
            array = array.astype(dtype)
        except (ValueError, TypeError, OverflowError):
            array = np.zeros(array.shape, dtype)
    members[name] = content_of(array)
    return archive_of(members)


def reshaped(data, rng):
    """A member whose header promises another size, or which has one."""
    members = members_of(data)
    name = rng.choice(list(members))
    array = array_of(members[name])
    if rng.integers(2):
        wanted = [int(rng.choice([0, 1, 3, 10**4, 10**9, 2**62])) for _ in range(rng.integers(4))]
        members[name] = members[name].replace(
            f"'shape': {array.shape}".encode(), f"'shape': {tuple(wanted)}".encode(), 1
        )
    else:
        ways = [array[:-1], array[None], np.concatenate([array, array]), array.ravel()[:3]]
        members[name] = content_of(ways[rng.integers(4)])
    return archive_of(members)


def lying(data, rng):
    """A size in the directory of the archive that is not so."""
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"PK\x05\x06"))
    starts = [k for k in range(len(data)) if data.startswith(b"PK\x01\x02", k)]
    at = int(rng.choice(starts)) + int(rng.choice([20, 24, 42]))
    lie = int(rng.choice([0, 1, 1000, 2**20, 2**31, 2**32 - 1]))
    return data[:at] + lie.to_bytes(4, "little") + data[at + 4 :]


def revalued(data, rng):
    """Some values of a member that are out of all bounds."""
    members = members_of(data)
    name = rng.choice([n for n in members if n != "facts.npy"])
    array = array_of(members[name]).copy()
    if array.size:
        flat = array.reshape(-1)
        odd = {"f": [np.nan, np.inf, -1e300, 7], "b": [True]}.get(array.dtype.kind, [-9, 99, 127])
        flat[rng.integers(array.size, size=3)] = rng.choice(odd)
    members[name] = content_of(array)
    return archive_of(members)


def with_other_facts(data, rng):
    """One of the facts replaced."""
    members = members_of(data)
    text = array_of(members["facts.npy"]).tobytes()
    members["facts.npy"] = content_of(np.frombuffer(replaced(text, rng), dtype=np.uint8))
    return archive_of(members)


def places(value, path=()):
    """Where a value from JSON has parts."""
    keys = value if isinstance(value, dict) else range(min(len(value), 40))
    for key in keys:
        yield (*path, key)
        if isinstance(value[key], (dict, list)):
            yield from places(value[key], (*path, key))


def replaced(text, rng):
    """JSON with one part replaced by something odd, by another part, or left out."""
    raw = json.loads(text)
    found = list(places(raw))
    path, other = (found[rng.integers(len(found))] for _ in range(2))
    holder, value = raw, raw
    for key in path[:-1]:
        holder = holder[key]
    for key in other:
        value = value[key]
    match int(rng.integers(5)):
        case 0:
            del holder[path[-1]]
        case 1:
            holder[path[-1]] = copy.deepcopy(value)
        case _:
            holder[path[-1]] = ODD[rng.integers(len(ODD))]
    return json.dumps(raw).encode()


def nested(data, rng):
    """Brackets without end."""
    at = int(rng.integers(len(data)))
    return data[:at] + b"[" * 50_000 + data[at:]


ANY = [flipped, cut, blotted]
OF_ARCHIVES = [*ANY, swapped, retyped, reshaped, lying, revalued, with_other_facts]
OF_TEXTS = [flipped, cut, blotted, replaced, replaced, replaced, nested]
