"""A program of ours that ends with the process that started it: ``python -m service.tied PARENT MODULE [ARGUMENT...]``.

``PARENT`` is the id of that process. To be asked of the kernel before the module is imported, which may take seconds.
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: str, module: str, *arguments: str) -> None:
    """Run the module as ``python -m`` does; nothing where the parent has gone already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        return  # it ended before prctl took effect
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
