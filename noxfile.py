"""The project's sessions, such as ``nox -s tests`` and ``nox -s bench``. ``nox -l`` lists them.

The sessions that need PyTorch share one environment, ``.nox/torch``. It is installed again only if the dependencies in
pyproject.toml, Python, or the presence of an NVIDIA GPU change. With a GPU it gets every inference runtime but
JAX and Torch-TensorRT, without one those that install anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "typecheck", "tests", "programs", "standin"]

_ROOT = Path(__file__).parent
_TORCH = _ROOT / ".nox" / "torch"
_BIN = _TORCH / ("Scripts" if os.name == "nt" else "bin")
_STAMP = _TORCH / "lenet-bench.state"
_PROJECT = nox.project.load_toml(_ROOT / "pyproject.toml")
_NVIDIA_PAGE = "https://nvidia.github.io/TensorRT-Incubator/packages.html"
# With one process a core, and no more than eight: each imports PyTorch. `-n 0` in what follows them means one process.
_PARALLEL = ("-p", "xdist", "-n=logical", "--maxprocesses=8", "--dist=worksteal", "--benchmark-disable")
# Each test process would start compiling ones, which import PyTorch too: 8 s of CPU time where no kernel is cached yet.
# Without bytecode each process compiles the tests anew, which takes 8 s more.
_ALONE = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
_STANDIN = ("-p", "tests.standins.mlir_tensorrt_cpu.plugin")
_PARITY = ("tests/backends", "tests/models", "tests/standins", "tests/test_export.py", "tests/parity")


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """Run the tests that start no program, a process for each core; arguments go to pytest: ``-- -n 0`` for one."""
    try:
        _pytest(session, "-m", "not programs", *session.posargs)
    finally:  # also where nothing is left
        session.log("left out: what starts programs (commands, the gate's workers, compilers): nox -s programs")


@nox.session(python=False)
def programs(session: nox.Session) -> None:
    """Run the tests that start programs: commands, the gate's workers, compilers; arguments go to pytest."""
    _pytest(session, "-m", "programs", *session.posargs)


@nox.session(python=False)
def standin(session: nox.Session) -> None:
    """Run the tests of TriPy's front end on a CPU stand-in for its compiled half; arguments go to pytest."""
    files = sorted((_ROOT / "tests").rglob("test_*.py"))  # pytest would import them all
    marked = [str(one.relative_to(_ROOT)) for one in files if "nvtripy_on_cpu" in one.read_text(encoding="utf-8")]
    _pytest(session, *_STANDIN, *(session.posargs or marked))


@nox.session(python=False)
def parity(session: nox.Session) -> None:
    """Check every backend that runs here against PyTorch, and name the others; arguments go to pytest."""
    _pytest(session, *_PARITY, *session.posargs)
    _pytest(session, *_STANDIN, *_PARITY, *session.posargs)
    _evaluate(session)


@nox.session(python=False)
def evaluate(session: nox.Session) -> None:
    """Compare every backend on the 10,000 test images; arguments go to ``lenet evaluate``."""
    if session.posargs:
        _in_torch_environment(session, "lenet", "evaluate", *session.posargs)
    else:
        _evaluate(session)


@nox.session(python=False)
def bench(session: nox.Session) -> None:
    """Measure inference with the shipped weights and print the coursework's table; arguments go to pytest.

    The other benchmarks run by their file's name: ``-- benchmarks/test_training.py``. Without a GPU a row has 20
    rounds, not 100, so that the table is there within a minute.
    """

    def given(*options: str) -> bool:
        return any(argument.startswith(options) for argument in session.posargs)

    files = [] if given("benchmarks") else ["benchmarks/test_inference.py"]
    settled = "batch-sizes" in _PROJECT.get("tool", {}).get("lenet", {})  # the suite reads it
    sizes = [] if settled or given("--batch-size") else ["--batch-size=1000", "--batch-size=1"]
    rounds = [] if _nvidia_gpu() or given("--rounds", "--protocol") else ["--rounds=20"]
    _in_torch_environment(session, "pytest", *files, *sizes, *rounds, *session.posargs)


@nox.session(python=False)
def baseline(session: nox.Session) -> None:
    """Measure with raw samples and make the run this machine's baseline; arguments go to pytest, as in ``bench``."""
    fresh = _ROOT / ".nox" / "baseline"
    shutil.rmtree(fresh, ignore_errors=True)
    saving = (f"--benchmark-storage=file://{fresh}", "--benchmark-save=baseline", "--benchmark-save-data")
    _in_torch_environment(session, "pytest", "benchmarks/test_inference.py", *saving, *session.posargs)
    for measured in fresh.glob("*/*.json"):
        _in_torch_environment(session, "lenet", "promote", str(measured))


@nox.session(python=False)
def report(session: nox.Session) -> None:
    """Write report.html from the saved measurements; arguments go to ``lenet report``."""
    _in_torch_environment(session, "lenet", "report", *session.posargs)


