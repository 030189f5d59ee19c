"""Every check and job of this repository.

`nox -l` lists them, `nox` alone runs what continuous integration runs, and `nox -s train` runs the main job.
"""

from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
# Not uv: it does not read pip's configuration, where a machine names its CPU build of torch.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "imports", "repository", "tests", "conformance_quick"]

ROOT = Path(__file__).parent
PACKAGES = ("gsto-spec", "gsto-torch", "gsto-jax", "gsto-train")

# A package under test, what is installed beside it, what its environment must lack, and which tests it runs.
ALL, ON_BACKENDS = "", "trains_and_scores or trains_on_a_backend"
TEST_ENVIRONMENTS = [
    nox.param("gsto-spec", [], ["torch", "jax", "flax"], ALL, id="gsto-spec"),
    nox.param("gsto-torch", ["gsto-spec"], ["jax", "flax", "gsto_train"], ALL, id="gsto-torch"),
    nox.param("gsto-jax", ["gsto-spec"], ["torch", "gsto_train"], ALL, id="gsto-jax"),
    nox.param("gsto-train", ["gsto-spec", "gsto-torch"], ["jax", "flax"], ALL, id="gsto-train"),
    nox.param("gsto-train", ["gsto-spec", "gsto-torch", "gsto-jax"], [], ON_BACKENDS, id="benchmarks"),
]

# What a package's extras need, so that their tests run.
OPTIONAL = {"gsto-spec": ["onnx", "onnxruntime"], "gsto-train": ["matplotlib", "tensorboardX"]}

REFUSE_PRESENT = """
import importlib.util, sys
present = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
sys.exit(f"this environment must lack {', '.join(present)}" if present else 0)
"""


def install(session: nox.Session, *requirements: str) -> None:
    """Install at the versions of constraints.txt, build tools included.

    Unpinned, torch alone would take several gigabytes.
    """
    constraints = str(ROOT / "constraints.txt")
    session.install("-c", constraints, "--build-constraint", constraints, *requirements)


def folder(package: str) -> str:
    """The package's folder, as pip and pytest take it."""
    return f"./packages/{package}"


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the imports that each package bans (ruff)."""
    install(session, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types of sources and tests (mypy --strict)."""
    install(session, "mypy", "nox", "hypothesis", "pytest", *map(folder, PACKAGES))
    session.run("mypy", "noxfile.py", "conftest.py", "tests", "conformance", "faults")
    session.run("mypy", "packages/conftest.py")
    for package in PACKAGES:
        session.run("mypy", f"{folder(package)}/src", f"{folder(package)}/tests")


@nox.session
def imports(session: nox.Session) -> None:
    """Who may import whom, indirect imports included (import-linter)."""
    install(session, "import-linter")
    sources = ":".join(str(ROOT / "packages" / package / "src") for package in PACKAGES)
    session.run("lint-imports", "--no-logo", env={"PYTHONPATH": sources})


@nox.session
def repository(session: nox.Session) -> None:
    """Rules of the repository itself: versions, file sizes, licences, pins."""
    install(session, "hypothesis", "pytest")
    session.run("pytest", "tests", *session.posargs)


@nox.session
@nox.parametrize("package, beside, absent, chosen", TEST_ENVIRONMENTS)
def tests(session: nox.Session, package: str, beside: list[str], absent: list[str], chosen: str) -> None:
    """Tests of one package as installed from its wheel, without other frameworks; benchmarks with all."""
    install(session, "hypothesis", "pytest", *map(folder, [*beside, package]), *OPTIONAL.get(package, ()))
    if package == "gsto-train":
        # The reference of Cityscapes' scores; what else it requires is for drawing and annotating.
        install(session, "--no-deps", "cityscapesscripts", "pyquaternion")
    session.run("python", "-c", REFUSE_PRESENT, *absent, log=False)
    session.run("pytest", f"{folder(package)}/tests", "-k", chosen, *session.posargs)


def install_all(session: nox.Session) -> None:
    """Every package, and what the conformance suite draws and runs with."""
    install(session, "hypothesis", "pytest", *map(folder, PACKAGES))


@nox.session
def conformance(session: nox.Session) -> None:
    """Every backend against the definition and the others; its options go after --."""
    install_all(session)
    session.run("python", "-m", "conformance", *session.posargs)


@nox.session
def conformance_quick(session: nox.Session) -> None:
    """The conformance suite's own tests, then its quick profile."""
    install_all(session)
    session.run("pytest", "conformance/meta")
    session.run("python", "-m", "conformance", "--profile", "quick")


@nox.session
def faults(session: nox.Session) -> None:
    """Whether runs survive: killed, on failing disks, with damaged files; 25 minutes at most."""
    install_all(session)
    session.run("python", "-m", "faults", *session.posargs)


@nox.session
def memory(session: nox.Session) -> None:
    """The memory estimate beside the bytes that torch really holds."""
    install_all(session)
    session.run("python", "-m", "conformance.memory", *session.posargs)


@nox.session
def conformance_onnx(session: nox.Session) -> None:
    """Exported graphs, run by ONNX Runtime, against the definition."""
    install_all(session)
    install(session, "onnx", "onnxruntime")
    checks = "outputs_at or inference_form or every_node_of_an_architecture"
    backend = "conformance.onnx_backend:OnnxBackend"
    options = ("--backend", backend, "--precision", "float32", "-k", checks)
    session.run("python", "-m", "conformance", *options, *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Whether the conformance suite catches backends that are broken on purpose."""
    install_all(session)
    session.run("python", "-m", "conformance.mutants", *session.posargs)


@nox.session
def agreement(session: nox.Session) -> None:
    """Whether torch and JAX train the embedded default alike; whole runs, a quarter of an hour."""
    install_all(session)
    session.run("python", "-m", "conformance.agreement", *session.posargs)


@nox.session
def train(session: nox.Session) -> None:
    """Train and score a network; options of gsto-train go after --."""
    install(session, folder("gsto-spec"), folder("gsto-torch"), f"{folder('gsto-train')}[torch]")
    # When interrupted, gsto-train saves its state; left to itself, nox kills it after a third of a second.
    patience = 120.0
    command = ("gsto-train", "--backend", "torch", *session.posargs)
    session.run(*command, interrupt_timeout=patience, terminate_timeout=patience)


@nox.session
def build(session: nox.Session) -> None:
    """Build the source distribution and the wheel of every package into dist/."""
    install(session, "hatchling")
    for package in PACKAGES:
        with session.chdir(ROOT / "packages" / package):
            session.run("hatchling", "build", "--directory", str(ROOT / "dist"))
