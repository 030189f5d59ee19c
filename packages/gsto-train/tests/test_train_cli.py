import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

import gsto_spec
from gsto_spec.backend import backends
from gsto_train.commands.train import main
from gsto_train.resolve import load_graph
from gsto_train.settings import ArchitectureSettings

HEAVY = ("torch", "jax", "cv2", "numpy", "gsto_spec", "rich", "PIL")
COLOUR = re.compile(r"\x1b\[[\d;]*3\dm|\x1b\[[\d;]*9\dm")


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_stop_nothing(closed: str, tmp_path: Path) -> None:
    code = "from gsto_train.commands.train import main; main(['--list'])"
    shell = ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, code]
    done = subprocess.run(shell, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("scenes" in done.stdout) == (closed == "2>&-")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option: str) -> None:
    code = (
        "import sys\nfrom gsto_train.commands.train import main\n"
        f"try:\n    main(['{option}'])\nexcept SystemExit as ended:\n    assert ended.code == 0\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr)"
    )
    done = run_python("-c", code)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
    assert "gsto-train" in done.stdout


def test_a_mistyped_option_is_told_with_the_nearest(invoke: Any) -> None:
    refused = invoke.refused(main, "--benchmrk", "lip")
    # click before 8.4 has a colon and no quotes.
    assert re.fullmatch(r"gsto-train: No such option:? '?--benchmrk'? \(nearest: --benchmark\)", refused)


def test_help_points_at_the_list(invoke: Any) -> None:
    assert "`gsto-train --list` shows what else there is" in " ".join(invoke(main, "--help")[1].split())


def test_json_alone_is_on_standard_output(command: Any) -> None:
    done = command("--output", "run", "--json")
    assert json.loads(done.out) == json.loads(Path("run/result.json").read_text())
    assert "step 20/20" in done.error
    assert "mean IoU" in done.error


def test_the_table_is_on_standard_output_and_plain_lines_on_standard_error(command: Any) -> None:
    done = command("--output", "run")
    assert done.out.startswith("linear_backend:graph on folder: ")
    for text in ("red", "green", "blue", "mean IoU", "network", "histogram", "constant"):
        assert text in done.out
    lines = [line for line in done.error.splitlines() if line.startswith("step ")]
    assert len(lines) == 5
    for part in ("epoch ", "loss ", "learning rate ", " left"):
        assert all(part in line for line in lines)
    assert lines[-1].endswith("  0 s left")
    assert "\x1b" not in done.out + done.error


def on_a_terminal(plugin_folder: Path, pictures: Path, **environment: str) -> str:
    """Run the command with a terminal as its standard error, and return what that shows."""
    parent, child = pty.openpty()
    arguments = ["--backend", "linear", "--benchmark", "folder", "--data", str(pictures), "--output", "run"]
    arguments += [
        "--architecture",
        "linear_backend:graph",
        "--set",
        "train.steps=20",
        "--set",
        "data.crop=[16,16]",
    ]
    done = subprocess.Popen(
        [sys.executable, "-c", "from gsto_train.commands.train import main; main()", *arguments],
        env={
            **{name: value for name, value in os.environ.items() if name != "NO_COLOR"},
            "PYTHONPATH": str(plugin_folder),
            "TERM": "xterm",
            "COLUMNS": "120",
            **environment,
        },
        stdout=subprocess.DEVNULL,
        stderr=child,
    )
    os.close(child)
    shown = bytearray()
    with contextlib.suppress(OSError):  # Linux's way of saying that the other end is closed.
        while part := os.read(parent, 65536):
            shown += part
    os.close(parent)
    assert done.wait() == 0
    return shown.decode()


