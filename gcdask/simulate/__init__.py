"""Mock fields with known truth, rendered block by block.

In reading order: `psf` and `model` hold what a field is made of, `intensity` says how many clusters
are where, `extended` and `sources` draw the populations, `render` turns blocks of them into pixels,
`truth` lists and scores, `mock` is the face, `write` puts all on disk.
"""

from gcdask.simulate.mock import Mock, as1063
from gcdask.simulate.truth import score
from gcdask.simulate.write import write

__all__ = ["Mock", "as1063", "score", "write"]
