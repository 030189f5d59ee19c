"""Heads: which convolutions may project their branches before they resize them."""

from gsto_spec import Graph, GraphBuilder, build
from gsto_spec.heads import heads


def small(*, kernel: int = 1, read_again: bool = False) -> Graph:
    builder = GraphBuilder()
    image = builder.input()
    low = builder.avg_pool(image, kernel=2, stride=2)
    united = builder.concat([image, builder.resize(low, like=image, name="enlarged")], name="united")
    head = builder.conv2d("head", united, 2, kernel=kernel)
    outputs = {"stage4": head, **({"stage3": united} if read_again else {})}
    return builder.graph(outputs)


def test_a_head_reads_its_branches_and_what_they_are_resized_to() -> None:
    (head,) = heads(small()).values()
    assert [(part.source, part.like, part.resize is None) for part in head.parts] == [
        ("image", "", True), (head.parts[1].source, "image", False),
    ]  # fmt: skip
    assert head.between == ("enlarged", "united")
    assert head.operands == ("image", head.parts[1].source)


def test_what_others_read_or_sees_more_than_a_place_is_none() -> None:
    assert heads(small(kernel=3)) == {}
    assert heads(small(read_again=True)) == {}


def test_hrnet_has_one_head_and_gsto_three() -> None:
    assert list(heads(build("hrnetv2-w18-small-v2"))) == ["last_layer.0"]
    found = heads(build("gsto-hrnet-w18-small-v2"))
    assert set(found) == {"last_layer_stage2.0", "last_layer_stage3.0", "last_layer.0"}
    assert [len(found[name].parts) for name in sorted(found)] == [4, 2, 3]
