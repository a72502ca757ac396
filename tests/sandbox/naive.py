"""Graders as they are often written, each in a machine of its own where an attack can do no harm.

Run as a script: a job as JSON on standard input, what was observed as JSON on standard output. The machine is
a set of namespaces without any of the sandbox's locks: there the grader is root, and the attack with it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import time

TIMEOUT_S = float(os.environ.get("GRADER_TIMEOUT_S", "1"))
PATIENCE_S = 2.5 * TIMEOUT_S
"""When a grader has not answered after so long, it hangs."""
OBSERVER = 200
CASES = [[3, 9], [7, 49], [12, 144]]
HONEST = "from fractions import Fraction\ndef f(x): return int(Fraction(x) * x)"
ASSERTS = "\n".join(f"assert f({x}) == {y}" for x, y in CASES)
MARKER = "all tests passed"
CALL = "\nRESULTS = [f(x) for x in ARGUMENTS]\n"


def judge(actual, expected):
    return actual == expected


# --- the graders: source code in, verdict out ---------------------------------------------------------


def exit_code(source):
    """A script with assertions; it passed if it exits with 0."""
    with open("/tmp/script.py", "w") as file:
        file.write(f"{source}\n{ASSERTS}\n")
    return _run([sys.executable, "/tmp/script.py"]).returncode == 0


def command(source):
    """The same, as an argument."""
    return _run([sys.executable, "-c", f"{source}\n{ASSERTS}\n"]).returncode == 0


def marker(source):
    """It passed if it prints the marker at the end."""
    return MARKER in _run([sys.executable, "-c", f"{source}\n{ASSERTS}\nprint({MARKER!r})"]).stdout.decode()


def in_process(source):
    """Executed here, with an alarm."""
    signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
    return no_timeout(source)


def no_timeout(source):
    """Executed here."""
    state = {"results": [], "cases": [list(case) for case in CASES]}
    names = {}
    exec(source, names)
    for x, expected in state["cases"]:
        state["results"].append(judge(names["f"](x), expected))
    passed = all(state["results"])
    _end_threads()
    return bool(passed)


def tolerance(source):
    """Executed here, compared with a tolerance."""
    names = {}
    exec(source, names)
    return all(abs(names["f"](x) - y) < 1e-6 for x, y in CASES)


def pickled(source):
    """Results come back pickled."""
    code = f"{source}\nARGUMENTS = {[x for x, _ in CASES]}{CALL}"
    code += "import pickle, sys\nsys.stdout.flush(); sys.stdout.buffer.write(pickle.dumps(RESULTS))"
    return pickle.loads(_run([sys.executable, "-c", code]).stdout) == [y for _, y in CASES]


def evaluated(source):
    """Results come back as text that is evaluated."""
    code = f"{source}\nARGUMENTS = {[x for x, _ in CASES]}{CALL}print(RESULTS)"
    return eval(_run([sys.executable, "-c", code]).stdout.decode()) == [y for _, y in CASES]


def json_text(source):
    """Results come back as JSON."""
    code = f"{source}\nARGUMENTS = {[x for x, _ in CASES]}{CALL}import json\nprint(json.dumps(RESULTS))"
    # More patient than its observer: where the machine is slow, a bomb still grows when that one leaves.
    output = _run([sys.executable, "-c", code], timeout=2 * PATIENCE_S).stdout
    results = json.loads(output)
    return [_plain(result) for result in results] == [y for _, y in CASES]


def frames(source):
    """Results come back as one frame on a pipe."""
    read, write = os.pipe()
    if os.fork() == 0:
        names = {}
        exec(source, names)
        body = json.dumps([names["f"](x) for x, _ in CASES]).encode()
        os.write(write, struct.pack(">I", len(body)) + body)
        os._exit(0)
    os.close(write)
    (length,) = struct.unpack(">I", _read(read, 4))
    return json.loads(_read(read, length)) == [y for _, y in CASES]


def verdict(source):
    """The child compares, and sends 1 or 0 through a pipe."""
    read, write = os.pipe()
    if os.fork() == 0:
        signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
        names = {}
        exec(source, names)
        os.write(write, b"1" if all(names["f"](x) == y for x, y in CASES) else b"0")
        os._exit(0)
    os.close(write)
    return os.read(read, 1) == b"1"


def pool(source):
    """A process that serves one job after the other; the honest solution comes second."""
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    answers = []
    for text in (source, HONEST):
        worker.stdin.write(json.dumps(text).encode() + b"\n")
        worker.stdin.flush()
        answers.append(json.loads(worker.stdout.readline()))
    return {"passed": answers[0] == [9, 49, 144], "honest": answers[1] == [9, 49, 144]}


WORKER = """
import json, sys
for line in sys.stdin:
    names = {}
    try:
        exec(json.loads(line), names)
        answer = names["probe"]() if "probe" in names else [names["f"](x) for x in (3, 7, 12)]
    except Exception as error: answer = str(error)
    print(json.dumps(answer), flush=True)
