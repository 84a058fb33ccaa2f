"""Breaks the autoscalers' rules in every place, one place at a time, and counts the breaks that no test sees.

    python tests/mutation/mutants.py [--only horizontal] [--list] [--verdicts FILE]

With a file of verdicts a run that was broken off goes on where it was: what was tried is known by the mutant, and by
its module and the tests as they are now.

Each mutant is one changed operator, constant, condition or statement. It runs in a fork of this process in which the
module is compiled from the changed tree, under the tests that decide over that module. A mutant that changes nothing
that can be observed is listed in EQUIVALENT with the reason; it is neither killed nor counted."""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import importlib.abc
import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "tests" / "unit"
SOURCE = ROOT / "src" / "penstock" / "control"
KILLED_MIN = 0.95
TIMEOUT_S = 20
"""Of the processor, for one mutant: its tests take three. One that takes more loops for ever and is killed by that."""
AUTOSCALE = ("test_autoscale_rules.py", "test_autoscale_differential.py")
NODES = ("test_nodes_removal.py", "test_nodes_autoscaler.py", "test_nodes_packing.py")
TESTS = {
    "autoscale/arithmetic": AUTOSCALE,
    "autoscale/interface": AUTOSCALE,
    "autoscale/pods": AUTOSCALE,
    "autoscale/replicas": AUTOSCALE,
    "autoscale/limits": AUTOSCALE,
    "autoscale/horizontal": AUTOSCALE,
    "autoscale/keda": AUTOSCALE,
    "nodes/shapes": NODES,
    "nodes/packing": NODES,
    "nodes/expanders": NODES,
    "nodes/removal": NODES,
    "nodes/autoscaler": NODES,
    "nodes/karpenter": NODES,
}
EQUIVALENT = {
    "return total // count if total >= 0 else -(-total // count) [GtE is Gt]": "zero is zero by either branch",
    "return total // count if total >= 0 else -(-total // count) [0 is 1]": "zero is zero by either branch",
    "return INT32_MAX if value > INT32_MAX else math.ceil(value) [Gt is GtE]": "the same number by either branch",
    "if total > INT64_MAX: [Gt is GtE]": "the same number by either branch",
    "return not groups.missing and not (groups.unready and change > 1.0) [Gt is GtE]": (
        "a ratio of 1 stays as it is whether it is refined or not"
    ),
    "if target.replicas == 0 and memory.scaled_to_zero and count < autoscaler.smallest: [Lt is LtE]": (
        "an equal count is the same by either branch"
    ),
    "def __init__(self, reason: str, failures: tuple[str, ...]) -> None: super().__init__(reason) [left out]": (
        "the text of an exception that never leaves its module"
    ),
    "placed = [0] * len(groups) [0 is 1]": "each is written over",
    "if not 0 <= total <= INT64_MAX: [the second LtE is Lt]": "the same number by either branch",
    "asleep = replicas == 0 or (waking.idle is not None and replicas < waking.smallest) [Lt is LtE]": (
        "an equal count is the same by either branch"
    ),
    "if floor is not None and replicas > floor: [Gt is GtE]": "an equal count is the same by either branch",
    **{
        f"turned = (change < 1.0 < refined) or (refined < 1.0 < change) [the {which} Lt is LtE]": (
            "a refined ratio of 1 is within every tolerance, and one of 1 before it is not refined"
        )
        for which in ("first", "second")
    },
    "against = (refined < 1.0 and wanted > current) or (refined > 1.0 and wanted < current) [Lt is LtE]": (
        "a refined ratio of 1 is within every tolerance; an equal count is the same by either branch"
    ),
    "against = (refined < 1.0 and wanted > current) or (refined > 1.0 and wanted < current) [Gt is GtE]": (
        "a refined ratio of 1 is within every tolerance; an equal count is the same by either branch"
    ),
    "if not taken: break [Break is Continue]": "no node is added while the last one is empty, which ends it as well",
    "if not self._first(self.new[-1:], pod, counts.allow): break [Break is Continue]": (
        "no node is added while the last one is empty, which ends it as well"
    ),
    "return self.spread.key == HOSTNAME and node.room(self.pod) > 0 and not self.allow(node, False) [False is True]": (
        "it is asked only where a node with room was not allowed, and then nothing is taken"
    ),
    "cpu = pod.cpu_m / template.cpu_m if template.cpu_m else 0.0 [0.0 is 1.0]": (
        "the same for all pods, so their order is"
    ),
    "memory = pod.memory_b / template.memory_b if template.memory_b else 0.0 [0.0 is 1.0]": (
        "the same for all pods, so their order is"
    ),
}
"""By line and change: why nothing that can be observed changes."""

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
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
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """One change of a module."""

    module: str
    line: int
    what: str
    number: int
    """Of the changes of its module: a line may have the same change twice."""
    tree: ast.Module


