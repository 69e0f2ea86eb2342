"""What a machine can check of the house's rules; each rule is a function over source text, shown to be able to fail."""

import ast
import re
import resource
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import pytest

from dicomnode.imaging import Finding
from dicomnode.ledger import OrderState, Rung, SeriesState
from dicomnode.receive.dimse import Status
from dicomnode.receive.services import STORAGE_CLASSES, STORAGE_COMMITMENT, STORAGE_SYNTAXES, VERIFICATION

REPOSITORY = Path(__file__).parents[1]
MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8
HEAVY = ("torch", "monai", "SimpleITK", "highdicom", "scipy")

Rule = Callable[[ast.Module], Iterator[str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(folder: str) -> list[str]:
    return sorted(p.relative_to(REPOSITORY).as_posix() for p in (REPOSITORY / folder).rglob("*.py"))


PRODUCT, TESTS = sources("dicomnode"), sources("tests")


def read(path: str) -> str:
    return (REPOSITORY / path).read_text(encoding="utf-8")


def violations(rule: Rule, source: str) -> list[str]:
    return list(rule(ast.parse(source)))


def violations_in(rule: Rule, paths: Sequence[str]) -> list[str]:
    texts = {path: read(path) for path in paths}
    return [f"{path}:{violation}" for path, text in texts.items() for violation in violations(rule, text)]


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the name of what is called, such as `torch.load`."""
    return ((ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def long_functions(tree: ast.Module) -> Iterator[str]:
    for function in functions(tree):
        lines = (function.end_lineno or 0) - function.lineno + 1
        if lines > MAX_FUNCTION_LINES:
            yield f"{function.lineno} {function.name}: expected at most {MAX_FUNCTION_LINES} lines, found {lines}"


def many_parameters(tree: ast.Module) -> Iterator[str]:
    for function in functions(tree):
        if any("command" in ast.unparse(decorator) for decorator in function.decorator_list):
            continue  # the options of a command of the command line
        named = function.args
        count = len([*named.posonlyargs, *named.args, *named.kwonlyargs])
        if count > MAX_PARAMETERS:
            yield f"{function.lineno} {function.name}: expected at most {MAX_PARAMETERS} parameters, found {count}"


def missing_docstring(tree: ast.Module) -> Iterator[str]:
    if tree.body and not ast.get_docstring(tree):
        yield "1 expected a docstring that says what the module is for"


def broad_excepts(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and not passes_on(node):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {ast.unparse(kind) if kind else "everything" for kind in caught}
            if names & {"everything", "Exception", "BaseException", "builtins.Exception"}:
                yield f"{node.lineno} catches {', '.join(sorted(names))}: name the library's errors and translate them"


def passes_on(handler: ast.ExceptHandler) -> bool:
    """It only cleans up: the failure goes on as it came."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def prints(tree: ast.Module) -> Iterator[str]:
    for name, node in calls(tree):
        if name == "print":
            yield f"{node.lineno} prints: only the command line speaks to a terminal"


def machine_paths(tree: ast.Module) -> Iterator[str]:
    pattern = re.compile(r"(/(home|root|work|tmp|Users|mnt|opt|srv)(/|$)|[A-Za-z]:\\)")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and pattern.match(node.value):
            yield f"{node.lineno} {node.value!r} is a path of one machine"


def dangerous_calls(tree: ast.Module) -> Iterator[str]:
    banned = {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
    for name, node in calls(tree):
        if name in banned or name.partition(".")[0] in {"pickle", "marshal", "shelve", "dill", "joblib"}:
            yield f"{node.lineno} calls {name}: what comes from outside is data, never code"
        if danger := dangerous_argument(name, node):
            yield f"{node.lineno} calls {name} {danger}"


def dangerous_argument(name: str, call: ast.Call) -> str:
    arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name == "torch.load" and arguments.get("weights_only") != "True":
        return "without weights_only=True"
    if arguments.get("allow_pickle", "False") != "False":
        return "with allow_pickle"
    return "with shell" if arguments.get("shell", "False") != "False" else ""


def silent_tests(tree: ast.Module) -> Iterator[str]:
    asserting = {f.name for f in functions(tree) if asserts_itself(f)}
    for function in functions(tree):
        if function.name.startswith("test_") and function.name not in asserting:
            called = {name.rpartition(".")[2] for name, _ in calls(function)}
            if not called & asserting:
                yield f"{function.lineno} {function.name} asserts nothing"


def asserts_itself(function: Function) -> bool:
    asserts = any(isinstance(node, ast.Assert) for node in ast.walk(function))
    return asserts or any(re.search(r"(raises|pytest\.fail|\bassert_\w+)$", name) for name, _ in calls(function))


def mocks(tree: ast.Module) -> Iterator[str]:
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)):
        imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if any(name.split(".")[:2] == ["unittest", "mock"] or name == "mock" for name in imported):
            yield f"{node.lineno} imports a mock: use the real thing or a fake that passes its contract"


def sleeps_outside_loops(tree: ast.Module) -> Iterator[str]:
    in_loops = {id(node) for loop in ast.walk(tree) if isinstance(loop, ast.While | ast.For) for node in ast.walk(loop)}
    for name, node in calls(tree):
        if name in {"time.sleep", "sleep"} and id(node) not in in_loops:
            yield f"{node.lineno} sleeps and hopes: poll for the outcome with a deadline"


@pytest.mark.parametrize("rule", [long_functions, many_parameters, dangerous_calls])
def test_the_product_keeps_the_rule(rule: Rule):
    assert violations_in(rule, PRODUCT) == []


@pytest.mark.parametrize("rule", [silent_tests, mocks, sleeps_outside_loops])
def test_the_tests_keep_the_rule(rule: Rule):
    assert violations_in(rule, TESTS) == []


@pytest.mark.parametrize("rule", [missing_docstring, machine_paths])
def test_product_and_tests_keep_the_rule(rule: Rule):
    assert violations_in(rule, PRODUCT + TESTS) == []


def test_a_module_fits_in_the_head():
    lengths = {path: len(read(path).splitlines()) for path in PRODUCT + TESTS}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_MODULE_LINES} == {}


