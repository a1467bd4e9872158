"""Numba kernels: pure functions on arrays, compiled once and cached, that release the GIL."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import numba

# Numba refuses to cache where neither the package nor the home folder can be written, as in many
# containers: a private folder serves this process then.
if not any(os.access(place, os.W_OK) for place in (Path(__file__).parent, Path.home())):
    private = tempfile.mkdtemp(prefix="eventdata-numba-")
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    vars(numba.config)["CACHE_DIR"] = private