@nox.session(python=False)
def browser(session: nox.Session) -> None:
    """Test the report and the built site in the system's Chromium or Chrome, where there is one."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        session.skip("no Chromium or Chrome here: on Debian, `apt-get install chromium`")
    _update_environment(session)
    session.run(*_pip(), *nox.project.dependency_groups(_PROJECT, "browser"), external=True)
    modules = Path(session.create_tmp()) / "node_modules"
    if npm := shutil.which("npm"):
        session.run(npm, "install", "--silent", f"--prefix={modules.parent}", "axe-core@4", external=True)
    session.run(
        str(_BIN / "pytest"),
        *_PARALLEL,
        *(session.posargs or ["tests/report/test_browser.py", "tests/docs/test_browser.py"]),
        env={"AXE_CORE": str(modules.resolve() / "axe-core" / "axe.min.js")},
        external=True,
    )


@nox.session(reuse_venv=True)
def docs(session: nox.Session) -> None:
    """Build the documentation into build/docs, without PyTorch: ``-- --out FOLDER``, ``-- --pictures``."""
    needed = [one for one in _PROJECT["project"]["dependencies"] if not one.startswith("torch")]
    browser = nox.project.dependency_groups(_PROJECT, "browser") if "--pictures" in session.posargs else ()
    session.install(*needed, *nox.project.dependency_groups(_PROJECT, "docs"), *browser)
    session.run("python", "docs/build.py", *session.posargs)
    if not session.posargs:
        session.run("pytest", "--confcutdir=tests/docs", "tests/docs/test_build.py", "tests/docs/test_site.py")


@nox.session
def messages(session: nox.Session) -> None:
    """Update the report's catalogues with its texts. New ones stay empty for a translator."""
    session.install(*(one for one in _PROJECT["project"]["dependencies"] if one.startswith(("babel", "jinja2"))))
    template = Path(session.create_tmp()) / "messages.pot"
    babel = ("python", "-m", "babel.messages.frontend", "-q")
    keywords = ("-k", "text", "-k", "plural:1,2")
    plain = ("--no-location", "--sort-output", "--width=118")
    session.run(*babel, "extract", "-F", "pyproject.toml", *keywords, *plain, "-o", str(template), "lenet/report")
    for catalogue in (_ROOT / "lenet" / "report" / "locales").glob("*.po"):
        update = ("update", "-i", str(template), "-o", str(catalogue), "-l", catalogue.stem, "--width=118")
        session.run(*babel, *update, "--no-fuzzy-matching", "--ignore-obsolete", "--ignore-pot-creation-date")


@nox.session(python=False)
def gate(session: nox.Session) -> None:
    """Say whether a row became slower than in a base: ``-- --base origin/main``; arguments go to ``lenet gate``."""
    try:
        _update_environment(session)
    except CommandFailed:
        sys.exit(2)  # nox itself would exit with 1, which is a verdict
    # If dependencies differ the gate makes environments, and needs the same page as this environment.
    environment = {"PIP_FIND_LINKS": _NVIDIA_PAGE, **os.environ} if _nvidia_gpu() else None
    code = _hand_on_signals([str(_BIN / "lenet"), "gate", *session.posargs], environment)
    if code:
        sys.exit(code)  # nox itself would exit with 1 for every code


@nox.session(python=False)
def coursework(session: nox.Session) -> None:
    """Train, evaluate, measure and write the coursework's five sheets; arguments go to ``lenet coursework``."""
    _update_environment(session)
    code = _hand_on_signals([str(_BIN / "lenet"), "coursework", *session.posargs])
    if code:
        sys.exit(code)


@nox.session(python=False)
def train(session: nox.Session) -> None:
    """Train LeNet by the coursework's recipe; arguments go to ``lenet train``."""
    _in_torch_environment(session, "lenet", "train", *session.posargs)


@nox.session(python=False)
def typecheck(session: nox.Session) -> None:
    """Check the types."""
    _in_torch_environment(session, "mypy", *session.posargs)