def test_a_terminal_shows_a_bar_with_loss_learning_rate_and_time_left(
    linear: ModuleType, plugin_folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = on_a_terminal(plugin_folder, pictures)
    assert re.search(r"step 20/20 .*━.*loss \d\.\d+  learning rate 0\.\d+ .*left", shown)
    assert COLOUR.search(shown)


def test_no_color_is_honoured(
    linear: ModuleType, plugin_folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = on_a_terminal(plugin_folder, pictures, NO_COLOR="1")
    assert "step 20/20" in shown
    assert not COLOUR.search(shown)


def test_a_new_run_gets_a_folder_of_its_own_by_name(command: Any) -> None:
    assert command().status == 0
    assert "run folder runs/folder-linear_backend-graph-linear\n" in command("--resume").error
    assert [command().status for _ in range(2)] == [0, 0]
    name = "folder-linear_backend-graph-linear"
    assert {path.name for path in Path("runs").iterdir()} == {name, f"{name}-2", f"{name}-3"}
    resumed = command("--resume")
    assert resumed.status == 0
    assert "run folder runs/folder-linear_backend-graph-linear-3" in resumed.error


def test_a_folder_that_holds_something_is_left_alone(command: Any) -> None:
    Path("run").mkdir()
    assert command("--output", "run").status == 0
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    again = command("--output", "run")
    assert again.status == 2
    assert "run: this output folder is not empty; add --resume" in again.failure
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == before


def test_resuming_where_no_run_is_names_the_nearest_folder(command: Any) -> None:
    command("--output", "run-one")
    failed = command("--output", "run-on", "--resume", new=False)
    assert failed.status == 2
    assert "run-on: no run to resume here: no such folder (nearest: run-one)" in failed.failure
    Path("empty").mkdir()
    assert "no config.json in it" in command("--output", "empty", "--resume", new=False).failure
    assert "no run to resume here" in command("--resume", new=False).failure


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ("train.learning_rate=0.5", "train.learning_rate"),
        ("train.steps=30", "train.steps"),
        ("train.epochs=3", "train.epochs"),
        ("data.crop=[8,8]", "data.crop"),
        ("loss.stage_weights.stage3=0.1", "loss.stage_weights.stage3"),
        ("train.optimizer=adam", "train.optimizer"),
    ],
)
def test_a_changed_setting_is_refused_when_resuming(command: Any, changed: str, key: str) -> None:
    command("--output", "run")
    refused = command("--output", "run", "--resume", "--set", changed, new=False)
    assert refused.status == 2
    assert f"setting {key!r} is " in refused.failure
    assert "started with" in refused.failure


def test_what_does_not_change_the_score_may_change_when_resuming(command: Any, pictures: Path) -> None:
    command("--output", "run")
    moved = pictures.rename(pictures.with_name("moved"))
    arguments = ("--resume", "--data", str(moved), "--set", "train.threads=1", "--set", "train.log_every=2")
    assert command("--output", "run", *arguments, new=False).status == 0
    settings = json.loads(Path("run/config.json").read_text())["settings"]
    assert settings["train"]["threads"] == 1
    assert settings["data"]["folder"] == str(moved)


def test_saying_everything_again_is_no_change(command: Any) -> None:
    command("--output", "run")
    assert command("--output", "run", "--resume").status == 0


def test_another_benchmark_graph_or_data_is_refused_when_resuming(command: Any, pictures: Path) -> None:
    command("--output", "run")
    other = command("--output", "run", "--resume", "--benchmark", "scenes", new=False)
    assert other.status == 2
    assert "--benchmark scenes: the run in run is one of folder" in other.failure
    graph = command("--output", "run", "--resume", "--architecture", "linear_backend:two_outputs", new=False)
    assert "setting 'architecture.name'" in graph.failure
    config = json.loads(Path("run/config.json").read_text())
    config["settings"]["architecture"]["name"] = "linear_backend:two_outputs"
    Path("run/config.json").write_text(json.dumps(config))
    asked = ("--architecture", "linear_backend:two_outputs")
    digest = command("--output", "run", "--resume", *asked, new=False)
    assert digest.status == 2
    assert "the graph's digest was" in digest.failure


def test_fewer_pictures_are_refused_when_resuming(command: Any, pictures: Path) -> None:
    command("--output", "run")
    lines = (pictures / "train.txt").read_text().splitlines()
    (pictures / "train.txt").write_text("\n".join(lines[1:]))
    failed = command("--output", "run", "--resume", new=False)
    assert failed.status == 2
    assert "the number of training pictures was 4 and is 3" in failed.failure


