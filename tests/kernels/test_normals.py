"""Compare the normal numbers with NumPy's own, to the last bit."""

import numpy as np
import pytest

from eventdata.kernels.normals import Normals


@pytest.mark.parametrize("seed", range(5))
def test_numbers_equal_numpys(seed: int) -> None:
    """Half a million numbers have some 6,000 rejections and 100 numbers of the tail."""
    ours, numpys = Normals(np.random.default_rng([seed, 7])), np.random.default_rng([seed, 7])
    sizes = np.random.default_rng(seed)
    for size in [0, 1, 2, 3, 400_000, *sizes.integers(1, 9000, 25).tolist()]:
        out = np.full(size, np.nan)
        ours.fill(out)
        np.testing.assert_array_equal(out, numpys.standard_normal(size))


def test_a_stream_starts_where_the_generator_is() -> None:
    rng = np.random.default_rng(3)
    rng.standard_normal(1000)
    out = np.empty(100)
    Normals(rng).fill(out)
    np.testing.assert_array_equal(out, rng.standard_normal(100))
