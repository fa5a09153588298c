"""Find images that show the same thing. There are two measures, for two questions.

`search` looks for copies across splits: recompressed, resized, cropped, a little lighter. It needs sketches of 24 x 24
pixels, passes over images without structure, and compares each image with its closest few.

`small_copies` decides which images of a store count as one, where errors of a test must be independent: frames of a
video, also plain ones, over any number of steps. Stores keep its thumbnails of 8 x 8 pixels for images that they do not
keep themselves, so its measure cannot become the other one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def first_of_group(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of `count` positions the first one that it is connected to, itself where there is none.

    Args:
        count: how many positions there are.
        pairs: (K, 2) positions that are connected.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    groups, group = connected_components(edges, directed=False)
    first = np.full(groups, count, dtype=np.int64)
    np.minimum.at(first, group, np.arange(count))
    return first[group]