def test_a_run_resumes_from_another_folder(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.pictures = Path("pictures")
    assert command("--output", "run").status == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command("--output", "../run", "--resume", new=False).status == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--benchmark", "scene"], "unknown benchmark 'scene' (nearest: scenes)"),
        (["--architecture", "gsto-hrnet-w18-small-v3"], "gsto-hrnet-w18-small-v2"),
        (["--architecture", "linear_backend:grap"], "has no grap (nearest: graph)"),
        (["--architecture", "no_such_module:graph"], "cannot import no_such_module"),
        (["--architecture", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--set", "train.bach=3"], "unknown setting 'train.bach' (nearest: train.batch)"),
        (["--set", "train.batch"], "--set 'train.batch': expected key=value"),
        (
            ["--set", "loss.class_weights=[1,2]"],
            "'loss.class_weights': expected 3 numbers, one per class, found 2",
        ),
        (
            ["--set", "data.flip_pairs=[[1,3]]"],
            "'data.flip_pairs': expected class numbers of at most 2, found [1, 3]",
        ),
        (["--set", "architecture.form=paper"], "a graph's form is fixed"),
        (["--precision", "float16"], "'train.precision': expected one of float32, float64"),
        (["--device", "cuda"], "(backend 'linear' on this machine), found 'cuda'; it sees no GPU here"),
        (["--data", "picture"], "no such folder of data (nearest: pictures)"),
        (
            ["--set", "data.train_list=trian.txt"],
            "trian.txt: no such list of pictures (nearest: train.txt)",
        ),
        (["--outptu", "x"], "No such option"),
        (["extra"], "unexpected extra argument"),
    ],
)
def test_wrong_input_is_told_in_one_line_before_anything_is_made(
    command: Any, arguments: list[str], expected: str
) -> None:
    failed = command("--output", "run", *arguments)
    assert failed.status == 2
    assert expected in failed.failure
    assert failed.error.count("\n") == 1
    assert not Path("run").exists()


def test_an_absent_backend_is_told_with_what_to_install(command: Any) -> None:
    for absent in {"torch", "jax"} - set(backends()):
        command.backend = absent
        assert f"install the package gsto-{absent}" in command("--output", "run").failure
    command.backend = "linaer"
    unknown = command("--output", "run")
    assert unknown.status == 2
    assert "(nearest: linear)" in unknown.failure


def test_a_backend_that_does_not_import_is_told_with_the_reason(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    information = tmp_path / "plugin" / "broken-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[gsto.backends]\nbroken = no_such_framework:Backend\n")
    monkeypatch.syspath_prepend(tmp_path / "plugin")
    command.backend = "broken"
    failed = command("--output", "run")
    assert failed.status == 2
    assert "backend 'broken' does not import: No module named 'no_such_framework'" in failed.failure


def test_a_backend_of_ones_own_is_given_by_module_and_attribute(command: Any) -> None:
    command.backend = "linear_backend:LinearBackend"
    assert command().status == 0
    (run,) = Path("runs").iterdir()
    assert run.name.endswith("-linear_backend-graph-linear_backend-LinearBackend")
    assert command("--output", str(run), "--resume", new=False).status == 0
    command.backend = "linear_backend:LinaerBackend"
    assert "has no LinaerBackend (nearest: LinearBackend)" in command("--output", "run").failure


def test_the_backend_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("gsto-train: --backend is missing")


def test_a_benchmark_of_pictures_without_a_folder_asks_for_it(command: Any) -> None:
    failed = command("--benchmark", "camvid", "--output", "run", new=False)
    assert failed.status == 2
    assert "--data DIR" in failed.failure


def remove_a_picture(folder: Path) -> str:
    (folder / "3.png").unlink()
    return "3.png"


def break_a_picture(folder: Path) -> str:
    (folder / "5.png").write_bytes(b"no picture")
    return "5.png"


def put_a_label_out_of_range(folder: Path) -> str:
    Image.new("L", (32, 24), 3).save(folder / "4_label.png")
    return "4_label.png"


def shrink_a_label(folder: Path) -> str:
    Image.new("L", (30, 24), 1).save(folder / "1_label.png")
    return "1_label.png"


def lose_the_classes(folder: Path) -> str:
    (folder / "classes.json").unlink()
    return "classes.json"


@pytest.mark.parametrize(
    "damage",
    [remove_a_picture, break_a_picture, put_a_label_out_of_range, shrink_a_label, lose_the_classes],
)
def test_broken_data_is_found_before_a_step_is_taken(
    command: Any, linear: ModuleType, pictures: Path, damage: Any
) -> None:
    def no_step(step: int) -> None:
        pytest.fail("a step was taken")

    linear.events.before_step = no_step
    named = damage(pictures)
    failed = command("--output", "run")
    assert failed.status == 2
    assert named in failed.failure


@pytest.mark.parametrize("place", ["file/run", "/sys/kernel/gsto-run"])
def test_a_folder_that_cannot_be_written_is_refused(command: Any, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    failed = command("--output", place)
    assert failed.status == 2
    assert f"{place}: cannot write into the output folder (" in failed.failure
    assert "--output" in failed.failure


def test_a_graph_file_is_an_architecture(command: Any, linear: ModuleType) -> None:
    Path("mine.json").write_text(linear.graph(3).to_json())
    assert command("--output", "run", "--architecture", "mine.json").status == 0
    assert json.loads(Path("run/result.json").read_text())["graph_digest"] == linear.graph(3).digest
    Path("mine.json").write_text(linear.graph(4).to_json())
    failed = command("--output", "run2", "--architecture", "mine.json")
    assert failed.status == 2
    assert "output stage4 has 4 channels, expected one for each of 3 classes" in failed.failure
    Path("mine.json").write_text("{}")
    assert "mine.json: graph: expected" in command("--output", "run2", "--architecture", "mine.json").failure


def test_a_module_in_the_working_folder_is_an_architecture(command: Any) -> None:
    Path("own_networks.py").write_text(
        "import gsto_spec\n"
        "small = gsto_spec.variant('hrnetv2-w18-small-v1')\n"
        "def misnamed(classes):\n"
        "    build = gsto_spec.GraphBuilder()\n"
        "    return build.graph({'result': build.conv2d('head', build.input(), classes)})\n"
        "def untrainable(classes):\n"
        "    build = gsto_spec.GraphBuilder()\n"
        "    head = build.conv2d('head', build.relu(build.input(), name='relu'), classes)\n"
        "    return build.graph({'stage4': head})\n"
    )
    failed = command("--output", "run", "--architecture", "own_networks:misnamed")
    assert failed.status == 2
    assert "output 'result' has no loss weight; name its outputs among stage1" in failed.failure
    failed = command("--output", "run", "--architecture", "own_networks:untrainable")
    assert failed.status == 2
    assert (
        "architecture 'own_networks:untrainable' cannot be trained: relu: expected a name with '/'"
        in failed.failure
    )
    network = load_graph(ArchitectureSettings("own_networks:small"), 7)
    assert network.digest == gsto_spec.build("hrnetv2-w18-small-v1", classes=7).digest


def test_an_interrupt_before_training_says_that_nothing_is_lost(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import signal\ndef network(classes):\n    signal.raise_signal(signal.SIGTERM)\n"
    Path("interrupting.py").write_text(code)
    failed = command("--output", "run", "--architecture", "interrupting:network")
    assert failed.status == 143
    assert "interrupted; nothing was begun" in failed.failure


def test_an_interrupt_of_anything_else_is_told_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gsto_train.commands.listing.show", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["--list"])
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip().startswith("gsto-train: interrupted")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("arguments", "status"), [(["--version"], 0), (["--benchmrk", "lip"], 2)])
@pytest.mark.parametrize(
    "late",
    [
        "import atexit; atexit.register(send)",
        "class Last:\n    def __del__(self, send=send): send()\nlast = Last()",
    ],
    ids=["as Python ends", "as modules go"],
)
def test_a_signal_when_all_is_told_leaves_the_status(
    late: str, arguments: list[str], status: int, number: str
) -> None:
    code = (
        "import os, signal, sys\n"
        f"def send(kill=os.kill, me=os.getpid(), number=signal.{number}): kill(me, number)\n"
        f"{late}\nfrom gsto_train.commands.train import main\nsys.argv[1:] = {arguments!r}\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
