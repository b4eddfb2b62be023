"""Interpret a pickle without importing or calling anything that it names.

A pickle is a program for a small stack machine. The standard library's machine imports every global that the
program mentions and calls it. This one hands each name to `find_global`, which a subclass answers from a fixed list,
and lets a program call only what came from there. Names outside the list become `Refused` placeholders: the program
runs on with them, so that the final error can list everything that the file asked for.

Time and memory stay proportional to the file: no recursion, no allocation on a claimed size, a bounded number of
opcodes, and keys of a type whose hash cannot be made to collide or to recurse.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from typing import Any, cast

from dnnlib.util import UserError, is_lack_of_memory, printable

MAX_STEPS = 200_000            # opcodes and copied items; a 1024x1024 snapshot with G, D and G_ema needs 65,000
COPIES = 3                     # bytes of data that may be made per byte of the file; protocol 2 needs two
MAX_LINE_BYTES = 1 << 16       # longest argument of the line-based opcodes of protocol 0
MAX_NAME_LENGTH = 1000         # of a global with its module
MAX_KEY_BITS = 62              # wider integers can be chosen so that all of them hash alike
MAX_LISTED_NAMES = 12          # names quoted in an error
_VIEW_BYTES = 1 << 12          # byte strings from this size on are views into the file, not copies
_PYTHON2_STRING = b"T"         # opcode of its strings of more than 255 bytes


class RefusedPickle(UserError):
    """The file needs names that are not on the allow-list; `names` holds them in order of appearance."""

    def __init__(self, names: list[str]):
        self.names = list(names)
        listed = ", ".join(printable(name) for name in self.names[:MAX_LISTED_NAMES])
        more = len(self.names) - MAX_LISTED_NAMES
        super().__init__(
            f"the pickle asks for {listed}{f' and {more} more' if more > 0 else ''}, which safe loading does not "
            "allow; if you trust its author, --trust-pickle (trust=True) executes it"
        )


class MalformedPickle(UserError):
    """The program does what no pickler writes, or claims more than the file has."""


class Refused:
    """Stands for a global outside the allow-list, and for everything that the program makes from it."""


class Callee:
    """An allow-listed callable: the only thing that a program can call."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function


class Budget:
    """What one file may cost in total, however many pickles are nested in it and however often it reuses a value."""

    def __init__(self, file_bytes: int):
        self.steps = MAX_STEPS
        self.num_bytes = COPIES * file_bytes

    def spend_steps(self, count: int) -> None:
        self.steps -= count
        if self.steps < 0:
            raise UserError(f"the file needs more than {MAX_STEPS} steps to read")

    def spend_bytes(self, count: int) -> None:
        if count > self.num_bytes:
            raise UserError("the file claims more bytes of data than it has")
        self.num_bytes -= count


