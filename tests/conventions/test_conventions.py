"""What the house holds itself to: file length, names, import origin, a light and frozen command line."""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cluster", "models", "pipelines", "serve")
CODE = sorted([ROOT / "stope.py", *(file for name in PACKAGES for file in (ROOT / name).rglob("*.py"))])
COMMANDS = """
stope artifacts gc
stope artifacts ls
stope artifacts show
stope compare
stope cost
stope data export
stope data import
stope data show
stope demo
stope doctor
stope encode
stope evaluate
stope index
stope merge
stope mine run
stope mine sweep
stope release create
stope release ls
stope report
stope run
stope runs ls
stope runs show
stope serve key
stope serve run
stope train
"""


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", CODE, ids=relative)
def test_a_file_holds_one_idea(file):
    assert len(file.read_text().splitlines()) <= 300


def test_names_say_something():
    empty = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager"}
    assert not [relative(file) for file in CODE if file.stem in empty]


@pytest.mark.parametrize("file", [file for file in CODE if file.name == "__init__.py"], ids=relative)
def test_init_holds_a_docstring_only(file):
    if file.parent.name == "losses":
        return  # the LOSSES dict
    assert re.fullmatch(r'"""[^"]+"""\n', file.read_text())


@pytest.mark.parametrize("file", CODE, ids=relative)
def test_comments_are_ascii(file):
    assert file.read_text().isascii()


def test_only_the_session_starts_ray():
    callers = [relative(file) for file in CODE if re.search(r"\bray\.init\(", file.read_text())]
    assert callers == ["cluster/session.py"]


def test_the_environment_is_read_in_cluster_alone():
    readers = [file for file in CODE if re.search(r"os\.environ|os\.getenv", file.read_text())]
    # They set what a library asks the environment for, and read nothing.
    allowed = {ROOT / "models" / "tokenizer_files.py", ROOT / "models" / "vllm_engine" / "start.py"}
    assert not [relative(file) for file in readers if file.parent.name != "cluster" and file not in allowed]


@pytest.mark.parametrize("name", [*PACKAGES, "stope"])
def test_first_party_names_are_ours(name):
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    assert Path(spec.origin).resolve().is_relative_to(ROOT)
    owners = importlib.metadata.packages_distributions().get(name, [])
    assert set(owners) <= {"stope"}


def test_the_project_speaks_of_itself_alone():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        text = (ROOT / name).read_text(errors="replace")
        assert not re.search(r"/(root|home|farm)/\w", text), name


@pytest.mark.parametrize("name", ["gpu_mining", "gpu_inference", "gpu_training"])
def test_gpu_benches_need_torch_and_transformers_alone(name):
    absent = ("ray", "deepspeed", "pydantic", "faiss", "sentence_transformers")
    hidden = "".join(f"sys.modules[{module!r}] = None; " for module in absent)
    code = f"import sys; {hidden}import tests.bench.{name}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-600:]


def walk(prefix, group):
    for name, command in sorted(group.commands.items()):
        yield from walk(f"{prefix} {name}", command) if hasattr(command, "commands") else [f"{prefix} {name}"]


def test_the_command_line_is_frozen():
    import typer.main

    import stope

    assert "\n".join(walk("stope", typer.main.get_command(stope.app))) == COMMANDS.strip()


def test_every_command_has_an_example():
    import typer.main

    import stope

    def leaves(group, prefix):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from leaves(command, f"{prefix} {name}")
            else:
                yield f"{prefix} {name}", command.help or ""

    missing = [
        n for n, text in leaves(typer.main.get_command(stope.app), "stope") if f"Example: {n}" not in text
    ]
    assert not missing


def test_help_imports_nothing_heavy():
    heavy = ("torch", "ray", "transformers", "pyarrow", "numpy")
    code = f"import sys, stope; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
