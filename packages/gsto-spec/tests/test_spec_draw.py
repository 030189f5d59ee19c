"""`gsto-spec draw`: the graph that runs, as SVG."""

import dataclasses
import itertools
import re
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest
from click.testing import CliRunner

from gsto_spec import Graph, GraphBuilder, HRNet, build, features, initial_weights, optimize
from gsto_spec.cli import main
from gsto_spec.draw import draw
from gsto_spec.ops import Parameter

SVG = "{http://www.w3.org/2000/svg}"
NARROW = HRNet(
    widths=(3, 5, 7, 9),
    modules=(1, 4, 3),
    blocks=2,
    stem_width=6,
    layer1_width=2,
    layer1_blocks=2,
    classes=11,
)
GATED = dataclasses.replace(
    NARROW, fusion_gate="unsupervised", supervised_stages=(2, 3), transition_gate="supervised"
)


def parsed(drawing: str) -> xml.Element:
    return xml.fromstring(drawing)


def texts(drawing: str) -> list[str]:
    return [item.text or "" for item in parsed(drawing).iter(f"{SVG}text")]


def boxes(drawing: str) -> dict[str, tuple[float, float, float, float]]:
    """A box's full name -> left, top, right and bottom."""
    found = {}
    for group in parsed(drawing).iter(f"{SVG}g"):
        name, rect = group.findtext(f"{SVG}title", ""), group.find(f"{SVG}rect")
        assert rect is not None
        x, y, width, height = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        found[name.partition(":")[0]] = (x, y, x + width, y + height)
    return found


def count(drawing: str, element: str, kind: str) -> int:
    drawn = [item for item in parsed(drawing).iter(f"{SVG}{element}") if item.get("class") == kind]
    return len(drawn)


def legend(drawing: str, text: str) -> int:
    return sum(text in each for each in texts(drawing))


def test_branches_stand_in_lanes_by_stride_in_one_column() -> None:
    found = boxes(draw(build(NARROW)))
    branches = [found[f"stage4.0.branches.{k}.0"] for k in range(4)]
    assert len({box[0] for box in branches}) == 1
    assert [box[1] for box in branches] == sorted({box[1] for box in branches})
    fused = [found[f"stage4.0/fuse.{k}"] for k in range(4)]
    assert [box[1] for box in fused] == [box[1] for box in branches]
    assert all(before[2] < after[0] for before, after in zip(branches, fused, strict=True))
    assert found["stage3.0.branches.2.0"][1] == branches[2][1]
    assert found["last_layer"][1] < min(box[1] for name, box in found.items() if name != "last_layer")


def test_strides_channels_blocks_and_repeated_modules_are_told() -> None:
    words = texts(draw(build(NARROW), title="mine & yours"))
    assert words[0] == "mine & yours"
    assert {"stride 1", "stride 2", "stride 4", "stride 8", "stride 16", "stride 32"} <= set(words)
    assert {"stage2", "stage3 × 4", "stage4 × 3", "layer1 × 2", "2 blocks", "conv 3×3 /2"} <= set(words)
    assert {"3 channels", "5 channels", "7 channels", "9 channels", "11 channels"} <= set(words)


def test_modules_that_differ_are_drawn_apart() -> None:
    words = texts(draw(build(dataclasses.replace(NARROW, head="hrnetv1"))))
    assert {"stage3 × 4", "stage4.0 × 2", "stage4.2"} <= set(words)


@pytest.mark.parametrize(
    ("variant", "gates"),
    [
        (NARROW, 0),
        (GATED, (4 + 9 + 16) + 2),
        (dataclasses.replace(GATED, form="paper"), (2 + 6 + 12) + (2 + 3)),
        (dataclasses.replace(GATED, transition_gate=None), 4 + 9 + 16),
    ],
    ids=["plain", "release", "paper", "fusion alone"],
)
def test_there_is_a_dot_for_each_gate_and_none_elsewhere(variant: HRNet, gates: int) -> None:
    drawing = draw(build(variant))
    assert count(drawing, "circle", "gate") == gates + legend(drawing, "multiplied by a sigmoid")
    assert legend(drawing, "multiplied by a sigmoid") == (gates > 0)


