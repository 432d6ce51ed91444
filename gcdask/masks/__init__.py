"""Which pixels do not count, and why: one bit for each cause (paper, section 3).

Bits that depend on pixels around (bright, extended) need a window; those that depend on the field
(edge frame, spikes) need the survey; regions and mask files are looked up. `mask_window` makes
them all for one window, and both roads call it: the pipeline's tiles and `build_mask`. Reading
order: rules, shapes, stars, window, lazy.
"""

from gcdask.masks.lazy import build_mask, survey_image
from gcdask.masks.rules import FLAG_ATTRS, Flag, MaskRules, Rule, Spikes
from gcdask.masks.shapes import MaskPlan, plan_mask, read_regions
from gcdask.masks.stars import star_table, stars_near
from gcdask.masks.window import add_flag, edge_margin, mask_window, shares
from gcdask.tiles import band_sum

__all__ = [
    "FLAG_ATTRS",
    "Flag",
    "MaskPlan",
    "MaskRules",
    "Rule",
    "Spikes",
    "add_flag",
    "band_sum",
    "build_mask",
    "edge_margin",
    "mask_window",
    "plan_mask",
    "read_regions",
    "shares",
    "star_table",
    "stars_near",
    "survey_image",
]
