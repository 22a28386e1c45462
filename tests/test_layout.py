"""Repository layout: what README and docs name exists, packages have docstrings, and the field's words are used."""

import ast
import io
import re
import subprocess
import sys
import tokenize
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("schemas", "detclipv2", "pipelines", "ray_jobs")
PACKAGES = (*PRODUCT, "benchmarks")
DOCUMENTS = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
PATH = r"(?<![\w/.])(?:benchmarks|detclipv2|docs|infra|pipelines|ray_jobs|schemas|tests)/"
# Words that were metaphors here, and the field's words for them: asset graph or pipeline, MLflow, fix, politeness, expensive,
# estimate.
UNWANTED = re.compile(r"\b(street|books|mend(?:s|ed|ing)?|manners|dearest|reckon(?:s|ed|ing)?)\b", re.IGNORECASE)
COUNTED = re.compile(r"\bstreet \d+")  # noun phrases of captions with their numbers
MAX_LINES_WITH_PICTURES = 120


def tracked(*patterns: str) -> list[str]:
    """Files that git tracks and that are there."""
    command = ["git", "ls-files", *patterns]
    names = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


def texts() -> dict[str, str]:
    """Code and documents; not the works of others, and not this file, which names the words."""
    names = tracked("*.py", "*.md", "*.jinja", "*.toml", "*.yaml", "*.yml", "*.cff", "Makefile", "NOTICE", "infra")
    own = [name for name in names if name != "tests/test_layout.py" and not name.startswith("tests/infra/schemas/")]
    return {name: (ROOT / name).read_text() for name in own}


def test_the_wheel_holds_the_model_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in tracked():
        if not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    built = subprocess.run(command, text=True, capture_output=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"detclipv2", "detclipv2-0.1.0.dist-info"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\((?!http)([^)]+)\)", path.read_text())
    bad = []
    for link in links:
        name, _, anchor = link.partition("#")
        target = (path.parent / name) if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            bad.append(link)
    assert bad == []


def anchors(document: Path) -> set[str]:
    """Headings as GitHub makes links of them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_modules_and_commands_that_a_document_names_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    files = re.findall(rf"{PATH}[\w./-]*?(?:\.py|\.md|/(?=`))", text)
    files += re.findall(r"python (\S+\.py)", text)
    names = re.findall(r"`((?:benchmarks|detclipv2|pipelines|ray_jobs|schemas)\.[\w.]+)`", text)
    names += re.findall(r"-m ((?:benchmarks|detclipv2|pipelines|ray_jobs|schemas)\.[\w.]+)", text)
    targets = re.findall(r"`make ([\w-]+)|^make ([\w-]+)", text, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert [name for name in files if not (ROOT / name).exists()] == []
    assert [name for name in names if not is_module_or_member(name)] == []
    assert [name for pair in targets for name in pair if name and f"\n{name}:" not in makefile] == []


def test_documents_name_files_modules_and_commands() -> None:
    text = "".join((ROOT / document).read_text() for document in DOCUMENTS)
    assert len(re.findall(rf"{PATH}[\w./-]*?\.py", text)) > 20
    assert len(re.findall(r"python -m benchmarks\.\w+", text)) > 5


def is_module_or_member(name: str) -> bool:
    """Whether a dotted name is a module or package here, or a name defined in one."""
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file() or defines(path.parent.with_suffix(".py"), path.name)


def defines(path: Path, name: str) -> bool:
    """Whether a file has a function, class or constant."""
    return path.is_file() and bool(
        re.search(rf"^\s*(?:def|class) {name}\b|^{name}\b.* = ", path.read_text(), re.MULTILINE)
    )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_functions_and_tests_that_a_document_names_are_defined(document: str) -> None:
    text = (ROOT / document).read_text()
    functions = re.findall(r"`([\w/]+\.py):([\w.]+)`", text)
    tests = "".join((ROOT / name).read_text() for name in tracked("tests/*.py"))
    bad = [
        f"{path}:{names}" for path, names in functions for name in names.split(".") if not defines(ROOT / path, name)
    ]
    assert bad == []
    assert [name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in tests] == []
    assert functions or document != "docs/architecture.md"


def test_modules_and_packages_have_docstrings() -> None:
    names = [name for name in tracked("*.py") if name.startswith(tuple(f"{package}/" for package in PACKAGES))]
    assert len(names) > 100
    assert [name for name in names if not ast.get_docstring(ast.parse((ROOT / name).read_text()))] == []


def test_one_module_opens_image_files() -> None:
    """Others would read formats that run programs, and 16-bit or transparent images in another way."""
    names = [name for name in tracked("*.py") if name.startswith(tuple(f"{package}/" for package in PRODUCT))]
    opening = re.compile(r"\bImage\.open\(|\bImage import .*\bopen\b|\b(?:exif_transpose|imread)\(")
    assert [name for name in names if opening.search((ROOT / name).read_text())] == ["detclipv2/image_decoding.py"]


def test_pipelines_has_few_folders_each_with_one_line_of_docstring() -> None:
    files = tracked("pipelines/*/__init__.py")
    folders = {Path(name).parts[1] for name in tracked("pipelines/*.py") if name.count("/") > 1}
    assert len(folders) <= 7
    docstrings = {
        name: ast.get_docstring(ast.parse((ROOT / name).read_text())) for name in files if name.count("/") == 2
    }
    assert len(docstrings) == len(folders)
    assert [name for name, text in docstrings.items() if not text or "\n" in text] == []


def test_the_words_are_those_of_the_field() -> None:
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts().items()
        for number, line in enumerate(text.splitlines(), start=1)
        if UNWANTED.search(_words(COUNTED.sub("", line)))
    ]
    assert found == []


def _words(line: str) -> str:
    """A line with the words of its identifiers apart."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", line.replace("_", " "))


def test_nothing_is_named_hold() -> None:
    found = [
        f"{name}:{token.start[0]}: {token.line.strip()}"
        for name, text in texts().items()
        if name.endswith(".py")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.NAME and token.string.strip("_").lower() == "hold"
    ]
    assert found == []


def test_an_image_is_no_picture() -> None:
    lines = [line for text in texts().values() for line in text.splitlines()]
    assert sum(bool(re.search(r"\bpictures?\b", line, re.IGNORECASE)) for line in lines) < MAX_LINES_WITH_PICTURES


def test_lock_pins_hashes_and_names_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(pinned) > 200
    assert all(re.match(r"[a-z0-9._-]+(\[[a-z0-9,_-]+\])?==", line) for line in pinned)
    assert "://" not in lock


@pytest.mark.parametrize("package", ["ray", "torch", "img2dataset"])
def test_lock_and_environment_agree(package: str) -> None:
    from importlib.metadata import version

    lock = (ROOT / "requirements.lock").read_text()
    pinned = re.search(rf"^{package}(?:\[.*\])?==(\S+)", lock, re.MULTILINE)
    assert pinned is not None
    assert version(package).split("+")[0] == pinned[1]