DECIDES_ABOUT_EVERY_FAILURE = {
    "dicomnode/pipeline.py": 3,  # the workflows: a series is parked, postponed, or done
    "dicomnode/receive/events.py": 1,  # the C-STORE handler: whatever fails behind it, the listener goes on
    "dicomnode/assembly/decode_worker.py": 1,  # a process of its own that exists to find out what a codec does
}


def test_only_the_named_places_decide_about_every_failure():
    found = {path: violations_in(broad_excepts, [path]) for path in PRODUCT}
    assert [v for path, v in found.items() if len(v) > DECIDES_ABOUT_EVERY_FAILURE.get(path, 0)] == []


def test_only_a_command_line_prints():
    silent = [
        path for path in PRODUCT if not path.startswith("dicomnode/cli/") and not path.startswith("dicomnode/training/")
    ]
    assert violations_in(prints, silent) == []


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (long_functions, "def f():\n" + "    x = 1\n" * 60, "def f():\n" + "    x = 1\n" * 59),
        (many_parameters, "def f(a, b, c, d, e, f, g, h, *, i): ...", "def f(a, b, c, d, e, f, g, h): ..."),
        (missing_docstring, "import os", '"""What for."""\nimport os'),
        (broad_excepts, "try: f()\nexcept Exception: pass", "try: f()\nexcept OSError: pass"),
        (broad_excepts, "try: f()\nexcept: pass", "try: f()\nexcept (OSError, ValueError): pass"),
        (broad_excepts, "try: f()\nexcept (OSError, BaseException): pass", "try: f()\nfinally: pass"),
        (broad_excepts, "try: f()\nexcept Exception: raise Other from None", "try: f()\nexcept Exception:\n    raise"),
        (prints, "print('hello')", "console.print('hello')"),
        (machine_paths, "p = '/home/me/data'", "p = 'data'"),
        (machine_paths, "p = '/tmp'", "p = 'tmp/x'"),
        (dangerous_calls, "eval('1')", "ast.literal_eval('1')"),
        (dangerous_calls, "pickle.loads(b'')", "json.loads('')"),
        (dangerous_calls, "torch.load(path)", "torch.load(path, weights_only=True)"),
        (dangerous_calls, "np.load(path, allow_pickle=True)", "np.load(path, allow_pickle=False)"),
        (dangerous_calls, "subprocess.run('ls', shell=True)", "subprocess.run(['ls'])"),
        (silent_tests, "def test_x():\n    f()", "def test_x():\n    assert f()"),
        (
            silent_tests,
            "def test_x():\n    check()",
            "def check():\n    assert 1\ndef test_x():\n    check()",
        ),
        (silent_tests, "def test_x(): ...", "def test_x():\n    with pytest.raises(OSError): f()"),
        (mocks, "from unittest.mock import Mock", "from unittest import TestCase"),
        (mocks, "import unittest.mock", "import unittest"),
        (sleeps_outside_loops, "time.sleep(1)", "while not done():\n    time.sleep(0.01)"),
    ],
)
def test_a_rule_finds_what_breaks_it_and_nothing_else(rule: Rule, bad: str, good: str):
    assert len(violations(rule, bad)) == 1
    assert violations(rule, good) == []


