"""Small pose networks for short runs on a processor; none of them is of the paper."""

import dataclasses

from gsto_spec.builder import HRNET_NORMAL
from gsto_spec.catalog import pose_gsto
from gsto_spec.variants import HRNet

mini = HRNet(
    widths=(16, 32, 64, 128),
    modules=(1, 1, 1),
    blocks=2,
    stem_width=32,
    layer1_width=16,
    layer1_blocks=1,
    classes=17,
    head="hrnetv1",
    upsampling="nearest",
    batch_norm_momentum=0.1,
    initialization=HRNET_NORMAL,
)
"""Pose HRNet, as narrow as gsto-hrnet-w16-mini."""

gsto_mini = pose_gsto(dataclasses.replace(mini, head="hrnetv2", upsampling="bilinear"))
"""The same with GSTO's gates."""
