"""Arrays of strings out of ``.npy`` files that hold a pickle, without running it.

NumPy stores an array of Python objects as a pickle, and loading a pickle can run any code its author
chose. The published labels are stored so. Here the instructions of the pickle are read one by one by a
small stack machine that knows only what an array of strings needs: nothing is imported or called.
"""

from __future__ import annotations

import os
import pickletools
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import DataError
from .npy import read_header

MAX_BYTES = 1 << 28
"""Largest file read, and largest array made, in bytes: the published labels take half a megabyte."""


_OBJECTS = "|O"
_FIXED_WIDTH = re.compile(r"[<>]U[1-9]\d{0,8}")


class _Refused(Exception):  # noqa: N818 - not an error of its own: `load_string_array` words it
    """What was found that an array of strings does not hold."""


@dataclass
class _Name:
    """A module attribute that the pickle names; never looked up."""

    name: str


@dataclass
class _Array:
    """The array under construction: BUILD fills in its state."""

    state: Any = None


class _DType:
    """A NumPy dtype; which one follows from the file's header."""


_MARK = object()

# numpy.core became numpy._core in NumPy 2; older protocols spell bytes as an encoded string.
_RECONSTRUCT = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
_NAMES = _RECONSTRUCT | {"numpy ndarray", "numpy dtype", "_codecs encode"}

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "INT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
    *("BINBYTES", "SHORT_BINBYTES"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def load_string_array(path: str | Path) -> np.ndarray:
    """Read a one-dimensional ``.npy`` file of strings; a pickle inside is never executed.

    Parameters
    ----------
    path : str or Path
        The file: an object array of Python strings, as ``numpy.save`` writes it with any pickle protocol,
        or an array of a fixed-width string dtype.

    Returns
    -------
    ndarray of str, shape (N,)
        The strings (dtype ``<U``).

    Raises
    ------
    DataError
        If the file is missing, too large, cut short, not one-dimensional, or holds anything but strings;
        the message names what was found.
    """
    path = Path(path)
    with _open(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > MAX_BYTES:
            raise DataError(f"has {size:,} bytes", where=path, expected=f"at most {MAX_BYTES:,} for labels")
        header = read_header(handle, path)
        payload = handle.read()
    shape, kind = header.shape, header.descr
    if len(shape) != 1:
        raise DataError(f"holds an array of shape {str(shape)[:60]}", where=path, expected="one dimension")
    if _FIXED_WIDTH.fullmatch(kind):
        return _fixed_width(payload, shape[0], np.dtype(kind), path)
    if kind != _OBJECTS:
        raise DataError(f"holds values of type {kind!r:.60}", where=path, expected="strings")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of escapes in what is refused anyway
            strings = _strings(payload, shape)
    except _Refused as found:
        raise DataError(
            f"the pickle in it holds {found}",
            where=path,
            expected="an array of strings and nothing else",
            mend="The file was not executed; do not load it with pickle enabled unless you trust its author.",
        ) from None
    longest = max(map(len, strings), default=1)
    if 4 * longest * len(strings) > MAX_BYTES:
        raise DataError(
            f"holds {len(strings):,} strings of up to {longest:,} characters", where=path, expected="labels"
        )
    return np.array(strings, dtype=f"<U{max(longest, 1)}")


def holds_strings(path: str | Path) -> bool:
    """Return whether a ``.npy`` file says that it holds strings or Python objects; only its header is read.

    Raises
    ------
    DataError
        If the file is missing or is no ``.npy`` file.
    """
    path = Path(path)
    with _open(path) as handle:
        kind = read_header(handle, path).descr
    return kind == _OBJECTS or _FIXED_WIDTH.fullmatch(kind) is not None


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from error


def _fixed_width(payload: bytes, count: int, dtype: np.dtype, path: Path) -> np.ndarray:
    if len(payload) != count * dtype.itemsize:
        raise DataError(
            f"has {len(payload):,} bytes of data", where=path, expected=f"{count * dtype.itemsize:,}"
        )
    # NumPy takes any 32 bits for a character and fails only when it is looked at.
    if np.any(np.frombuffer(payload, np.dtype("u4").newbyteorder(dtype.byteorder)) > sys.maxunicode):
        raise DataError("holds what is no character", where=path, mend="Fetch it again.")
    return np.frombuffer(payload, dtype).astype(dtype.newbyteorder("="))


def _strings(payload: bytes, shape: tuple[int, ...]) -> list[str]:
    """Return the strings of a pickled object array of the given shape, or raise `_Refused`."""
    result = _walk(payload)
    # The state of an object array: (version, shape, dtype, fortran order, items).
    if not (isinstance(result, _Array) and isinstance(result.state, tuple) and len(result.state) == 5):
        raise _Refused(f"{_describe(result)} where the array should be")
    _, pickled_shape, dtype, _, items = result.state
    if not (isinstance(dtype, _DType) and isinstance(items, list)):
        raise _Refused(f"an array of {_describe(dtype)} made from {_describe(items)}")
    if not (isinstance(pickled_shape, tuple) and len(pickled_shape) == 1 and type(pickled_shape[0]) is int):
        raise _Refused("an array that is not one-dimensional")
    if not (pickled_shape[0] == shape[0] == len(items)):
        raise _Refused(
            f"{len(items):,} items for shape ({pickled_shape[0]},) while the file's header says ({shape[0]},)"
        )
    for row, item in enumerate(items):
        if type(item) is not str:
            raise _Refused(f"{_describe(item)} in row {row}")
    return items


def _walk(payload: bytes) -> Any:
    """Run the instructions of `payload` on a stack of plain values and return what STOP leaves."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for name, argument in _instructions(payload):
        try:
            if name in ("PROTO", "FRAME"):
                continue
            if name in _LITERALS:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(memo[argument])
            elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name == "MARK":
                stack.append(_MARK)
            elif name == "EMPTY_LIST":
                stack.append([])
            elif name == "LIST":
                stack.append(_pop_to_mark(stack))
            elif name in ("APPENDS", "APPEND"):
                items = _pop_to_mark(stack) if name == "APPENDS" else [stack.pop()]
                _expect(stack[-1], list, "APPEND").extend(items)
            elif name == "TUPLE":
                stack.append(tuple(_pop_to_mark(stack)))
            elif name in _TUPLES:
                if len(stack) < _TUPLES[name]:
                    raise IndexError
                stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
            elif name == "GLOBAL":
                stack.append(_global(argument))
            elif name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_global(f"{module} {attribute}" if isinstance(module, str) else "?"))
            elif name == "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_reduce(function, arguments))
            elif name == "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], _Array):
                    stack[-1].state = state
                else:
                    _expect(stack[-1], _DType, "BUILD")
            elif name == "STOP":
                return stack.pop()
            else:
                raise _Refused(f"the instruction {name}")
        except (IndexError, KeyError):
            raise _Refused(f"the instruction {name} with nothing to act on") from None
    raise _Refused("no STOP instruction")


def _instructions(payload: bytes) -> Iterator[tuple[str, Any]]:
    """Yield (name, argument) of each instruction; lengths are checked against what remains."""
    try:
        for opcode, argument, _ in pickletools.genops(payload):
            yield opcode.name, argument
    except ValueError as error:
        raise _Refused(f"a broken instruction ({str(error)[:120]})") from error


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    for k in range(len(stack) - 1, -1, -1):
        if stack[k] is _MARK:
            items = stack[k + 1 :]
            del stack[k:]
            return items
    raise IndexError


def _global(name: str) -> _Name:
    if name not in _NAMES:
        raise _Refused(f"a reference to {name.replace(' ', '.')[:120]!r}")
    return _Name(name)


def _reduce(function: Any, arguments: Any) -> Any:
    """Stand in for the calls that rebuild an array, without making any."""
    called = _expect(function, _Name, "REDUCE").name
    _expect(arguments, tuple, "REDUCE")
    if called in _RECONSTRUCT:
        return _Array()
    if called == "numpy dtype":
        # 'O8' on a 64-bit machine, 'O4' on a 32-bit one.
        if not (arguments and isinstance(arguments[0], str) and arguments[0] in ("O8", "O4", "O", "|O")):
            raise _Refused("an array that is not of objects")
        return _DType()
    if called == "_codecs encode":
        return b""
    raise _Refused(f"a call of {called.replace(' ', '.')!r}")


def _expect(value: Any, kind: type, instruction: str) -> Any:
    if not isinstance(value, kind):
        raise _Refused(f"the instruction {instruction} applied to {_describe(value)}")
    return value


def _describe(value: Any) -> str:
    """Name what `value` is, without printing it: it may be huge or nested."""
    if isinstance(value, _Name):
        return f"a reference to {value.name.replace(' ', '.')!r}"
    names = {_Array: "an array", _DType: "a dtype", type(None): "None", object: "a mark"}
    return names.get(type(value), f"a value of type {type(value).__name__}")
