"""Every check and job of this repository.

`nox -l` lists them, `nox` alone runs what continuous integration runs, and `nox -s train` runs the main job.
"""

import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
# Not uv: it does not read pip's configuration, where a machine names its CPU build of torch.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "imports", "repository", "tests", "conformance_quick", "docs_quick"]

ROOT = Path(__file__).parent
CONSTRAINTS = str(ROOT / "constraints.txt")
SHARED = ROOT / ".nox" / "shared"
PACKAGES = ("gsto-spec", "gsto-torch", "gsto-jax", "gsto-train")
CONTRACT = "packages/contract"
BACKENDS = {"gsto-torch": "torch", "gsto-jax": "jax"}

# A package under test, what is installed beside it, what its environment must lack, and which tests it runs.
ALL, ON_BACKENDS = "", "trains_and_scores or trains_on_a_backend"
TEST_ENVIRONMENTS = [
    nox.param("gsto-spec", [], ["torch", "jax", "flax"], ALL, id="gsto-spec"),
    nox.param("gsto-torch", ["gsto-spec"], ["jax", "flax", "gsto_train"], ALL, id="gsto-torch"),
    nox.param("gsto-jax", ["gsto-spec"], ["torch", "gsto_train"], ALL, id="gsto-jax"),
    nox.param("gsto-train", ["gsto-spec", "gsto-torch"], ["jax", "flax"], ALL, id="gsto-train"),
    nox.param("gsto-train", ["gsto-spec", "gsto-torch", "gsto-jax"], [], ON_BACKENDS, id="benchmarks"),
]

# Two or more processes share the tests, each a file at a time; `-- -n 0` runs them in one.
SIDE_BY_SIDE = ("-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile")

# What a package's extras need, so that their tests run.
OPTIONAL = {
    "gsto-spec": ["huggingface_hub", "onnx", "onnxruntime"],
    "gsto-jax": ["flatbuffers"],
    "gsto-train": ["matplotlib", "tensorboardX"],
}

# Where speeds are kept, and the document that tells them.
SPEED = ("packages/gsto-train/src/gsto_train/benchmarks/results", "--document", "docs/speed.md")

REFUSE_PRESENT = """
import importlib.util, sys
present = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
sys.exit(f"this environment must lack {', '.join(present)}" if present else 0)
"""


def install(session: nox.Session, *requirements: str) -> None:
    """Install at the versions of constraints.txt, build tools included.

    Unpinned, torch alone would take several gigabytes.
    """
    session.install("-c", CONSTRAINTS, "--build-constraint", CONSTRAINTS, *requirements)


def share(session: nox.Session, *requirements: str) -> str:
    """Return the Python of the environment that sessions with all packages share, `requirements` installed.

    With both frameworks an environment takes two gigabytes and more than a minute: too much for each to have
    its own.
    """
    python = str(SHARED / "bin" / "python")
    if not (SHARED / "pyvenv.cfg").exists():
        session.run_install(sys.executable, "-m", "virtualenv", "--quiet", str(SHARED), external=True)
    constraints = ("-c", CONSTRAINTS, "--build-constraint", CONSTRAINTS)
    needed = ("hypothesis", "pytest", "pytest-xdist", *map(folder, PACKAGES), *requirements)
    session.run_install(python, "-m", "pip", "install", *constraints, *needed, external=True, silent=True)
    # Tests and pages run the packages' own commands.
    session.env["PATH"] = os.pathsep.join([str(SHARED / "bin"), os.environ["PATH"]])
    return python


def folder(package: str) -> str:
    """The package's folder, as pip and pytest take it."""
    return f"./packages/{package}"


def tested(package: str) -> list[str]:
    """What pytest takes to test the package: its own tests and, of a backend, what holds of every one."""
    own = f"{folder(package)}/tests"
    return [own, CONTRACT, "--backend", BACKENDS[package]] if package in BACKENDS else [own]


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the imports that each package bans (ruff)."""
    install(session, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Types of sources and tests (mypy --strict)."""
    mypy = (share(session, "mypy", "nox"), "-m", "mypy")
    session.run(*mypy, "noxfile.py", "conftest.py", "tests", "conformance", "faults", "fuzz", "pages")
    session.run(*mypy, "packages/conftest.py")
    session.run(*mypy, CONTRACT)
    for package in PACKAGES:
        session.run(*mypy, f"{folder(package)}/src", f"{folder(package)}/tests")


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
    requirements = ("hypothesis", "pytest", "pytest-xdist", *OPTIONAL.get(package, ()))
    if absent:
        python = "python"
        install(session, *requirements, *map(folder, [*beside, package]))
    else:
        python = share(session, *requirements)
    if package == "gsto-train" and chosen == ALL:
        # The reference of Cityscapes' scores; what else it requires is for drawing and annotating.
        install(session, "--no-deps", "cityscapesscripts", "pyquaternion")
    session.run(python, "-c", REFUSE_PRESENT, *absent, external=True, log=False)
    pytest = (python, "-P", "-m", "pytest", *SIDE_BY_SIDE, "-k", chosen)
    session.run(*pytest, *tested(package), *session.posargs, external=True)


@nox.session(venv_backend="none")
def conformance(session: nox.Session) -> None:
    """Every backend against the definition and the others; its options go after --."""
    session.run(share(session), "-m", "conformance", *session.posargs)


@nox.session(venv_backend="none")
def conformance_quick(session: nox.Session) -> None:
    """The conformance suite's own tests, its quick profile, then a few hundred cases of `fuzz`."""
    python = share(session)
    session.run(python, "-m", "pytest", *SIDE_BY_SIDE, "conformance/meta")
    session.run(python, "-m", "conformance", "--profile", "quick")
    session.run(python, "-m", "pytest", "fuzz")