def mutants(module: str) -> Iterator[Mutant]:
    """Every change of a module, in the order of its lines."""
    source = (SOURCE / f"{module}.py").read_text()
    lines = source.splitlines()
    tree = ast.parse(source)
    settings = {keyword.value for each in ast.walk(tree) if isinstance(each, ast.ClassDef) for keyword in each.keywords}
    count = 0
    for index, node in enumerate(ast.walk(tree)):
        if node in settings:
            continue  # of a class: frozen=True and the like
        for number in range(_choices(node)):
            changed = copy.deepcopy(tree)
            target = next(each for place, each in enumerate(ast.walk(changed)) if place == index)
            words = _change(changed, target, number)
            if words:
                line = getattr(node, "lineno", 0)
                # A line of one word says nothing without the one before it.
                first = line - 2 if len(lines[line - 1].split()) == 1 else line - 1
                said = " ".join(each.strip() for each in lines[first:line])
                what = f"{said} [{words}]"
                yield Mutant(module, line, what, count, ast.fix_missing_locations(changed))
                count += 1


def _choices(node: ast.AST) -> int:
    match node:
        case ast.Compare(ops=[op]):
            return len(COMPARISONS[type(op)])
        case ast.Compare(ops=ops):
            return 2 * len(ops)
        case ast.BinOp(op=op):
            return int(type(op) in OPERATORS)
        case ast.BoolOp() | ast.UnaryOp(op=ast.Not() | ast.USub()) | ast.AugAssign():
            return 1
        case ast.Constant(value=bool() | int() | float()):
            return 1
        case ast.Call(func=ast.Name(id=name)):
            return int(name in CALLS)
        case ast.If() | ast.IfExp():
            return 1
        case ast.Continue() | ast.Break() | ast.Raise():
            return 1
        case ast.Expr(value=ast.Call()):
            return 1
    return 0


def _change(tree: ast.Module, node: ast.AST, number: int) -> str:
    """Change the node within the tree, and say what was changed; empty where there is nothing to change."""
    match node:
        case ast.Compare(ops=ops):
            place, choice = (0, number) if len(ops) == 1 else divmod(number, 2)
            others = COMPARISONS[type(ops[place])]
            if choice >= len(others):
                return ""
            before = type(ops[place]).__name__
            ops[place] = others[choice]()
            which = "" if len(ops) == 1 else "the first " if place == 0 else "the second "
            return f"{which}{before} is {others[choice].__name__}"
        case ast.BinOp(op=op) | ast.AugAssign(op=op):
            if type(op) not in OPERATORS:
                return ""
            node.op = OPERATORS[type(op)]()
            return f"{type(op).__name__} is {type(node.op).__name__}"
        case ast.BoolOp(op=op):
            node.op = ast.Or() if isinstance(op, ast.And) else ast.And()
            return f"{type(op).__name__} is {type(node.op).__name__}"
        case ast.UnaryOp(operand=operand):
            _replace(tree, node, operand)
            return f"no {type(node.op).__name__}"
        case ast.Constant(value=bool(value)):
            node.value = not value
            return f"{value} is {node.value}"
        case ast.Constant(value=value) if isinstance(value, (int, float)):
            node.value = value + 1
            return f"{value} is {node.value}"
        case ast.Call(func=ast.Name() as name):
            before, name.id = name.id, CALLS[name.id]
            return f"{before} is {name.id}"
        case ast.If(test=test) | ast.IfExp(test=test):
            if isinstance(test, (ast.Compare, ast.UnaryOp)):
                return ""  # its own changes are enough
            node.test = ast.UnaryOp(op=ast.Not(), operand=test)
            return "not"
        case ast.Continue() | ast.Break():
            other: ast.stmt = ast.Break() if isinstance(node, ast.Continue) else ast.Continue()
            _replace(tree, node, other)
            return f"{type(node).__name__} is {type(other).__name__}"
        case ast.Raise() | ast.Expr():
            _replace(tree, node, ast.Pass())
            return "left out"
    return ""


