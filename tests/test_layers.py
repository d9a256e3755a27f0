"""The shape of the source: imports point one way, one backward(), small files, a docstring each."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "abra_wilds"
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted([*(ROOT / "leaderboard").rglob("*.py"), *(ROOT / "examples").rglob("*.py")])
# From left to right; a module imports from its own layer or from those to its left.
LAYERS = [
    {"errors", "terminal", "pools", "types", "dist", "config", "results", "compat"},
    {"functional"},
    {"nets", "data"},
    {"methods", "tta"},
    {"engine"},
    {"recipes"},
    {"analysis", "harness", "board", "fetch", "simulate"},
    {"commands"},
    {"__main__"},
]


def part_of(path):
    """The first name below the package: a module or a folder."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """{dotted name: lines} of everything a file imports, also inside functions."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            found.setdefault(name, []).append(node.lineno)
    return found


def layer(part):
    """The number of a part's layer."""
    return next(i for i, parts in enumerate(LAYERS) if part in parts)


def own_imports(path):
    """(part, line) of every import from the package itself."""
    for name, lines in imported(path).items():
        parts = name.split(".")
        if parts[0] == "abra_wilds" and len(parts) > 1:
            yield from ((parts[1], line) for line in lines)


def calls(path, name):
    """Lines that call a method or a function of this name."""
    for node in ast.walk(ast.parse(path.read_text())):
        called = node.func if isinstance(node, ast.Call) else None
        if name in (getattr(called, "attr", None), getattr(called, "id", None)):
            yield node.lineno


def where(found):
    """file:line of each."""
    return [f"{path.relative_to(PACKAGE.parent)}:{line}" for path, line in found]


def test_every_part_of_the_package_has_a_layer():
    assert {part_of(path) for path in MODULES} - {"__init__"} <= set().union(*LAYERS)


def test_imports_point_one_way():
    found = ((p, *own) for p in MODULES if part_of(p) != "__init__" for own in own_imports(p))
    assert where((p, line) for p, part, line in found if layer(part) > layer(part_of(p))) == []


def test_scripts_are_used_by_nothing_in_the_package():
    names = {path.stem for path in SCRIPTS} | {"leaderboard", "examples"}
    own = {"figures", "report", "tables", "sweep", "bundle", "verify"}  # jobs of the same names
    found = ((p, n.split(".")[0], lines[0]) for p in MODULES for n, lines in imported(p).items())
    assert where((path, line) for path, name, line in found if name in names - own) == []


def test_no_module_imports_another_in_a_circle():
    """Nor for types alone; imports inside functions wait until they are called."""
    known = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
    needs = {}
    for name, path in known.items():
        tree = ast.parse(path.read_text())
        found = set()
        heads = [n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef)]
        for node in (inner for n in heads for inner in ast.walk(n)):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    found |= {f"{node.module}.{alias.name}", node.module} & known.keys()
        needs[name] = found - {name}
    seen = {}

    def visit(name, trail):
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in seen:
            for other in needs[name]:
                visit(other, [*trail, name])
            seen[name] = True

    for name in known:
        visit(name, [])


def test_folders_are_small_enough_to_see_through():
    folders = [ROOT / "leaderboard", *(p for p in (ROOT / "examples").rglob("*") if p.is_dir())]
    folders += [PACKAGE, *(p for p in PACKAGE.rglob("*") if p.is_dir())]
    files = {f: [p for p in f.iterdir() if p.is_file()] for f in folders if f.name != "__pycache__"}
    assert [(f.name, len(inside)) for f, inside in files.items() if len(inside) > 15] == []
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_a_third_file_of_a_family_of_names_is_a_folder():
    """No x_y.py and x_z.py beside x.py."""
    families = []
    for path in MODULES:
        beside = {p.stem for p in path.parent.glob("*.py")}
        ours = [name for name in beside if name.startswith(f"{path.stem}_")]
        families += [f"{path.stem}: {sorted(ours)}"] if len(ours) > 1 else []
    assert families == []


def test_half_of_the_modules_have_at_most_120_lines():
    lengths = sorted(len(p.read_text().splitlines()) for p in [*MODULES, *SCRIPTS])
    assert lengths[len(lengths) // 2] <= 120


def test_importing_the_package_imports_nothing_of_it():
    assert list(own_imports(PACKAGE / "__init__.py")) == []


def test_methods_know_neither_data_nor_engine_nor_harness():
    methods = [path for path in MODULES if part_of(path) == "methods"]
    assert len(methods) > 5
    banned = {"data", "engine", "harness", "results", "recipes", "commands"}
    assert where((p, line) for p in methods for part, line in own_imports(p) if part in banned) == []


def test_records_need_the_standard_library_and_two_torch_free_modules_alone():
    roots = {name.split(".")[0] for name in imported(PACKAGE / "results" / "records.py")}
    assert roots - {"abra_wilds"} <= sys.stdlib_module_names
    assert {part for part, _ in own_imports(PACKAGE / "results" / "records.py")} <= {"errors", "results"}


def test_functions_of_tensors_see_no_configuration():
    functional = [path for path in MODULES if part_of(path) == "functional"]
    allowed = {"types", "functional"}
    assert where((p, line) for p in functional for part, line in own_imports(p) if part not in allowed) == []


def test_one_place_differentiates_the_training_loss():
    found = [path.relative_to(PACKAGE).as_posix() for path in MODULES for _ in calls(path, "backward")]
    assert found == ["engine/step.py"]


@pytest.mark.parametrize("name", ["cuda", "print", "step", "backward", "DataLoader", "manual_seed", "write"])
def test_methods_do_mathematics_alone(name):
    methods = [p for p in MODULES if part_of(p) == "methods"]
    assert where((p, line) for p in methods for line in calls(p, name)) == []
    assert not any("torch.optim" in p.read_text() for p in methods)


def test_methods_change_types_but_never_devices():
    for path in (p for p in MODULES if part_of(p) == "methods"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "to":
                assert "dtype" in ast.unparse(node.args[0]), f"{path}:{node.lineno}"


def test_nothing_draws_from_the_global_generators_of_numpy_and_python():
    """numpy.random only by generators that were given a seed; the random module not at all."""
    seeded = {"default_rng", "Generator", "SeedSequence"}
    found = ((p, n.split(".")[0], lines[0]) for p in MODULES for n, lines in imported(p).items())
    wrong = [(path, line) for path, name, line in found if name == "random"]
    for path in MODULES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("np.random", "numpy.random"):
                wrong += [] if node.attr in seeded else [(path, node.lineno)]
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("random.default_rng"):
                wrong += [] if node.args else [(path, node.lineno)]
    assert where(wrong) == []


def test_truncated_images_are_never_asked_for():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and any("LOAD_TRUNCATED" in ast.unparse(t) for t in node.targets):
                assert ast.unparse(node.value) == "False", f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_module_is_short_documented_and_raises_instead_of_asserting(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 400
    if tree.body:
        assert ast.get_docstring(tree)
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)] == []


def test_a_function_is_at_most_forty_lines_unless_it_is_the_loop():
    """Docstrings not counted; train() of engine/fit.py may be long and flat (CONTRIBUTING.md)."""
    long = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name != "train":
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                if node.end_lineno - body[0].lineno + 1 > 40:
                    long.append((path, node.lineno))
    assert where(long) == []


def test_tests_are_short_enough_to_read():
    """CONTRIBUTING: no file over 300 lines without a sentence saying why."""
    texts = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    long = [name for name, text in texts.items() if len(text.splitlines()) > 300]
    assert [n for n in long if "300 lines" not in (ast.get_docstring(ast.parse(texts[n])) or "")] == []