def test_supervision_is_drawn_with_its_losses() -> None:
    drawing = draw(build(GATED))
    assert count(drawing, "path", "steers") == 2 + 1
    assert [word for word in texts(drawing) if "loss" in word] == ["loss × 0.3", "loss × 0.5", "loss × 1.0"]
    plain = dataclasses.replace(GATED, transition_gate=None, fusion_gate=None)
    assert count(draw(build(plain)), "path", "steers") == 0


def test_an_attention_inside_a_block_is_marked_on_its_box() -> None:
    build = GraphBuilder()
    x = build.relu(build.conv2d("layer1.0.conv1", build.input(), 4))
    y = build.conv2d("layer1.0.conv2", x, 4)
    squeezed = build.adaptive_avg_pool(y, size=(1, 1))
    y = build.mul(build.sigmoid(build.conv2d("layer1.0.attention.fc", squeezed, 4)), y, name="layer1.0/gated")
    drawing = draw(build.graph({"y": build.conv2d("head", build.add([x, y], name="layer1.0/sum"), 2)}))
    assert list(boxes(drawing)) == ["image", "layer1.0", "head"]
    assert legend(drawing, "gate inside") == 1
    assert count(drawing, "circle", "gate") == 1 + 1


def test_every_op_is_a_box_on_request() -> None:
    graph = build(dataclasses.replace(NARROW, modules=(1, 1, 1), blocks=1))
    assert list(boxes(draw(graph, ops=True))) == [
        node.name for node in graph.order if node.name not in graph.leaves
    ]


