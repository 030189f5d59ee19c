"""A U-Net whose coarse maps reach the finer ones through gates: GSTO (equations 1 to 4) without HRNet."""

from gsto_spec import Graph, GraphBuilder

WIDTHS = (16, 32, 64, 128)


def layer(build: GraphBuilder, path: str, x: str, channels: int, *, stride: int = 1) -> str:
    """A 3x3 convolution, norm and relu."""
    x = build.conv2d(f"{path}.conv", x, channels, kernel=3, stride=stride)
    return build.relu(build.batch_norm(f"{path}.norm", x))


def transfer(build: GraphBuilder, path: str, x: str, like: str) -> str:
    """`x` gated, projected to the channels of `like`, and resampled to its size."""
    gate = build.sigmoid(build.conv2d(f"{path}.gate", x, 1, bias=True))
    gated = build.mul(gate, x, name=f"{path}/gated")
    projected = build.conv2d(f"{path}.project", gated, build.channels(like))
    return build.resize(build.batch_norm(f"{path}.norm", projected), like=like, name=f"{path}/resize")


def network(classes: int | None = None, widths: tuple[int, ...] = WIDTHS) -> Graph:
    """Logits at stride 2 for N x 3 x H x W pictures of any size; one level for each width."""
    build = GraphBuilder()
    x, skips = build.input("image"), list[str]()
    for level, width in enumerate(widths):
        x = layer(build, f"down{level}.0", x, width, stride=2)
        x = layer(build, f"down{level}.1", x, width)
        skips.append(x)
    for level, skip in reversed(list(enumerate(skips[:-1]))):
        x = build.concat([skip, transfer(build, f"transfer{level}", x, skip)], name=f"up{level}/united")
        x = layer(build, f"up{level}", x, widths[level])
    return build.graph({"stage4": build.conv2d("head", x, classes or 19, bias=True)})
