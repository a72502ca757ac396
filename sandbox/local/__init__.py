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
        size: runs at once; the processors that this process may use, by default.
        preload: modules to import in advance, such as ``("numpy",)``; runs see no other installed package.
        allow_weak: accept what this host gives when that is not strong, rather than refuse.
        landlock: the version of Landlock to use at most, to see what an older kernel gives.
    """
    # Late: the zygote imports this package too, and needs none of this.
    from ..pool import Pool, processors
    from .backend import LocalBackend

    size = size or processors()
    return Pool(LocalBackend(size, preload, allow_weak, landlock), size)
