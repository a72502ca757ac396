"""A server on the loopback interface that speaks E2B's protocol; its machines are processes of this one.

It has two halves, as E2B has: an API that makes and ends machines, and in each machine a daemon that runs
commands. It can be told to fail in every way that matters.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from e2b.envd.process import process_pb as pb
from e2b.envd.process.process_connect import ProcessSync, ProcessWSGIApplication
from protobuf import Oneof


class Machine:
    """One machine: its commands, and whether it still runs."""

    def __init__(self, body):
        self.body = body
        self.running = True
        self.commands = {}

    def kill(self):
        self.running = False
        for command in self.commands.values():
            command.kill()


class Command:
    """A command of a machine, with its output as events."""

    def __init__(self, config):
        # A machine of E2B has a home of its own: what a login does here is none of its business, and may
        # leave a lock behind when it is killed (pyenv's makes every later login wait for a minute).
        assert config.cmd == "/bin/bash"
        python = os.path.dirname(os.path.realpath(sys.executable))
        self.process = subprocess.Popen(
            [config.cmd, "--noprofile", *config.args],
            env={"PATH": f"{python}:/usr/bin:/bin", "HOME": "/nonexistent"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.events = queue.SimpleQueue()
        for name in ("stdout", "stderr"):
            threading.Thread(target=self._read, args=(name,), daemon=True).start()

    def _read(self, name):
        stream = getattr(self.process, name)
        while data := os.read(stream.fileno(), 1 << 15):
            self.events.put(pb.ProcessEvent.DataEvent(output=Oneof(name, data)))
        self.events.put(None)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Server(ProcessSync):
    """The server. Its attributes say what is to go wrong.

    Attributes:
        create_status: the HTTP status of requests for a machine, in place of success.
        create_delay_s, input_delay_s: how slow such a request is.
        refuse_start: the daemon refuses commands.
        drop_stream_s: after so long the stream of a command's output breaks; the machine runs on.
        kill_machine_s: after so long the machine is gone.
        garble: answer requests for a machine with what is no JSON.
        fragile: a command that is killed takes its machine along.
        kill_status: the HTTP status of requests to end a machine.
    """

    def __init__(self):
        self.heal()
        self.machines = {}
        self._numbers = itertools.count(1)
        self._envd = ProcessWSGIApplication(self)
        self._local = threading.local()
        self._http = make_server("127.0.0.1", 0, self, server_class=_Threaded, handler_class=_Quiet)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def heal(self):
        self.create_status = self.kill_status = 0
        self.create_delay_s = self.input_delay_s = 0.0
        self.refuse_start = self.garble = self.fragile = False
        self.drop_stream_s = self.kill_machine_s = None

    def close(self):
        for machine in self.machines.values():
            machine.kill()
        self._http.shutdown()
        self._http.server_close()

    # --- HTTP

    def __call__(self, environ, start_response):
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if environ.get("HTTP_TRANSFER_ENCODING") == "chunked":
            environ["wsgi.input"] = io.BytesIO(b"".join(_chunks(environ["wsgi.input"])))
        if path.startswith("/process.Process/"):
            self._local.machine = self.machines.get(environ.get("HTTP_E2B_SANDBOX_ID"))
            if self._local.machine is None:
                [self._local.machine] = [m for m in self.machines.values() if m.running] or [None]
            return self._envd(environ, start_response)
        if path == "/health":
            machine = self.machines.get(environ.get("HTTP_E2B_SANDBOX_ID"))
            alive = machine.running if machine else any(m.running for m in self.machines.values())
            return _answer(start_response, 204 if alive else 502, None)
        if path in ("/sandboxes", "/v2/sandboxes") and method == "POST":
            return self._create(environ, start_response)
        if path.startswith("/sandboxes/") and method == "DELETE":
            return self._end(path.rpartition("/")[2], start_response)
        return _answer(start_response, 404, {"code": 404, "message": f"no {method} {path}"})

    def _create(self, environ, start_response):
        time.sleep(self.create_delay_s)
        if self.create_status:
            return _answer(
                start_response, self.create_status, {"code": self.create_status, "message": "no machine"}
            )
        if self.garble:
            start_response("201 -", [("Content-Type", "application/json"), ("Content-Length", "6")])
            return [b"<html>"]
        body = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        name = f"machine{next(self._numbers)}"
        self.machines[name] = Machine(body)
        # Whoever asked has gone meanwhile, and does not know its name: such a machine ends by its own time.
        self.machines[name].running = not self.create_delay_s
        return _answer(
            start_response,
            201,
            {"sandboxID": name, "templateID": body["templateID"], "clientID": "test", "envdVersion": "0.5.0"},
        )

    def _end(self, name, start_response):
        if self.kill_status:
            return _answer(start_response, self.kill_status, {"code": self.kill_status, "message": "no"})
        machine = self.machines.get(name)
        if machine is None or not machine.running:
            return _answer(start_response, 404, {"code": 404, "message": "gone"})
        machine.kill()
        return _answer(start_response, 204, None)

    # --- the daemon

    def start(self, request, ctx, /):
        machine = self._local.machine
        if self.refuse_start:
            raise ConnectError(Code.INTERNAL, "no processes today")
        command = Command(request.process)
        pid = command.process.pid
        machine.commands[pid] = command
        if self.kill_machine_s is not None:
            threading.Timer(self.kill_machine_s, machine.kill).start()
        yield _event(Oneof("start", pb.ProcessEvent.StartEvent(pid=pid)))
        started, streams = time.monotonic(), 2
        while streams:
            try:
                event = command.events.get(timeout=0.02)
            except queue.Empty:
                if self.drop_stream_s is not None and time.monotonic() - started > self.drop_stream_s:
                    raise ConnectError(Code.UNAVAILABLE, "the connection was reset") from None
                continue
            if event is None:
                streams -= 1
            else:
                yield _event(Oneof("data", event))
        code = command.process.wait()
        if self.fragile and code < 0:
            machine.kill()
        if not machine.running:
            raise ConnectError(
                Code.UNAVAILABLE, "the connection to the sandbox ended before the stream completed"
            )
        yield _event(
            Oneof("end", pb.ProcessEvent.EndEvent(exit_code=max(code, 0), exited=True, status="done"))
        )

    def send_input(self, request, ctx, /):
        time.sleep(self.input_delay_s)
        command = self._command(request.process)
        try:
            command.process.stdin.write(request.input.input.value)
            command.process.stdin.flush()
        except OSError:
            raise ConnectError(Code.NOT_FOUND, "the process has ended") from None
        return pb.SendInputResponse()

    def send_signal(self, request, ctx, /):
        self._command(request.process).kill()
        return pb.SendSignalResponse()

    def _command(self, selector):
        machine = self._local.machine
        if machine is None or not machine.running:
            raise ConnectError(Code.UNAVAILABLE, "the sandbox is not running")
        command = machine.commands.get(selector.selector.value)
        if command is None:
            raise ConnectError(Code.NOT_FOUND, "no such process")
        return command


def _chunks(stream):
    """Yield the chunks of a request whose length is not given; wsgiref leaves that to us."""
    while size := int(stream.readline(), 16):
        yield stream.read(size)
        stream.readline()
    stream.readline()


def _event(oneof):
    return pb.StartResponse(event=pb.ProcessEvent(event=oneof))


def _answer(start_response, status, body):
    data = b"" if body is None else json.dumps(body).encode()
    start_response(f"{status} -", [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
    return [data]


class _Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass
