"""Mutants of the kit: one small mistake each in a module that judges, and do its tests notice?

``python tests/mutation/mutate.py`` runs all mutants of all modules (an hour); with names of modules, those of them;
with ``--sample``, what the slow tests run. A survivor that ``survivors.toml`` does not list is printed as it would
stand there.

A mutant is one operator, constant, condition or call changed in the syntax tree, so comments and lines may move. It is
named by its module, its function, and the text before and after. The package and its tests are copied, the mutant is
written there, and the module's tests run in that copy, in a process of their own.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

# What tests import is imported once, before the package is: each mutant's tests run in a fork.
import hypothesis.stateful
import numpy.random
import pytest
import scipy.stats
import skimage.metrics

ROOT = Path(__file__).parents[2]
assert "robustkit" not in sys.modules, "this is a command, and no module to import beside the package"
LOADED = (hypothesis.stateful, numpy.random, scipy.stats, skimage.metrics)
#: Modules that are loaded already cannot have their assertions rewritten, and need not.
QUIET = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
LISTED = Path(__file__).with_name("survivors.toml")
#: How much of the unchanged text a mutant's name has on either side.
CONTEXT = 36
#: A mutant that never ends is noticed by its tests, too; and one that takes all memory.
SECONDS, MEMORY = 120, 8 * 2**30


class Module(NamedTuple):
    """A module whose mutants are tried.

    Attributes:
        tests: that judge it: arguments of pytest.
        sample: how many mutants the slow tests try.
    """

    tests: tuple[str, ...]
    sample: int = 8


#: The modules by their path in the package.
MODULES: Mapping[str, Module] = {
    "judging/assess.py": Module(("tests/judging/test_assess.py",), 14),
    "evalues.py": Module(("tests/test_evalues.py",), 8),
    "judging/trial.py": Module(("tests/judging/test_trial.py",), 6),
    "judging/finding.py": Module(("tests/judging/test_finding.py",), 8),
    "judging/large.py": Module(("tests/judging/test_large.py",), 6),
    "judging/effort.py": Module(("tests/judging/test_effort.py",), 8),
    "judging/silent.py": Module(("tests/judging/test_silent.py",), 4),
    "judging/search.py": Module(("tests/judging/test_searching.py",), 8),
    "judging/opinion.py": Module(("tests/judging/test_asked.py",), 8),
    "judging/subject.py": Module(("tests/judging/test_subject.py",), 4),
    "statistics.py": Module(("tests/test_statistics.py",), 14),
    "channels.py": Module(("tests/test_channels.py", "tests/test_spelling.py"), 14),
    "isolation/decoded.py": Module(("tests/isolation/test_decoded.py",), 6),
    "isolation/limits.py": Module(("tests/isolation/test_limits.py",), 6),
}


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        module: path of the module in the package.
        function: its qualified name; empty at the module's top.
        before, after: the text, with a little around it.
        source: the module with the mistake.
    """

    module: str
    function: str
    before: str
    after: str
    source: str

    @property
    def name(self) -> tuple[str, str, str, str]:
        """What ``survivors.toml`` lists it by."""
        return self.module, self.function, self.before, self.after


COMPARISONS: Mapping[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.BitAnd: ast.BitOr,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor", "minimum": "maximum"}
CALLS |= {"maximum": "minimum", "sorted": "list", "mean": "max", "abs": "int"}


def changed(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in ``node``'s place by mistake."""

    def like(**fields: object) -> ast.AST:
        made = copy.copy(node)
        for key, value in fields.items():
            setattr(made, key, value)
        return made

    match node:
        case ast.Compare(ops=[op]):
            for other in COMPARISONS[type(op)]:
                yield like(ops=[other()])
        case ast.Compare(ops=ops):
            for place, op in enumerate(ops):
                for other in COMPARISONS[type(op)]:
                    yield like(ops=[*ops[:place], other(), *ops[place + 1 :]])
        case ast.BoolOp(op=op):
            yield like(op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            yield like(op=OPERATORS[type(op)]())
        case ast.Constant(value=bool()):
            yield like(value=not node.value)
        case ast.Constant(value=int()):
            yield like(value=node.value + 1)
        case ast.Constant(value=float()):
            yield like(value=node.value * 2 if node.value else 1.0)
        case ast.IfExp(body=body, orelse=orelse):
            yield like(body=orelse, orelse=body)
        case ast.If(test=ast.Compare(ops=[_]) | ast.UnaryOp()):
            pass  # its test is turned itself
        case ast.If(test=test) | ast.While(test=test):
            yield like(test=ast.UnaryOp(ast.Not(), test))
        case ast.comprehension(ifs=[_, *_]):
            yield like(ifs=[])
        case ast.Call(func=ast.Name(id=name)) if name in CALLS:
            yield like(func=ast.Name(CALLS[name], ast.Load()))
        case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in CALLS:
            yield like(func=ast.Attribute(value, CALLS[name], ast.Load()))
        case ast.AugAssign() | ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield like(value=ast.Constant(None))


def mutants(module: str) -> list[Mutant]:
    """All mutants of a module, in an order that depends on each one's name alone."""
    tree = ast.parse((ROOT / "robustkit" / module).read_text(encoding="utf-8"))
    sound = ast.unparse(tree)
    found = []
    for parent, field, place, functions in _places(tree, ()):
        old = getattr(parent, field) if place is None else getattr(parent, field)[place]
        for new in changed(old):
            _put(parent, field, place, new)
            source = ast.unparse(ast.fix_missing_locations(tree))
            _put(parent, field, place, old)
            if source != sound:
                found.append(Mutant(module, ".".join(functions), *_difference(sound, source), source))
    return sorted(found, key=lambda m: hashlib.sha256(repr(m.name).encode()).digest())


def _put(parent: ast.AST, field: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[place] = node


def _places(node: ast.AST, functions: tuple[str, ...]) -> Iterator[tuple[ast.AST, str, int | None, tuple[str, ...]]]:
    """Each place of the tree that may be changed, with the names of the functions and classes around it."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        functions = (*functions, node.name)
    for field, value in ast.iter_fields(node):
        # Annotations and decorators judge nothing, and the parts of an f-string are words.
        if field in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr):
            continue
        many = isinstance(value, list)
        for place, child in enumerate(value if many else [value]):
            if isinstance(child, ast.AST):
                yield node, field, place if many else None, functions
                yield from _places(child, functions)


def _difference(sound: str, source: str) -> tuple[str, str]:
    """The text before and after, with some of the same line around it."""
    start = _alike(sound, source)
    same = _alike(sound[start:][::-1], source[start:][::-1])
    first = max(start - CONTEXT, sound.rfind("\n", 0, start) + 1)

    def shown(text: str) -> str:
        stop = len(text) - same
        line = text.find("\n", stop)
        return " ".join(text[first : min(stop + CONTEXT, line if line >= 0 else len(text))].split())

    return shown(sound), shown(source)


def _alike(one: str, two: str) -> int:
    """How many characters two texts begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


class Copy:
    """The package and its tests in a folder of their own, where a module may be another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

        def take(source: str, target: str) -> None:
            # Weights and golden files are large and are never written.
            if source.endswith((".py", ".toml")):
                shutil.copyfile(source, target)
            else:
                os.symlink(source, target)

        for name in ("robustkit", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, copy_function=take, ignore=ignored)
        for name in ("pyproject.toml", "conftest.py"):
            take(str(ROOT / name), str(folder / name))

    def check(self, module: str) -> None:
        """Make sure that the module's tests pass without a mistake, or every mutant would seem to be noticed.

        Raises:
            AssertionError: they don't.
        """
        said = self.says(module, ast.unparse(ast.parse((self.folder / "robustkit" / module).read_text("utf-8"))))
        assert said is None, f"the tests of {module} fail as it is: {said}"

    def says(self, module: str, source: str) -> str | None:
        """What the module's tests say of ``source`` in its place, in a line; ``None`` if they all pass."""
        path = self.folder / "robustkit" / module
        sound = path.read_text(encoding="utf-8")
        path.write_text(source, encoding="utf-8")
        try:
            return self._run(MODULES[module].tests)
        finally:
            path.write_text(sound, encoding="utf-8")

    def _run(self, tests: tuple[str, ...]) -> str | None:
        with tempfile.TemporaryFile() as out:
            child = os.fork()
            if not child:
                self._be_pytest(tests, out.fileno())
            status = _wait(child)
            out.seek(0)
            lines = out.read().decode(errors="replace").splitlines() or ["nothing"]
        if status is None:
            return f"no end after {SECONDS} s"
        if status == 0:
            return None
        return next((line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1])

    def _be_pytest(self, tests: tuple[str, ...], out: int) -> NoReturn:
        """In the child, run the tests as a command would, and end."""
        status = 70
        try:
            os.setsid()
            for descriptor in (1, 2):
                os.dup2(out, descriptor)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            for name in [k for k in os.environ if k.startswith(("PYTEST_", "COV_", "HYPOTHESIS_"))]:
                del os.environ[name]
            os.environ |= {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
            os.chdir(self.folder)
            sys.dont_write_bytecode = True
            sys.path.insert(0, str(self.folder))
            options = ("-x", "-q", "--no-header", "--hypothesis-seed=0", "-p", "no:cacheprovider", *QUIET)
            status = int(pytest.main([*options, *tests]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


def _wait(child: int) -> int | None:
    """The exit status of a child, which leads a session; ``None`` if it had to be ended."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def listed() -> dict[tuple[str, str, str, str], str]:
    """The survivors that are known, and why each may live."""
    entries = tomllib.loads(LISTED.read_text(encoding="utf-8")).get("survivor", [])
    return {(e["module"], e["function"], e["before"], e["after"]): e["reason"] for e in entries}


def entry(mutant: Mutant) -> str:
    """A survivor as the file lists it."""
    lines = [f"{key} = '''{value}'''" for key, value in zip(KEYS, mutant.name, strict=True)]
    return "\n".join(["[[survivor]]", *lines, 'reason = ""'])


KEYS = ("module", "function", "before", "after")


def main() -> int:
    """Run mutants by hand; the exit status is 1 if one survived that is not listed."""
    parser = argparse.ArgumentParser(description="Run mutants of the kit against its tests.")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(MODULES)}; all by default")
    parser.add_argument("--sample", action="store_true", help="only those that the slow tests run")
    parser.add_argument("--list", action="store_true", help="print the mutants, and run none")
    given = parser.parse_args()
    unknown = [name for name in given.modules if name not in MODULES]
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join(MODULES)}")
    known, survived = listed(), 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        here = Copy(Path(folder))
        for module in given.modules or MODULES:
            found = mutants(module)
            found = found[: MODULES[module].sample] if given.sample else found
            if given.list:
                print(*(f"{m.module} {m.function}: {m.before}  ->  {m.after}" for m in found), sep="\n")
                continue
            here.check(module)
            alive = 0
            for mutant in found:
                said = here.says(module, mutant.source)
                if said is None:
                    alive += 1
                    if mutant.name not in known:
                        survived += 1
                        print(f"{entry(mutant)}\n", flush=True)
            print(f"# {module}: {len(found)} mutants, {alive} survived", flush=True)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
