"""Numba kernels: pure functions on arrays that are compiled once, cached, and release the GIL."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import numba
import numpy.ma  # noqa: F401  before any fork
from numba.core.compiler_lock import global_compiler_lock

# Numba refuses to cache where neither the package nor the home folder can be written, as in many
# containers. A private folder then serves this process.
if not any(os.access(place, os.W_OK) for place in (Path(__file__).parent, Path.home())):
    private = tempfile.mkdtemp(prefix="eventdata-numba-")
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    vars(numba.config)["CACHE_DIR"] = private

# If a process forks during another thread's first call of a kernel, the child waits forever for
# Numba's lock, or for the lock of a module that Numba imports then. So forks wait until no kernel
# is being compiled or loaded, and numpy.ma, which Numba imports without its lock, is loaded first.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
