"""By syntax tree: nothing loads code from a file, asks a shell, or writes HTML unescaped.

A call is found by its last name, whatever the module is called here; ALLOWED are the places that may.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(p for name in ("abra_wilds", "leaderboard", "examples") for p in (ROOT / name).rglob("*.py"))
ALLOWED = {
    # Bytes that the process itself made, handed to its own workers, which the pool pickles anyway.
    ("abra_wilds/pools.py", "pickle.loads(pickled)"),
}
# What loads objects by running what a file says.
UNPICKLING = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
UNSAFE_YAML = {"load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"}


def keyword(call, name):
    """A keyword's value as source, or None."""
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


def fault_of(call):
    """What is wrong with a call, or None."""
    name = ast.unparse(call.func)
    module, _, last = name.rpartition(".")
    torch_load = name == "torch.load" and keyword(call, "weights_only") != "True"
    checks = {
        "unpickles": (module in UNPICKLING and last in ("load", "loads", "Unpickler", "open"))
        or last in ("read_pickle", "Unpickler")
        or torch_load
        or keyword(call, "allow_pickle") not in (None, "False"),
        "asks a shell": name in SHELLS or keyword(call, "shell") not in (None, "False"),
        "reads yaml with tags": module == "yaml" and last in UNSAFE_YAML,
        "writes HTML unescaped": (
            last in ("Environment", "Template")
            and "jinja2" in (module or "jinja2")
            and keyword(call, "autoescape") != "True"
        )
        or last == "Markup",
        "runs text": name in ("eval", "exec", "compile", "builtins.eval", "builtins.exec", "__import__"),
        "extracts unseen": last == "unpack_archive",
    }
    return next((what for what, wrong in checks.items() if wrong), None)


def faults(text):
    """(line, what, call) of every call that is wrong in a source."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return [(c.lineno, what, ast.unparse(c)) for c in calls if (what := fault_of(c))]


def hidden(text):
    """Names by which something forbidden would go under another: `from pickle import loads as f`."""
    banned = UNPICKLING | {"os.system", "os.popen", "yaml.load", "torch.load", "yaml.unsafe_load"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.asname and a.name in UNPICKLING | {"yaml", "os"})
        if isinstance(node, ast.ImportFrom):
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in named if name in banned or node.module in UNPICKLING)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_call_runs_what_a_file_says(path):
    name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    assert [(line, what) for line, what, call in faults(text) if (name, call) not in ALLOWED] == []
    assert list(hidden(text)) == []


def test_every_allowed_place_still_exists():
    calls = {(p.relative_to(ROOT).as_posix(), c) for p in FILES for _, _, c in faults(p.read_text())}
    assert calls >= ALLOWED


def test_the_loader_that_is_allowed_is_a_safe_one():
    import yaml

    from abra_wilds.config.files import Loader

    assert issubclass(Loader, yaml.SafeLoader)
    assert Loader.yaml_constructors == yaml.SafeLoader.yaml_constructors


@pytest.mark.parametrize(
    "bad",
    [
        "pickle.load(file)",
        "cloudpickle.loads(b)",
        "joblib.load(path)",
        "pd.read_pickle(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "os.popen(text)",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "Environment(loader=x)",
        "jinja2.Template(text)",
        "Environment(autoescape=False)",
        "Markup(text)",
        "eval(text)",
        "exec(text)",
        "shutil.unpack_archive(path)",
    ],
)
def test_each_of_these_would_be_found(bad):
    assert len(faults(bad)) == 1


@pytest.mark.parametrize(
    "good",
    [
        "net.eval()",
        "torch.compile(net)",
        "re.compile(text)",
        "pickle.dumps(x)",
        "torch.load(path, weights_only=True)",
        "np.load(path, mmap_mode='r')",
        "yaml.safe_load(text)",
        "subprocess.run([a, b])",
        "Environment(autoescape=True)",
        "json.load(file)",
    ],
)
def test_none_of_these_is_taken_for_one(good):
    assert faults(good) == []


def test_another_name_would_be_found():
    assert list(hidden("from pickle import loads as f\nimport yaml as y\nfrom torch import nn")) == [
        "pickle.loads",
        "yaml",
    ]
