"""Without its locks the local sandbox runs nothing; as nobody, too, it keeps its promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from areal.host_limits import HostLimits
from areal.sandbox.interface import (
    Call,
    Calls,
    Job,
    Raised,
    Returned,
    SandboxLimits,
    SandboxUnavailable,
)
from areal.sandbox.local import local_sandbox
from areal.sandbox.local.zygote_handle import Profile, ZygoteHandle

WITHOUT_NAMESPACES = '''
import ctypes, os, sys
libc = ctypes.CDLL(None)
uid, gid = os.geteuid(), os.getegid()
assert libc.unshare(0x10000000) == 0
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
    open(f"/proc/self/{name}", "w").write(text)
open("/proc/sys/user/max_user_namespaces", "w").write("0")

from areal.sandbox.interface import Call, Calls, Job, SandboxUnavailable
from areal.sandbox.local import local_sandbox
source = """
import os
def f(x): return x * x
def g(): os.kill(os.getppid(), 0)
def h(): return open('/etc/passwd').read()
"""
job = Job(source, Calls((Call("f", (3,)), Call("g"), Call("h"))))
try:
    local_sandbox(1).backend.level
except SandboxUnavailable as error:
    print("refused:", error)
pool = local_sandbox(1, allow_weak=True)
print(pool.backend.level, pool.run_blocking(job).values)
'''


def test_it_refuses_where_the_kernel_gives_no_namespaces(as_nobody):
    refusal, weak = as_nobody("-c", WITHOUT_NAMESPACES).splitlines()
    assert refusal.startswith("refused: this host does not provide a strong sandbox (unshare: No space")
    assert weak.startswith("confined (Returned(value=9), Raised(type_names=('PermissionError'")
    assert weak.count("type_names=('PermissionError'") == 2


@pytest.mark.parametrize("level", ["private", "confined"])
def test_a_lock_that_fails_ends_the_run_before_the_code(sandbox, level):
    try:
        worker = ZygoteHandle(Profile(level))
    except SandboxUnavailable as error:
        if "only root" not in str(error):
            raise
        pytest.skip(str(error))
    try:
        # No limit that the kernel would take.
        with pytest.raises(SandboxUnavailable, match="cannot lock down"):
            worker.open(SandboxLimits(files=-5), b"", b"", False, HostLimits())
        run = worker.open(SandboxLimits(), b"", b"", False, HostLimits())
        run.stop()
    finally:
        worker.close()


@pytest.mark.parametrize("landlock", [0, 1, 5, 99])
def test_an_older_landlock_can_be_had(sandbox, landlock):
    pool = local_sandbox(1, landlock=landlock)
    try:
        assert pool.backend.landlock == min(landlock, sandbox.backend.landlock)
        assert pool.run_blocking(Job("def f(): return 1", Calls((Call("f"),)))).values == (Returned(1),)
    finally:
        pool.close_blocking()


def test_a_package_that_is_not_installed_is_an_error():
    with pytest.raises(SandboxUnavailable, match="no_such_package"):
        local_sandbox(1, preload=("no_such_package",))


def test_a_preloaded_package_is_there_and_others_are_not():
    pool = local_sandbox(1, preload=("numpy",))
    source = (
        "import sys\ndef f():\n    loaded = 'numpy' in sys.modules\n    import numpy as np, numpy.fft\n"
        "    return loaded, np.arange(3), np.float64(2.5), np.linalg.norm([3.0, 4.0])\n"
        "def g():\n    import psutil\n    return 1"
    )
    try:
        numbers, other = pool.run_blocking(Job(source, Calls((Call("f"), Call("g"))))).values
    finally:
        pool.close_blocking()
    assert numbers == Returned((True, [0, 1, 2], 2.5, 5.0))
    assert isinstance(other, Raised)
    assert other.type_names[0] == "ModuleNotFoundError"


def test_the_promises_hold_for_nobody(as_nobody):
    script = Path(__file__).with_name("nobody.py")
    assert as_nobody(str(script)).splitlines()[-1] == "all as promised"
