"""The filter of system calls decides rightly on both machines; here an interpreter stands for the kernel."""

from __future__ import annotations

import struct

import pytest

from areal.sandbox.local import seccomp, syscalls

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def decide(program, architecture, number, arguments=()):
    """Run a filter on one system call; return its verdict."""
    padded = [*arguments, *([0] * 6)][:6]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *padded)
    position = accumulator = 0
    while True:
        code, if_true, if_false, constant = program[position]
        position += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, constant)
            case 0x06:
                return constant
            case 0x05:
                position += constant
            case 0x15:
                position += if_true if accumulator == constant else if_false
            case 0x35:
                position += if_true if accumulator >= constant else if_false
            case 0x45:
                position += if_true if accumulator & constant else if_false
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


@pytest.fixture(params=sorted(ARCHITECTURES))
def ask(request):
    """Ask the filter of a machine by the name of a call."""
    machine = request.param
    program = seccomp.program(machine)

    def by_name(name, *arguments):
        number = syscalls.number(name, machine)
        return number if number is None else decide(program, ARCHITECTURES[machine], number, arguments)

    return by_name


def test_the_filter_fits_the_kernel(ask):
    for machine in ARCHITECTURES:
        program = seccomp.program(machine)
        assert len(program) <= 4096
        assert all(0 <= jump <= 255 for _, *jumps, _ in program for jump in jumps)


@pytest.mark.parametrize(
    "name", ["read", "write", "openat", "mmap", "futex", "clock_nanosleep", "exit_group"]
)
def test_what_a_program_needs_is_allowed(ask, name):
    assert ask(name) == seccomp.ALLOW


@pytest.mark.parametrize("name", list(syscalls.ATTACKS))
def test_an_attack_is_killed(ask, name):
    assert ask(name) in (seccomp.KILL, None)


def test_arguments_decide(ask):
    thread, fork, new_user = 0x003D0F00, 17, 0x10000000 | 17
    assert ask("clone", thread) == seccomp.ALLOW
    assert ask("clone", fork) == ask("clone", new_user) == seccomp.REFUSE
    assert ask("clone3", 0) == seccomp.ABSENT
    assert ask("clone", thread & ~0x400) == seccomp.REFUSE  # a thread with descriptors of its own
    assert ask("close_range", 5, 1000, 0) == ask("close_range", 5, 1000, 4) == seccomp.ALLOW
    assert ask("close_range", 5, 1000, 2) == ask("close_range", 5, 1000, 6) == seccomp.REFUSE
    assert ask("socketpair", 1, 1) == ask("socketpair", 1, 0x80801) == seccomp.ALLOW
    assert ask("socketpair", 2, 1) == seccomp.REFUSE
    assert ask("socketpair", 1, 2) == ask("socketpair", 1, 0x80805) == seccomp.REFUSE
    assert ask("sendto", 3, 1 << 40, 9, 0, 0) == seccomp.ALLOW
    assert ask("sendto", 3, 1 << 40, 9, 0, 4096) == ask("sendto", 3, 0, 9, 0, 1 << 40) == seccomp.REFUSE
    private, shared, nowhere, huge = 2, 1, 0x20, 0x40000
    for kind in (private, shared, private | nowhere, private | nowhere | 0x4000):
        assert ask("mmap", 0, 4096, 3, kind) == seccomp.ALLOW
    for kind in (shared | nowhere, 3 | nowhere, private | nowhere | huge):
        assert ask("mmap", 0, 4096, 3, kind) == seccomp.REFUSE
    assert ask("ioctl", 1, 0x5401) == seccomp.ALLOW
    assert ask("ioctl", 1, 0x5412) == seccomp.REFUSE  # TIOCSTI types into a terminal
    assert ask("prctl", 15) == seccomp.ALLOW
    assert ask("prctl", 22) == seccomp.REFUSE
    assert ask("fcntl", 3, 1031) == seccomp.REFUSE
    for lock in (6, 7, 37, 38, 1024):
        assert ask("fcntl", 3, lock) == seccomp.REFUSE
    assert ask("fcntl", 3, 1) == seccomp.ALLOW
    cpu, stack = 0, 3
    assert ask("prlimit64", 0, stack, 4096) == ask("prlimit64", 0, cpu, 0, 4096) == seccomp.ALLOW
    assert ask("prlimit64", 0, cpu, 4096) == ask("prlimit64", 0, cpu, 1 << 40) == seccomp.IGNORE
    assert ask("prlimit64", 1) == seccomp.REFUSE
    # The kernel reads 32 bits of these: set bits above them change nothing.
    assert ask("socketpair", (1 << 32) | 2, 1) == seccomp.REFUSE


@pytest.mark.parametrize(
    ("machine", "number"), [("x86_64", 41), ("aarch64", 198), ("x86_64", 319), ("x86_64", 9999)]
)
def test_the_rest_is_refused(machine, number):
    assert decide(seccomp.program(machine), ARCHITECTURES[machine], number) == seccomp.REFUSE


SEVERITY = (seccomp.ALLOW, seccomp.IGNORE, seccomp.ABSENT, seccomp.REFUSE, seccomp.KILL)


@pytest.mark.parametrize("machine", sorted(ARCHITECTURES))
def test_the_two_filters_together_are_the_whole_one(machine):
    whole, building, closing = (
        seccomp.program(machine),
        seccomp.program(machine, building=True),
        seccomp.closing(machine),
    )
    assert len(closing) < len(whole) / 5
    for number in range(600):
        for first in (0, 1, 15, 17, 41, 0x003D0F00, 0x10000011):
            verdicts = [
                decide(program, ARCHITECTURES[machine], number, (first, 1031))
                for program in (building, closing)
            ]
            # The kernel takes the severest.
            combined = max(verdicts, key=SEVERITY.index)
            assert combined == decide(whole, ARCHITECTURES[machine], number, (first, 1031)), (number, first)


def test_foreign_tables_of_numbers_are_killed():
    x86 = seccomp.program("x86_64")
    assert decide(x86, 0x40000003, 1) == seccomp.KILL  # 32-bit x86
    assert decide(x86, ARCHITECTURES["x86_64"], 0x40000000 | 1) == seccomp.KILL  # x32
    assert decide(seccomp.program("aarch64"), 0x40000028, 1) == seccomp.KILL  # 32-bit ARM


def test_without_a_process_namespace_only_itself_may_be_signaled():
    program = seccomp.program("x86_64", own_pid=4711)
    for name in ("kill", "tgkill"):
        number = syscalls.number(name, "x86_64")
        assert decide(program, ARCHITECTURES["x86_64"], number, (4711, 1)) == seccomp.ALLOW
        assert decide(program, ARCHITECTURES["x86_64"], number, (4712, 1)) == seccomp.REFUSE
        assert decide(program, ARCHITECTURES["x86_64"], number, ((1 << 64) - 1, 1)) == seccomp.REFUSE


def test_an_unknown_machine_is_refused():
    with pytest.raises(OSError, match="riscv64"):
        syscalls.number("read", "riscv64")