def loaded_by(statement: str) -> set[str]:
    """The heavy libraries that a fresh interpreter has loaded after a statement."""
    program = f"import sys; {statement}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True
    )
    return set(result.stdout.splitlines()[-1].split())


def test_a_heavy_library_that_is_loaded_is_noticed():
    assert "scipy" in loaded_by("import scipy")


def test_the_listener_loads_no_library_for_voxels():
    assert loaded_by("import dicomnode.listening") == set()


def test_the_deliverer_and_what_people_ask_a_node_load_no_library_for_voxels():
    assert loaded_by("import dicomnode.steps.delivering, dicomnode.inquiries, dicomnode.supervisor") == set()


def test_the_command_line_answers_without_loading_what_computes():
    assert loaded_by("import dicomnode.cli") == set()


def test_help_costs_less_than_three_seconds_of_processor_time():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "dicomnode", "--help"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (result.returncode, "serve" in result.stdout) == (0, True)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 3.0


def test_the_plan_of_the_house_names_every_room():
    plan = read("docs/architecture.md")
    entries = (REPOSITORY / "dicomnode").iterdir()
    rooms = {f"{p.name}/" for p in entries if (p / "__init__.py").exists()}
    rooms |= {p.name for p in (REPOSITORY / "dicomnode").glob("*.py") if not p.name.startswith("__")}
    assert sorted(room for room in rooms if room not in plan) == []


def dead_links(page: str, text: str) -> list[str]:
    targets = [t.partition("#")[0] for t in re.findall(r"\]\(([^)]+)\)", text) if not re.match(r"\w+:", t)]
    folder = (REPOSITORY / page).parent
    return [f"{page}: {target}" for target in targets if target and not (folder / target).exists()]


def test_every_link_in_the_documents_leads_somewhere():
    pages = ["README.md", *(p.relative_to(REPOSITORY).as_posix() for p in (REPOSITORY / "docs").glob("*.md"))]
    assert len(pages) >= 5
    assert [link for page in pages for link in dead_links(page, read(page))] == []


def test_a_dead_link_is_noticed():
    assert dead_links("docs/x.md", "[a](nowhere.md) [b](../README.md#top) [c](https://example.org)") == [
        "docs/x.md: nowhere.md"
    ]


def test_the_conformance_statement_names_every_service_and_transfer_syntax_that_is_accepted():
    statement = read("docs/conformance.md")
    accepted = STORAGE_CLASSES | set(STORAGE_SYNTAXES) | {VERIFICATION, STORAGE_COMMITMENT}
    assert sorted(uid for uid in accepted if f"| {uid} |" not in statement) == []


def test_the_conformance_statement_names_every_status_that_is_answered():
    statement = read("docs/conformance.md")
    code = "".join(read(path) for path in PRODUCT)
    answered = [status for status in Status if f"Status.{status.name}" in code]
    assert Status.SUCCESS in answered
    assert [status.name for status in answered if f"0x{status:04X}" not in statement] == []


def test_the_operator_is_told_about_every_finding_state_and_rung():
    page = read("docs/operate.md")
    assert [finding for finding in Finding if f"`{finding}`" not in page] == []
    words = [*SeriesState, *OrderState, *(rung.name.lower() for rung in Rung)]
    assert [word for word in words if f"\n| {word} |" not in page] == []


def test_the_readme_names_every_command():
    usage = subprocess.run(
        [sys.executable, "-m", "dicomnode", "--help"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    commands = set(re.findall(r"^│ ([a-z]+) ", usage.stdout, re.MULTILINE))
    assert {"serve", "segment", "demo"} <= commands
    assert [name for name in sorted(commands) if f"`{name}" not in read("README.md")] == []


def test_every_package_that_may_be_installed_is_pinned():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = {re.split(r"[\[<>= ]", requirement)[0].lower() for requirement in wanted} - {"dicomnode"}
    pinned = {name.lower() for name in re.findall(r"^(\S+)==", read("constraints.txt"), re.MULTILINE)}
    assert {"torch", "setuptools"} <= pinned
    assert names - pinned == set()
