"""The part inside the sandbox: it loads the code under test, calls it, and sends back values.

It shares its process with that code, which can rewrite any part of it; nothing depends on its honesty. It
uses frames (frames.py): the first message names the mode, and the mode determines the others. It only imports
the standard library, because a backend may send this file to a machine without anything else.
"""

from __future__ import annotations

import _sitebuiltins
import ast
import atexit
import builtins
import contextlib
import itertools
import linecache
import os
import resource
import signal
import sys
import traceback
import types
from collections import abc
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, NoReturn

from . import codec, frames, scope

# Descriptors of its pipes in the process.
STDIN, STDOUT, STDERR, INCOMING, OUTGOING = range(5)
PLACES = 5

FILENAME = "<program>"
BEFORE_FILENAME = "<prompt>"
TEST_FILENAME = "<test>"
_OWN_FILES = (__file__, codec.__file__, frames.__file__, scope.__file__)
STACK_BYTES = 128 << 20
"""Stack of the main thread; the kernel keeps this amount of address space free for it."""
MAX_MESSAGE = 2000
MAX_TRACE = 4000
MAX_REPR = 20_000
MAX_ITEMS = 100_000
"""Maximum items of an iterator that a checker receives."""


class CandidateError(Exception):
    """In a checker: the code under test raised a non-builtin exception, or returned an opaque object."""


_NOT_REBUILT = (Exception, StopIteration, StopAsyncIteration)
"""The last two would end the checker's own loop, as in ``all(map(f, cases))``, and the check with it."""


class CallTimeout(BaseException):
    """In a session: the call exceeded its time limit. Not an ``Exception``, so fewer handlers stop it."""


class Channel:
    """The guest's end of the frames.

    Args:
        incoming: a blocking stream of frames.
        outgoing: a file descriptor.
    """

    def __init__(self, incoming: BinaryIO, outgoing: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    def send(self, kind: str, *parts: Any) -> None:
        """Send one message; raises NotAValue before anything is written."""
        data = memoryview(frames.pack(kind, *parts))
        while data:
            data = data[os.write(self._outgoing, data) :]

    def receive(self) -> tuple[str, list[Any]]:
        """Return the next message; raises EOFError at the end of the stream."""
        message = frames.read(self._incoming)
        if message is None:
            raise EOFError
        return message


def prepare() -> None:
    """Prepare the interpreter as programs expect it: streams, ``exit`` and long integers as text."""
    open_streams()
    # The module ``site`` normally does this, but is not loaded here.
    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    # This limit protects servers; here the time of a run is limited.
    sys.set_int_max_str_digits(0)
    # Recursion through C code, such as functools.cache, uses the stack, which counts as memory.
    stack, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    if stack != resource.RLIM_INFINITY and stack < wanted:
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))


