"""GSTO-HRNet with gates that have a hidden layer."""

import dataclasses

import gsto_spec


def two_layer_gate(build, path, x):
    """A gate with a hidden layer: sigmoid(conv(relu(bn(conv(x)))))."""
    hidden = build.conv2d(f"{path}.0", x, max(build.channels(x) // 4, 1))
    hidden = build.relu(build.batch_norm(f"{path}.1", hidden))
    return build.sigmoid(build.conv2d(f"{path}.3", hidden, 1, bias=True), name=f"{path}/gate")


base = gsto_spec.variant("gsto-hrnet-w18-small-v2")
network = dataclasses.replace(base, widths=(16, 32, 64, 128), fusion_gate=two_layer_gate)
