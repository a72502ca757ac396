"""The parts of the host that code under test can see: its standard library and its shared libraries."""

from __future__ import annotations

import os
import sysconfig

SCRATCH = "/tmp"
SCRATCH_PLACE = "/scratch"
"""Each run mounts its scratch folder below this one, and SCRATCH is a link to it. A rule of Landlock does not
apply to a mount *on* its folder, but applies to all mounts below it, so the rules are created only once."""
PACKAGES = "/packages"
DEVICES = ("/dev/null", "/dev/urandom")
"""Without /dev/zero, whose mappings are memory that no limit covers (seccomp.py)."""

_SITE_FOLDERS = ("site-packages", "dist-packages")


def standard_library() -> list[str]:
    """Return the folders that hold the standard library.

    Raises:
        OSError: the interpreter is in the place of the sandbox's scratch folder.
    """
    folders = sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
    # In a virtual environment, the second one is a folder of the environment without modules.
    found = [os.path.realpath(folder) for folder in folders if os.path.exists(f"{folder}/os.py")]
    if not found or any(folder.startswith(f"{SCRATCH}/") for folder in found):
        raise OSError(f"the sandbox requires an interpreter outside of {SCRATCH}, not in {folders}")
    return found


def system_libraries() -> list[str]:
    """Return the folders and files with which the linker finds shared libraries, and the time zones."""
    triplet = sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    candidates = (
        *(f"/usr/lib/{triplet}", f"/lib/{triplet}", "/usr/lib64", "/lib64"),
        *("/etc/ld.so.cache", "/usr/share/zoneinfo"),
    )
    # On most hosts /lib and /lib64 are links to /usr; the links are recreated (namespaces.py).
    return [path for path in candidates if os.path.exists(path) and os.path.realpath(path) == path]


def library_links() -> dict[str, str]:
    """Return the links among the folders of libraries, with their targets."""
    return {path: os.readlink(path) for path in ("/lib", "/lib64") if os.path.islink(path)}


def site_folders(library: str) -> list[str]:
    """Return the folders of installed packages within a standard library; they are hidden."""
    return [f"{library}/{name}" for name in _SITE_FOLDERS if os.path.isdir(f"{library}/{name}")]
