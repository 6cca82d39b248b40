"""Hub images: near to everything, and so among the best of thousands of places of which they show none. Pure.

In many dimensions a few points are among the nearest of a large share of all others (Radovanovic, Nanopoulos and
Ivanovic, Hubs in Space, JMLR 11, 2010). CSLS, cross-domain similarity local scaling (Conneau et al., Word Translation
Without Parallel Data, ICLR 2018, section 2.3), takes from the similarity of a place q and an image x what either has
with its nearest of the other kind anyway:

    2 cos(q, x) - r(q) - r(x),    r(x): the mean of x's similarities to the 10 places that are nearest to it

r(q) is the same for all images of a place and does not change their order, so it is left out; r(x) is the image's
`crowding`. It is exact: the search itself finds the nearest places of images, the two having changed sides. Inverted
softmax (Smith et al., ICLR 2017) would divide by a sum of exponentials over all places, whose temperature has to be
fitted and whose last bits differ between mathematical libraries.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geo_subset.retrieve.embeddings.search import Nearest
from geo_subset.retrieve.embeddings.vectors import Floats

#: Places whose mean similarity tells how crowded an image is, as Conneau et al. set it; all, where there are fewer.
NEIGHBOURS = 10


def crowding(nearest: Nearest) -> Floats:
    """r(x) of each image (n,), from its nearest places: the sum goes best first, so it is the same everywhere."""
    total = np.zeros(len(nearest.scores))
    for column in range(nearest.scores.shape[1]):
        total += np.where(column < nearest.held, nearest.scores[:, column], 0.0)
    return (total / np.maximum(nearest.held, 1)).astype(np.float32)


def corrected(similarity: Floats, crowding: Floats) -> npt.NDArray[np.float64]:
    """What images are ranked by, from their cosines and crowding, (n,) each, in float64."""
    return 2 * similarity.astype(np.float64) - crowding.astype(np.float64)