@pytest.mark.parametrize("ops", [False, True], ids=["modules", "ops"])
@pytest.mark.parametrize("form", ["release", "paper"])
def test_no_box_covers_another_and_arrows_run_from_left_to_right(form: str, ops: bool) -> None:
    small = dataclasses.replace(GATED, modules=(1, 1, 1), blocks=1, form=form)  # type: ignore[arg-type]
    drawing = draw(build(small), ops=ops)
    for a, b in itertools.combinations(boxes(drawing).values(), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    arrows = [path.attrib["d"] for path in parsed(drawing).iter(f"{SVG}path") if path.get("marker-end")]
    assert arrows
    for arrow in arrows:
        start, *_, end = (float(number) for number in re.findall(r"[MH](-?\d+)", arrow))
        assert start < end
    assert drawing == draw(build(small), ops=ops)


def test_no_arrow_crosses_a_box_on_its_way_along_a_row() -> None:
    drawing = draw(build(GATED), ops=True)
    found = boxes(drawing)
    for path in parsed(drawing).iter(f"{SVG}path"):
        if path.get("marker-end"):
            start, y, turn = map(float, re.findall(r"^M(\d+) (\d+)H(\d+)", path.attrib["d"])[0])
            crossed = [name for name, (left, top, right, bottom) in found.items()
                       if top < y < bottom and left < turn and right > start]  # fmt: skip
            assert crossed == []


def test_names_that_come_back_are_drawn_twice_rather_than_in_a_circle() -> None:
    build = GraphBuilder()
    x = build.conv2d("level.0", build.input(), 2, kernel=3)
    y = build.conv2d("low.0", x, 2, kernel=3, stride=2)
    x = build.conv2d("level.1", build.add([x, build.resize(y, like=x, name="low/up")], name="level/sum"), 2)
    found = boxes(draw(build.graph({"y": build.conv2d("head", x, 2)})))
    assert list(found) == ["image", "level", "low", "level (2)", "head"]


def test_a_cut_network_is_drawn_with_its_outputs_in_their_lanes() -> None:
    drawing = draw(features(build(GATED)))
    found = boxes(drawing)
    assert found["stage4.0/fuse.3"][1] == found["stage4.0.branches.3.0"][1]
    assert "output stride32" in texts(drawing)


def test_the_command_writes_a_file_or_standard_output(tmp_path: Path) -> None:
    name, file = "gsto-hrnet-w18-small-v2", tmp_path / "drawing.svg"
    result = CliRunner().invoke(main, ["draw", name, "-o", str(file), "--classes", "7", "--form", "paper"])
    assert (result.exit_code, result.output) == (0, "")
    assert file.read_text(encoding="utf-8") == draw(build(name, classes=7, form="paper"), title=name)
    graph = build("hrnetv2-w18-small-v1")
    (tmp_path / "g.json").write_text(graph.to_json())
    printed = CliRunner().invoke(main, ["draw", str(tmp_path / "g.json"), "-o", "-", "--ops"])
    assert printed.stdout == draw(Graph.from_json(graph.to_json()), title=str(tmp_path / "g.json"), ops=True)


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    wanted = tmp_path / "nowhere" / "drawing.svg"
    result = CliRunner().invoke(main, ["draw", "hrnetv2-w18-small-v1", "-o", str(wanted)])
    assert result.exit_code == 2
    assert result.stderr == f"gsto-spec: {wanted}: cannot be written: No such file or directory\n"


def odd_graphs() -> list[Graph]:
    """Two inputs, an output that is an input, one that is no feature map, one alone, a gate of itself."""
    first = GraphBuilder()
    image, second = first.input(), first.input("second", 2)
    stored = first.relu(first.parameter("p", Parameter((4,))), name="p/relu")
    both = first.concat([image, second])
    gate = GraphBuilder()
    soft = gate.softmax(gate.input())
    alone = GraphBuilder()
    alone.parameter("p", Parameter((4,)))
    return [
        first.graph({"a": both, "b": image, "c": stored, "d": both}),
        gate.graph({"y": gate.mul(soft, soft)}),
        alone.graph({"y": "p"}),
    ]


@pytest.mark.parametrize("ops", [False, True], ids=["modules", "ops"])
def test_any_graph_can_be_drawn(ops: bool) -> None:
    plain = build(dataclasses.replace(GATED, modules=(1, 1, 1)))
    optimized, _ = optimize(plain, initial_weights(plain))
    for graph in (*odd_graphs(), optimized):
        drawing = draw(graph, title='a < b & "c"', ops=ops)
        assert texts(drawing)[0] == 'a < b & "c"'
        assert {name for name in boxes(drawing) if name in graph.inputs} == set(graph.inputs)


def test_a_map_that_gives_its_size_alone_sends_no_arrow() -> None:
    build = GraphBuilder()
    x = build.conv2d("down.0", build.input(), 2, stride=2)
    y = build.resize(build.conv2d("low.0", x, 2, stride=2), like=x, name="low/up")
    drawing = draw(build.graph({"y": build.conv2d("head", y, 2)}))
    assert list(boxes(drawing)) == ["image", "down", "low", "head"]
    assert count(drawing, "path", "arrow") == 3


def test_a_prediction_that_another_is_made_of_stays_in_its_lane() -> None:
    build = GraphBuilder()
    x = build.conv2d("down.0", build.input(), 4, stride=2)
    coarse = build.conv2d("coarse.0", build.conv2d("low.0", x, 4, stride=2), 3)
    fine = build.add([build.conv2d("fine.0", x, 3), build.resize(coarse, like=x, name="fine/up")])
    found = boxes(draw(build.graph({"stage4": fine, "stage3": coarse})))
    assert found["fine"][1] < found["image"][1]
    assert found["coarse"][1] == found["low"][1]


def test_a_drawing_is_not_written_under_the_name_of_another_kind_of_file(tmp_path: Path) -> None:
    wanted = tmp_path / "network.png"
    result = CliRunner().invoke(main, ["draw", "hrnetv2-w18-small-v2", "-o", str(wanted)])
    assert result.exit_code == 2
    assert result.stderr == f"gsto-spec: {wanted}: expected a name ending in .svg, or - for standard output\n"
    assert not wanted.exists()
