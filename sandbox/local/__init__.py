"""The local sandbox: locked-down Python processes on this machine, without a daemon or a container."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..pool import Pool


def local_sandbox(
    size: int | None = None,
    preload: Sequence[str] = (),
    allow_weak: bool = False,
    landlock: int | None = None,
) -> Pool:
    """Return a sandbox on this machine; its processes start with the first run.

    Args:
        size: number of concurrent runs; default: the number of CPUs available to this process.
        preload: modules to import in advance, such as ``("numpy",)``; runs see no other installed packages.
        allow_weak: accept a weak sandbox, instead of refusing it.
        landlock: maximum version of Landlock to use, to test the sandbox of older kernels.
    """
    # A late import, because the zygote also imports this package and does not need these modules.
    from ..pool import Pool, processors
    from .backend import LocalBackend

    size = size or processors()
    return Pool(LocalBackend(size, preload, allow_weak, landlock), size)
