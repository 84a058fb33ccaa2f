"""A server worker on a disk whose fsync fails as long as a file is there: what cannot be had from a healthy disk.

``python -m penstock.testing.failing_disk FILE CONFIG`` runs `penstock.serve.worker` with this configuration. The fault
is put into the system call alone: everything above it is what runs in production.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from penstock.serve.worker import main


def fail_while_there(file: Path) -> None:
    """From now on fsync and fdatasync of this process raise EIO while the file exists, and count in it how often."""

    def failing(real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            if file.exists():
                with file.open("a") as calls:
                    calls.write("x")
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(descriptor)

        return sync

    os.fsync, os.fdatasync = failing(os.fsync), failing(os.fdatasync)  # type: ignore[assignment]


if __name__ == "__main__":
    fail_while_there(Path(sys.argv[1]))
    main(sys.argv[2:])