"""


def probing(source):
    """A fork with limits that keeps what its parent had open; says what ``probe`` says."""
    read, write = os.pipe()
    kept = os.open("/tmp/secret", os.O_RDONLY)
    os.dup2(kept, 20)
    if os.fork() == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        names = {}
        try:
            exec(source, names)
            os.write(write, b"1" if names["probe"]() else b"0")
        finally:
            os._exit(0)
    os.close(write)
    return {"passed": False, "probe": os.read(read, 1) == b"1"}


GRADERS = {
    **{"exit_code": exit_code, "command": command, "marker": marker, "in_process": in_process},
    **{"no_timeout": no_timeout, "tolerance": tolerance, "pickled": pickled, "evaluated": evaluated},
    **{"json": json_text, "frames": frames, "verdict": verdict, "pool": pool, "probing": probing},
}


def leaking(grader, source, second):
    """Grade one source, then ask another whether something of the first has stayed."""
    if grader == "exit_code":
        exit_code(source)
        return {"passed": False, "probe": exit_code(f"{second}\nassert probe()\nimport os\nos._exit(0)")}
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for text in (source, second):
        worker.stdin.write(json.dumps(text).encode() + b"\n")
        worker.stdin.flush()
        answer = json.loads(worker.stdout.readline())
    return {"passed": False, "probe": answer is True}


def _alarm(_signal, _frame):
    raise TimeoutError


def _run(arguments, timeout=TIMEOUT_S):
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        output = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # As the documentation of subprocess has it.
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(arguments, process.returncode, *output)


def _read(descriptor, length):
    data = b""
    while len(data) < length:
        more = os.read(descriptor, length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _plain(value):
    # What a careless reader does to what it has read: print it, and look into it.
    str(value).encode()
    return value


def _end_threads():
    import atexit
    import threading

    threading._shutdown()
    atexit._run_exitfuncs()


# --- the machine --------------------------------------------------------------------------------------


def enter_machine():
    """Become root of new namespaces with a read-only root, a folder /tmp and a network of their own."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    # CLONE_NEW: mounts, IPC, users, processes, network.
    if libc.unshare(0x00020000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000):
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    if (pid := os.fork()) != 0:
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)
    pycache = f"{os.path.dirname(os.__file__)}/__pycache__"
    for source, target, kind, flags in (
        (b"", "/", b"", 0x44000),
        (b"", "/", b"", 4096 | 32 | 1 | (1 << 21)),
        (b"proc", "/proc", b"proc", 0),
        (b"tmpfs", pycache, b"tmpfs", 0),
        (b"tmpfs", "/tmp", b"tmpfs", 0),
    ):
        if libc.mount(source, target.encode(), kind, flags, None) and target != "/":
            raise OSError(ctypes.get_errno(), f"mount {target}")
    os.chdir("/tmp")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"lo", 1))


def observe(job):
    """Run a grader; return what can be seen of it from outside."""
    with open("/tmp/secret", "w") as file:
        file.write("hush")
    listener = socket.create_server(("127.0.0.1", 0))
    places = {
        **{"@SECRET@": "/tmp/secret", "@OUT@": "/tmp/out", "@PORT@": str(listener.getsockname()[1])},
        "@HOST@": os.uname().nodename,
    }
    for place, text in places.items():
        job = {key: value.replace(place, text) for key, value in job.items()}
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    read, write = os.pipe()
    grader = os.fork()
    if grader == 0:
        os.close(read)
        # Out of the reach of what writes to every descriptor.
        os.dup2(write, OBSERVER)
        os.close(write)
        for stream in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), stream)
        _grade(job)
    os.close(write)
    os.set_blocking(read, False)
    most, answer = 0, None
    end = time.monotonic() + PATIENCE_S
    while answer is None and time.monotonic() < end:
        time.sleep(0.02)
        most = max(most, _processes())
        try:
            answer = os.read(read, 1 << 16)
        except BlockingIOError:
            continue
    return {
        "returned": answer is not None,
        **(json.loads(answer) if answer else {}),
        "processes": most,
        "survivors": _processes(but=(1, grader)),
        "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10,
        "disk_mb": _used_mb("/tmp"),
        "owned": os.path.exists("/tmp/owned"),
        "threads": int(open("/tmp/threads").read()) if os.path.exists("/tmp/threads") else 0,
    }


def _grade(job):
    """Be the grader; how much memory it took, it says itself."""
    try:
        if job["second"]:
            result = leaking(job["grader"], job["source"], job["second"])
        else:
            result = GRADERS[job["grader"]](job["source"])
    except BaseException as error:  # noqa: BLE001 - whatever the attack made of it
        # A grader that is prepared says "failed" to what a program may raise; the rest is a crash.
        result = {"passed": False, "crashed": not isinstance(error, subprocess.TimeoutExpired | TimeoutError)}
    if not isinstance(result, dict):
        result = {"passed": result is True}
    peaks = [
        resource.getrusage(who).ru_maxrss >> 10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    os.write(OBSERVER, json.dumps(result | {"grader_mb": max(peaks)}).encode())
    os._exit(0)


def _processes(but=()):
    return sum(1 for name in os.listdir("/proc") if name.isdigit() and int(name) not in but and _lives(name))


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _used_mb(path):
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize >> 20


if __name__ == "__main__":
    request = json.load(sys.stdin)
    enter_machine()
    print(json.dumps(observe(request)))
    sys.stdout.flush()
    os._exit(0)