_PROGRAM_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class PickleMachine:
    """Runs the pickles in `data`, one per call of `load`; `position` is where the next one starts."""

    def __init__(self, data: Any, budget: Budget | None = None):
        view = memoryview(data).cast("B")
        self.budget = budget or Budget(len(view))
        self._reader = _Reader(view)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._refused: dict[str, None] = {}  # an ordered set

    # What a subclass decides.

    def find_global(self, name: str) -> Any:
        """Return a `Callee` or an inert value for the dotted `name`; raise `KeyError` to refuse it."""
        raise KeyError(name)

    def build(self, target: Any, state: Any) -> None:
        """Give `target`, which a `Callee` returned, the `state` that the file stores for it."""
        raise UserError(f"the pickle sets the state of a {type(target).__name__}, which has none")

    def persistent_load(self, key: Any) -> Any:
        """Resolve a reference to something outside the pickle."""
        raise KeyError("persistent id")

    # Running.

    @property
    def position(self) -> int:
        return self._reader.position

    def load(self) -> Any:
        """Run one pickle and return its value. Raises `RefusedPickle` or `MalformedPickle`."""
        self._stack, self._marks, self._memo, self._refused = [], [], {}, {}
        try:
            with warnings.catch_warnings():
                # Texts with a broken escape: pickle reads them without a word, and a user could do nothing about them.
                warnings.filterwarnings("ignore", "invalid .*escape", DeprecationWarning)
                for opcode, argument, _ in pickletools.genops(cast(Any, self._reader)):
                    self.budget.spend_steps(1)
                    _HANDLERS[opcode.name](self, argument)
            result = self._pop()
        except _PROGRAM_ERRORS as error:
            if isinstance(error, RuntimeError) and is_lack_of_memory(error):
                raise
            if self._refused:
                raise RefusedPickle(list(self._refused)) from None
            if isinstance(error, MalformedPickle):  # of a pickle inside this one
                raise
            reason = str(error) if type(error) in (UserError, ValueError) else f"malformed near byte {self.position}"
            raise MalformedPickle(f"not a readable pickle: {printable(reason, 200)}") from None
        if self._refused:
            raise RefusedPickle(list(self._refused))
        return result

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or (self._marks and self._marks[-1] >= len(self._stack)):
            raise UserError("stack underflow")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise UserError("no mark on the stack")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _refuse(self, name: str) -> Refused:
        self._refused[name] = None
        return Refused()

    def _global(self, module: Any, name: Any) -> Any:
        if type(module) is not str or type(name) is not str or len(module) + len(name) > MAX_NAME_LENGTH:
            raise UserError(f"a global name is not a string of at most {MAX_NAME_LENGTH} characters")
        try:
            return self.find_global(f"{module}.{name}")
        except KeyError:
            return self._refuse(f"{module}.{name}")

    def _call(self, callee: Any, args: Any) -> Any:
        if isinstance(callee, Refused):
            return callee
        if not isinstance(callee, Callee):
            raise UserError(f"the pickle calls a {type(callee).__name__}")
        if type(args) is not tuple:
            raise UserError(f"the pickle calls a function with a {type(args).__name__} for its arguments")
        try:
            return callee.function(*args)
        except RefusedPickle as error:  # of a pickle inside this one; go on and collect all names
            return [self._refuse(name) for name in error.names][0]

    def _extend(self, target: Any, items: list[Any]) -> None:
        if type(target) is list:
            target.extend(items)
        elif type(target) is set:
            target.update(_checked_key(item) for item in items)
        elif not isinstance(target, Refused):
            raise UserError(f"the pickle appends to a {type(target).__name__}")

    def _set_items(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, Refused):
            return
        if not isinstance(target, dict):
            raise UserError(f"the pickle sets items of a {type(target).__name__}")
        target.update(_pairs(items))

    # Opcodes that need more than one expression. The others are in the table below.

    def _op_reduce(self) -> None:
        args = self._pop()
        self._push(self._call(self._pop(), args))

    def _op_build(self) -> None:
        state, target = self._pop(), self._stack[-1]
        if not isinstance(target, Refused):
            self.build(target, state)

    def _op_stack_global(self) -> None:
        name = self._pop()
        self._push(self._global(self._pop(), name))

    def _op_call_class(self, callee: Any, args: list[Any]) -> None:
        self._push(self._call(callee, tuple(args)))

    def _op_obj(self) -> None:
        callee, *args = self._pop_to_mark()
        self._op_call_class(callee, args)

    def _op_newobj_ex(self) -> None:
        kwargs, args, callee = self._pop(), self._pop(), self._pop()
        self._push(self._call(callee, args) if kwargs == {} else self._refuse("a class with keyword arguments"))

    def _op_persistent(self, key: Any) -> None:
        try:
            self._push(self.persistent_load(key))
        except KeyError as error:
            self._push(self._refuse(str(error.args[0])))

    def _op_setitem(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items(self._stack[-1], [key, value])

    def _op_append(self) -> None:
        item = self._pop()
        self._extend(self._stack[-1], [item])

    def _op_extend(self) -> None:
        items = self._pop_to_mark()
        self._extend(self._stack[-1], items)

    def _op_setitems(self) -> None:
        items = self._pop_to_mark()
        self._set_items(self._stack[-1], items)

    def _op_tuple(self, length: int) -> None:
        items = [self._pop() for _ in range(length)]
        self._push(tuple(reversed(items)))


class _Reader:
    """The file interface that `pickletools.genops` expects, over a buffer; long reads return views."""

    def __init__(self, view: memoryview):
        self._view = view
        self._opcode = b""
        self.position = 0

    def read(self, size: int) -> Any:
        chunk = self._view[self.position : self.position + size]
        self.position += len(chunk)
        if size == 1:  # an opcode, or a length that no long read follows
            self._opcode = bytes(chunk)
        # `pickletools` decodes the long strings of Python 2, which views cannot.
        return chunk if size >= _VIEW_BYTES and self._opcode != _PYTHON2_STRING else bytes(chunk)

    def readline(self) -> bytes:
        chunk = bytes(self._view[self.position : self.position + MAX_LINE_BYTES])
        line = chunk[: chunk.find(b"\n") + 1]
        self.position += len(line)
        return line

    def tell(self) -> int:
        return self.position


def _checked_key(key: Any) -> Any:
    """Keys and set members: strings and ordinary integers, whose hashes neither recurse nor collide on purpose."""
    if type(key) is str or (type(key) in (int, bool) and key.bit_length() < MAX_KEY_BITS):
        return key
    raise UserError(f"a key of type {type(key).__name__} is not supported")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise UserError("a key without a value")
    return {_checked_key(key): value for key, value in zip(items[::2], items[1::2])}


def _split_global(argument: str) -> tuple[str, str]:
    module, _, name = argument.partition(" ")
    return module, name


_Handler = Callable[[PickleMachine, Any], Any]


def _handlers() -> dict[str, _Handler]:
    table: dict[str, _Handler] = {
        "PROTO": lambda m, arg: None,
        "FRAME": lambda m, arg: None,
        "STOP": lambda m, arg: None,
        "NONE": lambda m, arg: m._push(None),
        "NEWTRUE": lambda m, arg: m._push(True),
        "NEWFALSE": lambda m, arg: m._push(False),
        # Stack and memo.
        "MARK": lambda m, arg: m._marks.append(len(m._stack)),
        "POP_MARK": lambda m, arg: m._pop_to_mark(),
        "POP": lambda m, arg: m._marks.pop() if m._marks[-1:] == [len(m._stack)] else m._pop(),
        "DUP": lambda m, arg: m._push(m._stack[-1]),
        "MEMOIZE": lambda m, arg: m._memo.__setitem__(len(m._memo), m._stack[-1]),
        # Containers.
        "EMPTY_LIST": lambda m, arg: m._push([]),
        "EMPTY_DICT": lambda m, arg: m._push({}),
        "EMPTY_SET": lambda m, arg: m._push(set()),
        "EMPTY_TUPLE": lambda m, arg: m._push(()),
        "LIST": lambda m, arg: m._push(m._pop_to_mark()),
        "DICT": lambda m, arg: m._push(_pairs(m._pop_to_mark())),
        "FROZENSET": lambda m, arg: m._push(frozenset(_checked_key(item) for item in m._pop_to_mark())),
        "TUPLE": lambda m, arg: m._push(tuple(m._pop_to_mark())),
        "TUPLE1": lambda m, arg: m._op_tuple(1),
        "TUPLE2": lambda m, arg: m._op_tuple(2),
        "TUPLE3": lambda m, arg: m._op_tuple(3),
        "APPEND": lambda m, arg: m._op_append(),
        "APPENDS": lambda m, arg: m._op_extend(),
        "ADDITEMS": lambda m, arg: m._op_extend(),
        "SETITEM": lambda m, arg: m._op_setitem(),
        "SETITEMS": lambda m, arg: m._op_setitems(),
        # Names, calls and state.
        "GLOBAL": lambda m, arg: m._push(m._global(*_split_global(arg))),
        "STACK_GLOBAL": lambda m, arg: m._op_stack_global(),
        "REDUCE": lambda m, arg: m._op_reduce(),
        "NEWOBJ": lambda m, arg: m._op_reduce(),
        "NEWOBJ_EX": lambda m, arg: m._op_newobj_ex(),
        "INST": lambda m, arg: m._op_call_class(m._global(*_split_global(arg)), m._pop_to_mark()),
        "OBJ": lambda m, arg: m._op_obj(),
        "BUILD": lambda m, arg: m._op_build(),
        "PERSID": lambda m, arg: m._op_persistent(arg),
        "BINPERSID": lambda m, arg: m._op_persistent(m._pop()),
    }
    for name in ("PUT", "BINPUT", "LONG_BINPUT"):
        table[name] = lambda m, arg: m._memo.__setitem__(arg, m._stack[-1])
    for name in ("GET", "BINGET", "LONG_BINGET"):
        table[name] = lambda m, arg: m._push(m._memo[arg])
    for name in ("EXT1", "EXT2", "EXT4"):
        table[name] = lambda m, arg: m._push(m._refuse(f"copyreg extension {arg}"))
    for name in ("NEXT_BUFFER", "READONLY_BUFFER"):
        table[name] = lambda m, arg: m._push(m._refuse("out-of-band buffer"))
    for opcode in pickletools.opcodes:  # what is left are literals, whose argument is their value
        table.setdefault(opcode.name, lambda m, arg: m._push(arg))
    return table


_HANDLERS = _handlers()