def _replace(tree: ast.Module, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, field, new)
            elif isinstance(value, list) and any(each is old for each in value):
                setattr(parent, field, [new if each is old else each for each in value])


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the mutant instead of its module."""

    def __init__(self, mutant: Mutant) -> None:
        self.name = f"penstock.control.{mutant.module.replace('/', '.')}"
        self.code = compile(mutant.tree, str(SOURCE / f"{mutant.module}.py"), "exec")

    def find_spec(self, fullname: str, path: object, target: object = None) -> object:
        return importlib.util.spec_from_loader(fullname, self) if fullname == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)


def survives(mutant: Mutant) -> bool:
    """Whether the tests pass with the mutant, in a process of its own."""
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (TIMEOUT_S, TIMEOUT_S))
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        code = 1
        try:
            sys.meta_path.insert(0, _Changed(mutant))  # type: ignore[arg-type]
            code = run(TESTS[mutant.module])
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def run(tests: Sequence[str]) -> int:
    """Run tests in this process."""
    options = ["-x", "-q", "--noconftest", "-p", "no:cacheprovider", "-m", "not long", "--no-header", "--tb=no"]
    return int(pytest.main([*options, *(str(UNIT / name) for name in tests)]))


def without_shrinking() -> None:
    """Let a property that fails end there: the smallest example of it is no news here, and takes minutes to find."""
    from hypothesis import Phase, settings  # pytest wants to be the first that imports it

    settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), database=None)
    settings.load_profile("mutants")


def warm_up() -> None:
    """Run the tests once as they are, which must pass, and forget what they imported of ours but nothing else: so that
    no fork has to import anything that is not under test."""
    if run([*AUTOSCALE, *NODES]) != 0:
        raise SystemExit("the tests fail before anything is broken")
    for name in list(sys.modules):
        if name.startswith(("penstock.control", "test_")):
            del sys.modules[name]


class Verdicts:
    """Which mutants survived, kept in a file, a line each; without a file only for this run."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._known: dict[str, bool] = {}
        self._sums: dict[str, str] = {}
        if file is not None and file.is_file():
            for line in file.read_text().splitlines():
                told = json.loads(line)
                self._known[told["mutant"]] = told["survives"]

    def survives(self, mutant: Mutant) -> bool:
        """What was found before, or is found now."""
        key = f"{mutant.module}:{mutant.line}: {mutant.what} #{mutant.number} {self._sum(mutant.module)}"
        if key not in self._known:
            self._known[key] = survives(mutant)
            if self._file is not None:
                with self._file.open("a") as file:
                    file.write(json.dumps({"mutant": key, "survives": self._known[key]}) + "\n")
        return self._known[key]

    def _sum(self, module: str) -> str:
        """Of the module and of what is run over it."""
        if module not in self._sums:
            read = [SOURCE / f"{module}.py", *(UNIT / name for name in TESTS[module])]
            whole = hashlib.sha256(b"".join(path.read_bytes() for path in read))
            self._sums[module] = whole.hexdigest()[:16]
        return self._sums[module]


def told(found: Sequence[Mutant], survivors: set[int]) -> bool:
    """Say how many of each decider's mutants were killed; whether enough were of each."""
    enough = True
    for decider in dict.fromkeys(each.module.partition("/")[0] for each in found):
        mine = [(at, each) for at, each in enumerate(found) if each.module.startswith(f"{decider}/")]
        counted = [at for at, each in mine if each.what not in EQUIVALENT]
        killed = sum(at not in survivors for at in counted)
        share = killed / len(counted) if counted else 1.0
        enough = enough and share >= KILLED_MIN
        print(
            f"{decider}: {killed} of {len(counted)} mutants killed ({share:.1%}), {len(mine) - len(counted)} equivalent"
        )
    return enough


def main(arguments: Sequence[str] | None = None) -> int:
    """Count; exits with 1 below 95 % of either decider's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="modules whose name has this in it")
    parser.add_argument("--list", action="store_true", help="show the mutants and run none")
    parser.add_argument("--every", type=int, default=1, help="try one of so many")
    parser.add_argument("--first", type=int, default=0, help="which of them is the first")
    parser.add_argument("--verdicts", type=Path, help="a file of what was found, to go on with")
    given = parser.parse_args(arguments)
    found = [mutant for module in TESTS if given.only in module for mutant in mutants(module)][
        given.first :: given.every
    ]
    if given.list:
        print(*(f"{each.module}:{each.line}: {each.what}" for each in found), sep="\n")
        return 0
    warm_up()
    without_shrinking()
    begun, survivors, verdicts = time.monotonic(), set(), Verdicts(given.verdicts)
    for at, mutant in enumerate(found):
        if mutant.what not in EQUIVALENT and verdicts.survives(mutant):
            survivors.add(at)
            print(f"survives: {mutant.module}:{mutant.line}: {mutant.what}", flush=True)
    enough = told(found, survivors)
    print(f"{time.monotonic() - begun:.0f} s")
    return int(not enough)


if __name__ == "__main__":
    sys.path.insert(0, str(UNIT))  # where the tests and the second implementation are
    raise SystemExit(main())
