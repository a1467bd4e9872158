"""Memory of large tensors on the CPU."""

import ctypes


def keep_pages() -> bool:
    """Have glibc serve large blocks from a heap that it does not give back; false without glibc.

    By default it returns every large tensor's pages to the system and gets fresh ones, which have
    to be zeroed, for the next: that can cost more than filling them (elementwise work on tensors
    of some 100 MB took three to four times as long). For the whole process, for good.
    """
    m_trim_threshold, m_mmap_max = -1, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(m_mmap_max, 0)) and bool(mallopt(m_trim_threshold, 2**31 - 1))
