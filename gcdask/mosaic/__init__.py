"""Images from files to lazy mosaics and back: FITS, compressed FITS, zarr.

A *source* (`source.py`) reads one window of one file. `open_sources` finds the sources of all bands
and brings them to one grid and unit; `open_mosaic` wraps them as a lazy Dataset; `ingest` copies
them into a zarr store. `write_map`, `write_zarr_map` and `open_map` are for maps made from them.
"""

from gcdask.mosaic.accessor import SkyAccessor
from gcdask.mosaic.dataset import open_mosaic
from gcdask.mosaic.ingestion import ingest
from gcdask.mosaic.maps import open_map, open_plane, write_map, write_zarr_map
from gcdask.mosaic.opening import Sources, open_sources
from gcdask.mosaic.store import create_array, map_attrs, set_complete, write_tile

__all__ = [
    "SkyAccessor",
    "Sources",
    "create_array",
    "ingest",
    "map_attrs",
    "open_map",
    "open_mosaic",
    "open_plane",
    "open_sources",
    "set_complete",
    "write_map",
    "write_tile",
    "write_zarr_map",
]
