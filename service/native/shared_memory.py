"""Anonymous shared memory: a descriptor without a name, which ends with the last process that has it."""

import contextlib
import os
from collections.abc import Iterator

from service.errors import StartupError


def anonymous(name: str, size: int) -> int:
    """A descriptor of ``size`` bytes, all 0; ``name`` is for whoever looks into /proc. Raises OSError."""
    descriptor = os.memfd_create(f"regnetx-{name}", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def needed_for(purpose: str, size: int) -> Iterator[None]:
    """Raises StartupError with purpose and bytes where the system has no shared memory, or no descriptor, left."""
    try:
        yield
    except OSError as error:
        raise StartupError(f"no shared memory for {purpose} ({size} bytes): {error.strerror or error}") from None
