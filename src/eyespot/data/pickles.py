"""One job: read the pickles in which CIFAR is published, and nothing else that a pickle could hold.

Before this: the bytes of a file. After this: `cifar` takes pixels and labels out of the dictionary.

Python's own unpickler can call whatever a file names, allocates what a file claims, and lets a file set the inner state
of numpy's objects. This reader is a small machine of its own: it knows the binary opcodes of plain values, and it never
imports, calls or builds anything that a file names. An array becomes an array only at the end, from its checked parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn, TypeAlias, TypeVar

import numpy as np

from eyespot.arrays import UInt8Array
from eyespot.errors import DataError

# CIFAR-100's training file, the largest one, has 155 MB and about 250,000 opcodes.
MAX_BYTES = 256 << 20
MAX_OPCODES = 2_000_000

PlainValue: TypeAlias = "int | str | bytes | tuple[PlainValue, ...] | list[PlainValue] | UInt8Array | None"

_RECONSTRUCT, _NDARRAY, _DTYPE, _ENCODE = "_reconstruct", "ndarray", "dtype", "encode"
_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _DTYPE,
    ("_codecs", "encode"): _ENCODE,
}

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Global:
    """What a file named; only compared, never called."""

    role: str


class _UInt8:
    """Stands for numpy.dtype('uint8') inside the machine."""


class _Mark:
    """Stands for the MARK opcode's place on the stack."""


@dataclass
class _Array:
    """A numpy array that the file is still describing."""

    value: UInt8Array | None = None


def load_pickle(content: bytes, *, where: object) -> dict[str, PlainValue]:
    """Return the dictionary that a CIFAR pickle holds, with its keys as text.

    Values are int, str, bytes, None, tuples and lists of them, and uint8 arrays (read-only views of the file's bytes).

    Args:
        content: The whole file, at most 256 MiB.
        where: The file, for error messages.

    Raises:
        DataError: The pickle is torn, too large, or holds or names anything that CIFAR's files do not hold. The global
            that was refused is named, and was neither imported nor called.

    Source:
        The opcodes are those of Python's `pickletools`, protocols 2 to 5 (CIFAR is protocol 2, written by Python 2).
    """
    if len(content) > MAX_BYTES:
        _refuse(where, f"a pickle of {len(content):,} bytes, more than the {MAX_BYTES:,} allowed")
    machine = _Machine(content, where)
    try:
        value = machine.run()
    except (IndexError, KeyError, ValueError, TypeError, OverflowError) as error:
        # Stack underflow, missing memo, short number, bad UTF-8: all of them mean that the bytes are no whole pickle.
        raise DataError(
            f"a damaged pickle (at byte {machine.at:,} of {len(content):,})",
            where=where,
            remedy="get the published archive again",
        ) from error
    if not isinstance(value, dict):
        _refuse(where, f"a pickle of a {type(value).__name__} instead of a dictionary")
    found: dict[str, PlainValue] = {}
    for key, part in value.items():
        name = key.decode("latin-1") if isinstance(key, bytes) else str(key)
        found[name] = part.value if isinstance(part, _Array) else part
    return found


def _refuse(where: object, what: str) -> NoReturn:
    raise DataError(what, where=where, remedy="do not use this file; get the published archive again")