def open_streams() -> None:
    """Recreate the interpreter's standard streams."""
    sys.stdin = os.fdopen(STDIN, encoding="utf-8", errors="replace")
    sys.stdout = os.fdopen(STDOUT, "w", encoding="utf-8", errors="replace")
    sys.stderr = os.fdopen(STDERR, "w", encoding="utf-8", errors="replace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def serve(channel: Channel) -> NoReturn:
    """Perform the first message's request, then end the process."""
    try:
        code = converse(channel)
    except EOFError:
        code = 0
    os._exit(code)


def converse(channel: Channel) -> int:
    """Perform the first message's request; return an exit code. Raises EOFError when the messages end."""
    mode, parts = channel.receive()
    return MODES[mode](channel, *parts)


def _serve_calls(channel: Channel, program: list[str], report: bool) -> int:
    # Not ``__main__``, so that the part of a solution that only runs as a program does not run.
    module = _fresh_module("solution")
    try:
        _execute_program(program, module.__dict__)
    except BaseException as error:  # noqa: BLE001 - the code under test may raise anything
        channel.send("failed", *_describe(error))
        return 1
    if report:
        channel.send("loaded")
    while True:
        _, (paths, args, kwargs) = channel.receive()
        # A checker may iterate over the results, as in ``assert list(f(3)) == [1, 2, 3]``.
        _send_result(channel, _call_for_check if report else _call, module.__dict__, paths, args, kwargs)


def _call(names: dict[str, Any], paths: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _resolve(names, *paths)(*args, **kwargs)


def _call_for_check(names: dict[str, Any], *call: Any) -> Any:
    value: Any = _call(names, *call)
    if isinstance(value, _ITERATED):
        items = list(itertools.islice(value, MAX_ITEMS + 1))
        return value if len(items) > MAX_ITEMS else _Iterated(items)
    return value


_ITERATED: tuple[type[Any], ...] = (abc.Iterator, abc.MappingView, range)


class _Iterated(NamedTuple):
    """The items of an iterator."""

    items: list[Any]


def _send_result(channel: Channel, action: Callable[..., Any], *args: Any) -> None:
    """Send the result or the exception of ``action``."""
    try:
        value = action(*args)
    except BaseException as error:  # noqa: BLE001 - the code under test may raise anything
        reply: tuple[Any, ...] = ("raised", *_describe(error))
    else:
        reply = ("iterated", value.items) if type(value) is _Iterated else ("returned", value)
    _flush()
    try:
        channel.send(*reply)
    except codec.NotAValue:
        channel.send("opaque", type(reply[1]).__name__[:MAX_MESSAGE])


def _resolve(names: dict[str, Any], path: str, otherwise: str) -> Callable[..., Any]:
    first, *rest = path.split(".")
    if first not in names and otherwise.partition(".")[0] in names:
        first, *rest = otherwise.split(".")
    if first not in names:
        raise NameError(f"name '{first}' is not defined")
    found = names[first]
    for attribute in rest:
        found = getattr(_instance(found) if isinstance(found, type) else found, attribute)
    return found


def _instance(kind: type) -> Any:
    """Return the only instance of a class whose methods are called, which keeps its state between calls."""
    if kind not in _instances:
        _instances[kind] = kind()
    return _instances[kind]


def _serve_program(channel: Channel, program: list[str]) -> int:
    module = _fresh_module()
    code = 0
    try:
        _execute_program(program, module.__dict__)
        # The same order as at the interpreter's end: threads first, then the exit functions.
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
    except SystemExit as stop:
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        _flush()
        channel.send("exited")
    except BaseException as error:  # noqa: BLE001 - the code under test may raise anything
        type_names, message, trace = _describe(error)
        sys.stderr.write(trace)
        _flush()
        channel.send("raised", type_names, message, trace)
        code = 1
    _flush()
    # As at the interpreter's end, files that were not closed are flushed now.
    module.__dict__.clear()
    _flush()
    return code & 0xFF


def _serve_check(channel: Channel, setup: str, statements: list[str], proxies: dict[str, str]) -> int:
    module = _fresh_module()
    try:
        _execute(setup, module.__dict__)
    except BaseException as error:  # noqa: BLE001 - reported as the caller's mistake
        channel.send("failed", *_describe(error))
        return 1
    # Only now, because the setup must not depend on the code under test, and may define a stub of its
    # function.
    for name, function in proxies.items():
        module.__dict__[name] = _proxy(channel, function)
    channel.send("loaded")
    for statement in statements:
        _send_result(channel, _execute, statement, module.__dict__, TEST_FILENAME)
    return 0


def _proxy(channel: Channel, function: str) -> Callable[..., Any]:
    """Return a function that calls the other process, by value."""

    def call(*args: Any, **kwargs: Any) -> Any:
        channel.send("call", function, args, kwargs)
        kind, parts = channel.receive()
        if kind == "returned":
            return parts[0]
        if kind == "iterated":
            return iter(parts[0])
        if kind == "raised":
            raise _rebuilt(*parts)
        raise CandidateError(f"returned a {parts[0]}, which is no value")

    call.__name__ = function.rpartition(".")[2]
    return call


def _rebuilt(type_names: tuple[str, ...], message: str, _trace: str) -> Exception:
    """Return the closest builtin exception to one that was raised elsewhere."""
    for kind in type_names:
        found = getattr(builtins, kind, None)
        if isinstance(found, type) and issubclass(found, Exception) and found not in _NOT_REBUILT:
            with contextlib.suppress(TypeError):
                return found(message)
    return CandidateError(f"{type_names[0]}: {message}")


def _serve_session(channel: Channel) -> int:
    module = _fresh_module()
    while True:
        _, (code, seconds) = channel.receive()
        _send_result(channel, _execute_cell, code, module.__dict__, seconds)


def _execute_cell(code: str, names: dict[str, Any], seconds: float) -> str | None:
    """Execute statements; return the ``repr`` of a last expression that is not ``None``."""
    _sources[FILENAME] = code
    tree = ast.parse(code, FILENAME)
    last = tree.body[-1] if tree.body else None
    expression = last.value if isinstance(last, ast.Expr) else None
    if expression is not None:
        tree.body.pop()
    with _timer(seconds):
        exec(compile(tree, FILENAME, "exec"), names)
        if expression is None:
            return None
        value = eval(compile(ast.Expression(expression), FILENAME, "eval"), names)
        return None if value is None else repr(value)[:MAX_REPR]


@contextlib.contextmanager
def _timer(seconds: float) -> Iterator[None]:
    """Raise CallTimeout in the main thread after some seconds; the host kills code that ignores it."""

    def expire(_signal: int, _frame: object) -> None:
        raise CallTimeout(f"the call took more than {seconds:g} s")

    signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _fresh_module(name: str = "__main__") -> types.ModuleType:
    """Return an empty module that can be imported by its name."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    sys.argv = ["program.py"]
    return module


def _execute(source: str, names: dict[str, Any], filename: str = FILENAME) -> None:
    exec(_compile(source, filename), names)


def _execute_program(program: list[str], names: dict[str, Any]) -> None:
    """Execute code under test, after the code before it; see interface.Job."""
    source, before, known = program
    code = _compile(source, FILENAME)
    if known == "contest":
        scope.bind_contest(code, names)
    if before:
        _execute(before, names, BEFORE_FILENAME)
    exec(code, names)


def _compile(source: str, filename: str) -> types.CodeType:
    _sources[filename] = source
    return compile(source, filename, "exec", dont_inherit=True)


def _describe(error: BaseException) -> tuple[tuple[str, ...], str, str]:
    """Return the class names, the message and the traceback of an exception, truncated."""
    type_names = tuple(kind.__name__ for kind in type(error).__mro__ if kind is not object)
    try:
        message = str(error)[:MAX_MESSAGE]
    except BaseException:  # noqa: BLE001 - an exception of the code under test may not be printable
        message = ""
    for name, source in _sources.items():
        # Lets the traceback show source lines, although they are not in a file.
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    try:
        shown = traceback.TracebackException.from_exception(error)
        # Our own frames contain no information on the code.
        kept = [frame for frame in shown.stack if frame.filename not in _OWN_FILES]
        shown.stack = traceback.StackSummary.from_list(kept)
        trace = "".join(shown.format())
    except BaseException:  # noqa: BLE001 - likewise
        trace = f"{type_names[0]}: {message}"
    return type_names, message, trace[-MAX_TRACE:]


def _flush() -> None:
    # Output from before a program replaced a stream also counts.
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        with contextlib.suppress(Exception):
            getattr(sys, name).flush()


_sources: dict[str, str] = {}
_instances: dict[type, Any] = {}
MODES: dict[str, Callable[..., int]] = {
    "calls": _serve_calls,
    "program": _serve_program,
    "check": _serve_check,
    "session": _serve_session,
}