@nox.session(reuse_venv=True)
def lint(session: nox.Session) -> None:
    """Check style, spelling, the imports between layers, and the workflows. Only the installation needs a network."""
    session.install(*nox.project.dependency_groups(_PROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell")
    session.run("lint-imports", env={"PYTHONPATH": str(_ROOT)})
    session.run("actionlint")
    session.run("zizmor", "--offline", "--pedantic", "--strict-collection", "--no-progress", ".github")


def _hand_on_signals(command: list[str], environment: dict[str, str] | None = None) -> int:
    """Run a program and pass signals on to it, so that it cleans up. nox would leave it running or kill it at once."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
    started: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def hand_on(number: int, _frame: FrameType | None) -> None:
        early.append(number)
        for process in started:
            process.send_signal(number)

    before = {one: signal.signal(one, hand_on) for one in numbers if signal.getsignal(one) != signal.SIG_IGN}
    try:
        with subprocess.Popen(command, cwd=_ROOT, env=environment) as process:  # noqa: S603
            started.append(process)
            for number in early:
                process.send_signal(number)
            return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _evaluate(session: nox.Session) -> None:
    """Compare every backend on the real test images, if they are found or LENET_DATA is set."""
    _update_environment(session)
    find = "from lenet.data import cifar10 as c; d = c.default_directory(None); print(d, c.find_layout(d) is not None)"
    command = [str(_BIN / "python"), "-c", find]
    found = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S603
    directory, _, is_there = found.strip().rpartition(" ")
    if is_there == "True" or os.environ.get("LENET_DATA"):
        for kind in "float32", "uint8":
            _in_torch_environment(session, "lenet", "evaluate", "--backend=all", f"--input={kind}")
    else:
        session.warn(
            f"skipped the comparison on the 10,000 test images: no CIFAR-10 in {directory}; set LENET_DATA, or "
            "fetch it by `nox -s evaluate -- --backend=all --download`"
        )


def _pytest(session: nox.Session, *arguments: str) -> None:
    """Run tests in the shared environment; without a path they are those of ``tests``."""
    _in_torch_environment(session, "python", "-m", "pytest", *_PARALLEL, *arguments, env=_ALONE)


def _in_torch_environment(
    session: nox.Session, program: str, *arguments: str, env: dict[str, str] | None = None
) -> None:
    """Update the shared environment and run one of its programs."""
    _update_environment(session)
    session.run(str(_BIN / program), *arguments, external=True, env=env)


def _update_environment(session: nox.Session) -> None:
    """Install the shared environment anew if something that decides it has changed."""
    sets = _install_sets()
    gpu = _nvidia_gpu()
    decisive = repr((sys.version_info[:2], _PROJECT["project"], sets, gpu is not None))
    state = hashlib.sha256(decisive.encode()).hexdigest()
    installed, failure = _read_stamp()
    if installed == state:
        if failure:
            session.warn(f"{failure}\nTo try again, delete {_STAMP}")
        return

    session.log(f"installing the environment {_TORCH} (PyTorch is several GB the first time)")
    # Start empty: onnxruntime and onnxruntime-gpu, for example, overwrite each other's files.
    session.run(sys.executable, "-m", "venv", "--clear", str(_TORCH), external=True)
    failure = "" if gpu is None else _install_gpu_set(session, gpu, sets["gpu"])
    if gpu is None or failure:
        for arguments in sets["cpu"]:
            session.run(*_pip(), *arguments, external=True)
    _STAMP.write_text(json.dumps([state, failure]))


def _install_sets() -> dict[str, list[list[str]]]:
    """The arguments of each pip call, for a machine with an NVIDIA GPU and for one without."""
    everywhere = nox.project.dependency_groups(_PROJECT, "test", "types")
    front_end = nox.project.dependency_groups(_PROJECT, "tripy-front-end")
    apart = nox.project.dependency_groups(_PROJECT, "torch-tensorrt-front-end")
    return {
        "gpu": [["--find-links", _NVIDIA_PAGE, "--editable", f"{_ROOT}[gpu]", *everywhere]],
        "cpu": [
            ["--editable", f"{_ROOT}[cpu]", *everywhere],
            ["--no-deps", *front_end],
            ["--no-deps", "--target", str(_TORCH / "front-ends"), *apart],
        ],
    }


def _install_gpu_set(session: nox.Session, gpu: str, calls: list[list[str]]) -> str:
    """Install every runtime. If that fails, warn and return the reason; else return ""."""
    session.log(f"{gpu}: installing every runtime, the extra `gpu`, with {_NVIDIA_PAGE} for TriPy's compiled half")
    for arguments in calls:
        done = subprocess.run(  # noqa: S603
            [*_pip(), *arguments], cwd=_ROOT, stderr=subprocess.PIPE, text=True, errors="replace", check=False
        )
        if done.returncode != 0:
            failure = f"the extra `gpu` was not installed: {done.stderr.strip() or f'pip ended with {done.returncode}'}"
            session.warn(f"{failure}\nWhat runs without it is installed instead, and the rows of the rest say why")
            return failure
        sys.stderr.write(done.stderr)
    return ""


def _read_stamp() -> tuple[str | None, str]:
    """What the shared environment was installed for, and why the GPU set failed. (None, "") if neither is known."""
    try:
        state, failure = json.loads(_STAMP.read_text())
    except (OSError, ValueError, TypeError):
        return None, ""
    return str(state), str(failure)


def _nvidia_gpu() -> str | None:
    """The driver's name for the first NVIDIA GPU, or None if none works."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)  # noqa: S607
    except (OSError, subprocess.SubprocessError):
        return None
    return next((line.partition(" (UUID")[0] for line in done.stdout.splitlines() if line.startswith("GPU ")), None)


def _pip() -> list[str]:
    return [str(_BIN / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
