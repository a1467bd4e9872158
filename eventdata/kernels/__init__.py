"""Numba kernels: pure functions on arrays, compiled once and cached, that release the GIL."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import numba
import numpy.ma  # noqa: F401  see below
from numba.core.compiler_lock import global_compiler_lock

# Numba refuses to cache where neither the package nor the home folder can be written, as in many
# containers: a private folder serves this process then.
if not any(os.access(place, os.W_OK) for place in (Path(__file__).parent, Path.home())):
    private = tempfile.mkdtemp(prefix="eventdata-numba-")
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    vars(numba.config)["CACHE_DIR"] = private

# A fork amid another thread's first call of a kernel would leave the child waiting for ever for
# numba's lock, or for that of a module that numba imports then: forks wait until no kernel is being
# compiled or loaded, and numpy.ma, which numba imports without its lock, is there already.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
