"""The network that is trained: all that a checkpoint holds, in as little as possible."""

from gsto_spec import Graph, GraphBuilder


def tiny(classes: int) -> Graph:
    """Two convolutions with a batch norm between them, and a supervised stage beside the result."""
    build = GraphBuilder()
    image = build.input()
    features = build.conv2d("conv1", image, 8, kernel=3, stride=2, padding=1, bias=False)
    features = build.relu(build.batch_norm("bn1", features))
    head = build.conv2d("head", features, classes, kernel=1, bias=True)
    return build.graph(
        {"stage4": head, "stage3": build.conv2d("aside", features, classes, kernel=1, bias=True)}
    )