def build_site(session: nox.Session) -> str:
    """The site in site/, from docs/; whatever Sphinx warns of, dead links included, is an error.

    Returns the Python that built it.
    """
    python = share(session, "flatbuffers", "furo", "matplotlib", "myst-parser", "onnx", "sphinx")
    session.run(python, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "docs", "site")
    return python


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """The site, and every block of code on every page, run; minutes. Options of pytest go after --."""
    python = build_site(session)
    session.run(python, "-m", "pytest", "pages", *session.posargs)


@nox.session(venv_backend="none")
def docs_quick(session: nox.Session) -> None:
    """The site, and the pages' links and commands, which are parsed; their blocks are not run."""
    python = build_site(session)
    session.run(python, "-m", "pytest", "pages/test_reading.py", "pages/test_runner.py")


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """All that docs/speed.md tells of a CPU, measured and written there: twenty minutes, machine idle."""
    python = share(session, f"{folder('gsto-train')}[engines,plot]")
    session.run(python, "-m", "gsto_train.bench.suites", "cpu", *SPEED, *session.posargs)


@nox.session(venv_backend="none")
def bench_gpu(session: nox.Session) -> None:
    """The same of a GPU, in the environment that runs nox: its torch and JAX must be built for the card."""
    session.run(sys.executable, "-m", "gsto_train.bench.suites", "cuda", *SPEED, *session.posargs)


@nox.session(venv_backend="none")
def faults(session: nox.Session) -> None:
    """Whether runs survive: killed, on failing disks, with damaged files; 25 minutes at most."""
    session.run(share(session), "-m", "faults", *session.posargs)


@nox.session(venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Whether readers refuse hostile input: more than ten thousand cases; 20 minutes at most."""
    session.run(share(session), "-m", "fuzz", *session.posargs)


@nox.session(venv_backend="none")
def memory(session: nox.Session) -> None:
    """The memory estimate beside the bytes that torch really holds."""
    session.run(share(session), "-m", "conformance.memory", *session.posargs)


@nox.session(venv_backend="none")
def conformance_onnx(session: nox.Session) -> None:
    """Exported graphs, run by ONNX Runtime, against the definition."""
    python = share(session, "onnx", "onnxruntime")
    checks = "outputs_at_several or inference_form or every_node_of"
    backend = "conformance.onnx_backend:OnnxBackend"
    options = ("--backend", backend, "--precision", "float32", "-k", checks)
    session.run(python, "-m", "conformance", *options, *session.posargs)


@nox.session(venv_backend="none")
def mutants(session: nox.Session) -> None:
    """Whether the conformance suite catches backends that are broken on purpose."""
    session.run(share(session), "-m", "conformance.mutants", *session.posargs)


@nox.session(venv_backend="none")
def agreement(session: nox.Session) -> None:
    """Whether torch and JAX train the embedded default alike; whole runs, a quarter of an hour."""
    session.run(share(session), "-m", "conformance.agreement", *session.posargs)


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
    """Build the source distribution and the wheel of every package into dist/, and look into them."""
    install(session, "build", "hatchling", "packaging")
    output = ROOT / "dist"
    for package in PACKAGES:
        # The wheel is built from the source distribution, which so proves to be complete.
        session.run("python", "-m", "build", "--no-isolation", "--outdir", str(output), folder(package))
    session.run("python", "tests/distributions.py", str(output))


# A package, what is installed beside it, and the tests that use every one of its requirements.
MINIMUMS = [
    nox.param("gsto-spec", [], ["onnx"], "", id="gsto-spec"),
    nox.param("gsto-torch", ["gsto-spec"], [], "", id="gsto-torch"),
    nox.param("gsto-jax", ["gsto-spec"], ["export"], "", id="gsto-jax"),
    nox.param(
        "gsto-train", ["gsto-spec"], ["plot", "tensorboard"], "not torch and not bench", id="gsto-train"
    ),
]


def lowest(package: str, extras: list[str]) -> list[str]:
    """Return `name==version` for the lower end of each range of another project's package."""
    project = nox.project.load_toml(ROOT / "packages" / package / "pyproject.toml")["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in extras for line in project["optional-dependencies"][extra]),
    ]
    return [line.replace(">=", "==") for line in lines if ">=" in line]


@nox.session(python=["3.12", "3.13"])
def pythons(session: nox.Session) -> None:
    """gsto-spec's tests on later Pythons, as far as their interpreters are there."""
    install(session, "hypothesis", "pytest", folder("gsto-spec"), *OPTIONAL["gsto-spec"])
    session.run("pytest", f"{folder('gsto-spec')}/tests", *session.posargs)


@nox.session(python="3.11")
@nox.parametrize("package, beside, extras, chosen", MINIMUMS)
def minimums(session: nox.Session, package: str, beside: list[str], extras: list[str], chosen: str) -> None:
    """Tests of a package with the lowest versions that it declares; gsto-torch's is a GPU build of 3 GB."""
    install(session, "hypothesis", "pytest")
    # What these need in turn is of no fixed version: constraints.txt has what goes with the upper end.
    session.install(*lowest(package, extras), *map(folder, [*beside, package]))
    session.run("python", "-m", "pip", "check")
    # What old versions warn of in each other is no failure of ours.
    ignored = ("-W", "ignore::DeprecationWarning", "-W", "ignore::UserWarning")
    session.run("pytest", *tested(package), "-k", chosen, *ignored, *session.posargs)