class _Machine:
    """The pickle machine: a stack, a memo and a position in the file."""

    def __init__(self, content: bytes, where: object) -> None:
        self.content = content
        self.where = where
        self.at = 0
        self.encoded = 0
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        """Run until STOP and return the value on top."""
        content, stack, memo = self.content, self.stack, self.memo
        for _ in range(MAX_OPCODES):
            opcode = content[self.at]
            self.at += 1
            # The four opcodes that labels and file names consist of come first: they are nearly all of a file.
            if opcode == 0x4B:  # BININT1
                stack.append(content[self.at])
                self.at += 1
            elif opcode == 0x71:  # BINPUT
                memo[content[self.at]] = stack[-1]
                self.at += 1
            elif opcode == 0x72:  # LONG_BINPUT: the memo is a dictionary, so a huge index costs nothing
                memo[self.number(4)] = stack[-1]
            elif opcode == 0x55:  # SHORT_BINSTRING
                stack.append(self.take(self.number(1)))
            elif opcode == 0x2E:  # STOP
                return stack[-1]
            elif not (self.scalar(opcode) or self.container(opcode) or self.reference(opcode)):
                self.describe(opcode)
        raise ValueError("too many opcodes")

    def take(self, count: int) -> bytes:
        """Return the next bytes; never allocates more than the file holds."""
        if count < 0 or self.at + count > len(self.content):
            raise ValueError("cut off")
        self.at += count
        return self.content[self.at - count : self.at]

    def number(self, count: int, *, signed: bool = False) -> int:
        """Return the next little-endian number."""
        return int.from_bytes(self.take(count), "little", signed=signed)

    def line(self) -> str:
        """Return the next line of at most 200 bytes: a module or a name."""
        end = self.content.index(b"\n", self.at, self.at + 200)
        text = self.content[self.at : end].decode("ascii", "backslashreplace")
        self.at = end + 1
        return text

    def since_mark(self) -> list[object]:
        """Take the values above the last MARK off the stack, with the mark."""
        values: list[object] = []
        while not isinstance(value := self.stack.pop(), _Mark):
            values.append(value)
        values.reverse()
        return values

    def scalar(self, opcode: int) -> bool:
        """Push a number, text, bytes or None."""
        stack = self.stack
        if opcode == 0x4D:  # BININT2
            stack.append(self.number(2))
        elif opcode == 0x4A:  # BININT
            stack.append(self.number(4, signed=True))
        elif opcode == 0x8A:  # LONG1
            stack.append(self.number(self.number(1), signed=True))
        elif opcode in {0x88, 0x89}:  # NEWTRUE, NEWFALSE
            stack.append(int(opcode == 0x88))
        elif opcode == 0x4E:  # NONE
            stack.append(None)
        elif opcode == 0x43:  # SHORT_BINBYTES
            stack.append(self.take(self.number(1)))
        elif opcode in {0x54, 0x42}:  # BINSTRING (its length is signed), BINBYTES
            stack.append(self.take(self.number(4, signed=opcode == 0x54)))
        elif opcode == 0x8E:  # BINBYTES8
            stack.append(self.take(self.number(8)))
        elif opcode in {0x8C, 0x58, 0x8D}:  # SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            size = {0x8C: 1, 0x58: 4, 0x8D: 8}[opcode]
            stack.append(self.take(self.number(size)).decode("utf-8", "surrogatepass"))
        else:
            return False
        return True

    def container(self, opcode: int) -> bool:
        """Push, fill or close a list, a tuple or a dictionary."""
        stack = self.stack
        if opcode == 0x28:  # MARK
            stack.append(_Mark())
        elif opcode == 0x5D:  # EMPTY_LIST
            stack.append([])
        elif opcode == 0x7D:  # EMPTY_DICT
            stack.append({})
        elif opcode == 0x29:  # EMPTY_TUPLE
            stack.append(())
        elif opcode in {0x85, 0x86, 0x87}:  # TUPLE1, TUPLE2, TUPLE3
            first = len(stack) - (opcode - 0x84)
            stack[first:] = [tuple(stack[_not_negative(first) :])]
        elif opcode == 0x74:  # TUPLE
            stack.append(tuple(self.since_mark()))
        elif opcode == 0x61:  # APPEND
            value = stack.pop()
            _of_type(list, stack[-1]).append(value)
        elif opcode == 0x65:  # APPENDS
            values = self.since_mark()
            _of_type(list, stack[-1]).extend(values)
        elif opcode == 0x73:  # SETITEM
            value, key = stack.pop(), stack.pop()
            self.set_items([key, value])
        elif opcode == 0x75:  # SETITEMS
            self.set_items(self.since_mark())
        else:
            return False
        return True

    def set_items(self, pairs: list[object]) -> None:
        """Put keys and values, given in turn, into the dictionary on top of the stack."""
        target = _of_type(dict, self.stack[-1])
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Only plain keys: hashing tuples nested a million deep would overflow the C stack.
            if not isinstance(key, (str, bytes)):
                raise TypeError("key")
            target[key] = value

    def reference(self, opcode: int) -> bool:
        """Store a value in the memo or fetch one, or skip a header."""
        if opcode == 0x68:  # BINGET
            self.stack.append(self.memo[self.number(1)])
        elif opcode == 0x6A:  # LONG_BINGET
            self.stack.append(self.memo[self.number(4)])
        elif opcode == 0x94:  # MEMOIZE
            self.memo[len(self.memo)] = self.stack[-1]
        elif opcode == 0x80:  # PROTO
            self.take(1)
        elif opcode == 0x95:  # FRAME
            self.take(8)
        else:
            return False
        return True

    def describe(self, opcode: int) -> None:
        """Name a global, or describe an array with one; everything else is refused."""
        stack = self.stack
        if opcode == 0x63:  # GLOBAL
            self.name(self.line(), self.line())
        elif opcode == 0x93:  # STACK_GLOBAL
            name, module = _of_type(str, stack.pop()), _of_type(str, stack.pop())
            self.name(module, name)
        elif opcode == 0x52:  # REDUCE
            arguments, function = _of_type(tuple, stack.pop()), _of_type(_Global, stack.pop())
            stack.append(self.call(function.role, arguments))
        elif opcode == 0x62:  # BUILD
            state = _of_type(tuple, stack.pop())
            _build(stack[-1], state)
        else:
            _refuse(self.where, f"a pickle with the opcode 0x{opcode:02x}, which no CIFAR file contains")

    def name(self, module: str, name: str) -> None:
        """Push a global that CIFAR's files contain."""
        role = _GLOBALS.get((module, name))
        if role is None:
            _refuse(self.where, f"a pickle that asks for {module[:200]}.{name[:200]}, which no CIFAR file contains")
        self.stack.append(_Global(role))

    def call(self, role: str, arguments: tuple[object, ...]) -> object:
        """Return what a call in the file stands for, without calling anything that the file named."""
        if role == _RECONSTRUCT and arguments[0] == _Global(_NDARRAY) and arguments[1] == (0,):
            return _Array()
        if role == _DTYPE and arguments[0] in (b"u1", "u1"):
            return _UInt8()
        if role == _ENCODE and arguments[1] == "latin1":
            # Python 3 writes bytes so in protocol 2. One long text encoded again and again would fill the memory.
            text = _of_type(str, arguments[0])
            self.encoded += len(text)
            if self.encoded <= len(self.content):
                return text.encode("latin-1")
        raise ValueError(role)


def _not_negative(index: int) -> int:
    if index < 0:
        raise IndexError("stack underflow")
    return index


def _of_type(wanted: type[_T], value: object) -> _T:
    if not isinstance(value, wanted):
        raise TypeError(wanted.__name__)
    return value


def _build(target: object, state: tuple[object, ...]) -> None:
    """Give a described array its shape and bytes; the state of a dtype is taken as read, since it is uint8."""
    if isinstance(target, _UInt8):
        return
    _, shape, dtype, fortran_order, raw = state
    sizes = [_not_negative(_of_type(int, size)) for size in _of_type(tuple, shape)]
    flat = np.frombuffer(_of_type(bytes, raw), dtype=np.uint8)
    if not isinstance(dtype, _UInt8) or len(sizes) > 4:
        raise ValueError("array")
    _of_type(_Array, target).value = flat.reshape(sizes, order="F" if fortran_order else "C")
