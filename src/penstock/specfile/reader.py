"""The reader of service files: all faults at once, each with its line and, where one is near, a suggestion.

The walk follows the structs of `penstock.spec`: a setting added there is read and checked here by itself.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from msgspec import inspect

from penstock.errors import Fault, SpecInvalid
from penstock.spec import Budget, Consolidate, Feature, FeatureType, Gate, Label, Learn, Serve, Spec, Task
from penstock.specfile.contradictions import UNREADABLE, contradictions
from penstock.specfile.nodes import Node, Stop, from_python, parse
from penstock.specfile.quantities import Unit, number, quantity, setting_name, setting_unit, written
from penstock.specfile.writer import VECTOR

FILE_MAX_BYTES = 1024**2
FEATURE_TYPES = get_args(FeatureType)
Settings = Mapping[str, object]


class _Reader:
    """Follows the types of the structs through the nodes of one file and collects faults."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.faults: list[Fault] = []
        self.places: dict[str, tuple[int, int]] = {}

    def fault(self, node: Node | None, path: str, message: str) -> Any:
        line, column = (node.line, node.column) if node is not None else self.place(path)
        self.faults.append(Fault(file=self.file, line=line, column=column, path=path, message=message))
        return UNREADABLE

    def place(self, path: str) -> tuple[int, int]:
        """Where this setting stands, or the nearest that encloses it."""
        while path and path not in self.places:
            path = path.rpartition(".")[0]
        return self.places.get(path, (0, 0))

    def read(self, node: Node, kind: inspect.Type, path: str, unit: Unit = "", infinite: bool = False) -> Any:
        self.places[path] = (node.line, node.column)
        match kind:
            case inspect.Metadata(type=inner, extra=extra):
                return self.read(node, inner, path, unit, infinite or bool((extra or {}).get("infinite")))
            case inspect.StructType():
                return self.struct(node, kind, path)
            case inspect.DictType():
                return self.dictionary(node, kind, path)
            case inspect.VarTupleType():
                return self.tuple(node, kind, path)
            case inspect.UnionType(types=kinds):
                if node.is_nothing and any(isinstance(k, inspect.NoneType) for k in kinds):
                    return None
                words = [str(word) for k in kinds if isinstance(k, inspect.LiteralType) for word in k.values]
                others = [k for k in kinds if not isinstance(k, inspect.NoneType | inspect.LiteralType)]
                if words and node.is_scalar and number(node.text, is_quoted=node.form == "text") is None:
                    return self.choice(node, words, path, "a number or ")
                return self.read(node, others[0], path, unit)
            case inspect.LiteralType(values=values):
                return self.choice(node, [str(value) for value in values], path)
            case inspect.StrType():
                return self.words(node, kind, path)
            case inspect.IntType() | inspect.FloatType():
                return self.number(node, kind, path, unit, infinite)
        raise TypeError(f"the reader knows no {kind} ({path})")

    def keys(self, node: Node, path: str) -> Iterator[tuple[str, Node, Node]]:
        """The pairs of a mapping, without the keys that are there a second time."""
        first: dict[str, Node] = {}
        for key, value in node.pairs:
            if not key.is_scalar:
                self.fault(key, path, f"a name is expected before the colon, not {key.described()}")
            elif key.text in first:
                self.fault(key, _under(path, key.text), f"is there twice, first on line {first[key.text].line}")
            else:
                first[key.text] = key
                yield key.text, key, value

    def struct(self, node: Node, kind: inspect.StructType, path: str) -> Any:
        fields = {setting_name(field.encode_name): field for field in kind.fields}
        if kind.cls is Feature and node.is_scalar and not node.is_nothing:
            return self.shorthand(node, path)
        if node.is_nothing and not any(field.required for field in kind.fields):
            return kind.cls()
        if kind.cls is Feature and node.form != "mapping":
            return self.fault(
                node, path, f"a type is expected here ({', '.join(FEATURE_TYPES)}), not {node.described()}"
            )
        if node.form != "mapping":
            return self.fault(node, path, f"a mapping of settings is expected here, not {node.described()}")
        values: dict[str, Any] = {}
        for name, key, value in self.keys(node, path):
            if name not in fields:
                self.fault(key, _under(path, name), "unknown field" + _suggestion(name, fields, path))
            elif value.is_nothing and not isinstance(fields[name].type, inspect.StructType | inspect.UnionType):
                self.fault(value, _under(path, name), "has no value")
                values[fields[name].name] = UNREADABLE
            elif kind.cls is Feature and name == "type" and (vector := VECTOR.fullmatch(value.text)):
                values |= {"type": "vector", "width": int(vector[1])}
            else:
                field = fields[name]
                values[field.name] = self.read(value, field.type, _under(path, name), setting_unit(field.name))
                self.places.setdefault(_under(path, name), (key.line, key.column))
        for name, field in fields.items():
            if field.required and field.name not in values:
                self.fault(node, _under(path, name), "is missing")
                values[field.name] = UNREADABLE
        return kind.cls(**values)

    def shorthand(self, node: Node, path: str) -> Any:
        """``price: number`` and ``pixels: vector[64]``."""
        if vector := VECTOR.fullmatch(node.text.strip()):
            return Feature(type="vector", width=int(vector[1]))
        chosen = self.choice(node, list(FEATURE_TYPES), path)
        return UNREADABLE if chosen is UNREADABLE else Feature(type=chosen)

    def dictionary(self, node: Node, kind: inspect.DictType, path: str) -> Any:
        if node.form != "mapping":
            return self.fault(node, path, f"a mapping of names is expected here, not {node.described()}")
        read: dict[Any, Any] = {}
        for name, key, value in self.keys(node, path):
            inside = _under(path, name)
            if self.read(key, kind.key_type, inside) is not UNREADABLE:
                read[name] = self.read(value, kind.value_type, inside)
        if not node.pairs and kind.min_length:
            return self.fault(node, path, "at least one is needed")
        return read

    def tuple(self, node: Node, kind: inspect.VarTupleType, path: str) -> Any:
        if node.form != "list":
            return self.fault(node, path, f"a list is expected here, such as [1, 2], not {node.described()}")
        if not (kind.min_length or 0) <= len(node.items) <= (kind.max_length or len(node.items)):
            limits = f"{kind.min_length or 0} to {kind.max_length or 'any number of'}"
            return self.fault(node, path, f"takes {limits} values, not {len(node.items)}")
        read = [self.read(item, kind.item_type, f"{path}[{i}]") for i, item in enumerate(node.items)]
        return UNREADABLE if any(value is UNREADABLE for value in read) else tuple(read)

    def choice(self, node: Node, values: list[str], path: str, otherwise: str = "") -> Any:
        if node.is_scalar and node.text in values:
            return node.text
        near = difflib.get_close_matches(node.text, values, 1) if node.is_scalar else []
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        one_of = "one of " if len(values) > 1 else ""
        return self.fault(node, path, f"must be {otherwise}{one_of}{', '.join(values)}; not {node.described()}{meant}")

    def words(self, node: Node, kind: inspect.StrType, path: str) -> Any:
        if not node.is_scalar or node.is_nothing:
            return self.fault(node, path, f"text is expected here, not {node.described()}")
        # As JSON writes them: an event whose label is true belongs to the class that the file calls True.
        text = (
            node.text.lower() if node.form == "plain" and node.text in ("True", "False", "TRUE", "FALSE") else node.text
        )
        if not text.isprintable():
            return self.fault(node, path, "holds a character that cannot be printed")
        if not (kind.min_length or 0) <= len(text) <= (kind.max_length or len(text)):
            return self.fault(node, path, f"must have {kind.min_length or 0} to {kind.max_length} characters")
        if kind.pattern is not None and not re.search(kind.pattern, text):
            allowed = "letters, digits, '-' and '_' (63 at most, the first a letter or digit)"
            return self.fault(node, path, f"may hold only {allowed}, not {node.described()}")
        return text

    def number(self, node: Node, kind: inspect.IntType | inspect.FloatType, path: str, unit: Unit, inf: bool) -> Any:
        expected = {"": "a number", "s": "a duration such as 30s, 1h or 30d", "ms": "a duration such as 5ms"}
        whole = isinstance(kind, inspect.IntType)
        wanted = expected.get(unit, "a size such as 8MiB") if unit or not whole else "a whole number"
        if not node.is_scalar:
            return self.fault(node, path, f"{wanted} is expected here, not {node.described()}")
        value = quantity(node.text, unit) if unit else number(node.text, is_quoted=node.form == "text")
        if value is None or math.isnan(value):
            return self.fault(node, path, f"{wanted} is expected here, not {node.described()}")
        if math.isinf(value) and not inf:
            return self.fault(node, path, f"must be finite, not {node.described()}")
        if whole and (value != int(value) or abs(value) >= 2**63):
            return self.fault(node, path, f"{wanted} is expected here, not {node.described()}")
        if not _within(value, kind):
            return self.fault(node, path, f"must be {_bounds(kind, unit)}, not {node.described()}")
        return int(value) if whole else float(value)


def _under(path: str, name: str) -> str:
    name = name if name.isprintable() else repr(name)[1:-1]
    return f"{path}.{name}" if path else name


def _suggestion(name: str, fields: Mapping[str, inspect.Field], path: str) -> str:
    without_unit = setting_name(name)
    if without_unit in fields:
        return f" (did you mean {without_unit!r}? units are written in the value, as in {without_unit}: 30s)"
    if near := difflib.get_close_matches(name, fields, 1, 0.6):
        return f" (did you mean {near[0]!r}?)"
    for section in (Label, Learn, Consolidate, Gate, Serve, Budget):
        folder = section.__name__.lower()
        if folder != path and without_unit in (setting_name(field) for field in section.__struct_fields__):
            return f" here (it belongs under '{folder}')"
    return ""


def _within(value: float, kind: inspect.IntType | inspect.FloatType) -> bool:
    return not (
        (kind.gt is not None and value <= kind.gt)
        or (kind.ge is not None and value < kind.ge)
        or (kind.lt is not None and value >= kind.lt)
        or (kind.le is not None and value > kind.le)
    )


def _bounds(kind: inspect.IntType | inspect.FloatType, unit: Unit) -> str:
    bounds = (("above", kind.gt), ("at least", kind.ge), ("below", kind.lt), ("at most", kind.le))
    return " and ".join(f"{words} {written(bound, unit)}" for words, bound in bounds if bound is not None)


# The doors ------------------------------------------------------------------------------------------------------------


@functools.cache
def _settings() -> inspect.Type:
    """What a service file may say: looked up once, which takes longer than reading a file."""
    return inspect.type_info(Spec)


def _interpreted(compose: Callable[[], Node], reader: _Reader) -> Spec | None:
    try:
        node = compose()
    except Stop as stop:
        line, column, message = stop.fault
        reader.faults.append(Fault(file=reader.file, line=line, column=column, message=message))
        return None
    spec = reader.read(node, _settings(), "")
    if isinstance(spec, Spec):
        known = {fault.path for fault in reader.faults}
        for path, message in contradictions(spec):
            if path not in known:
                reader.fault(None, path, message)
    reader.faults.sort(key=lambda fault: (fault.line, fault.column))
    return None if reader.faults else spec


def _text_of(path: Path) -> str:
    """Raises Stop where there is no text to read."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        raise Stop(0, 0, "there is no such file; `penstock init` writes one") from None
    except OSError as error:
        raise Stop(0, 0, f"cannot be read: {error.strerror}") from error
    if len(content) > FILE_MAX_BYTES:
        raise Stop(0, 0, f"is larger than {written(FILE_MAX_BYTES, 'bytes')}, which no service file is")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = len(before) - (before.rfind(b"\n") + 1) + 1
        raise Stop(before.count(b"\n") + 1, column, f"not UTF-8: byte 0x{content[error.start]:02x}") from error


def load(path: str | Path) -> Spec:
    """The service that a file describes. Raises SpecInvalid with every fault in it."""
    (spec,) = load_all([path]).values()
    return spec


def load_all(paths: Iterable[str | Path]) -> dict[Path, Spec]:
    """The services of these files, and of every ``*.yaml`` and ``*.yml`` in these folders, by file and in that order.

    Raises SpecInvalid with the faults of all of them, names used twice included."""
    faults: list[Fault] = []
    specs: dict[Path, Spec] = {}
    first: dict[str, str] = {}
    for file in _files(paths, faults):
        reader = _Reader(str(file))
        spec = _interpreted(lambda file=file: parse(_text_of(file)), reader)  # type: ignore[misc]
        if spec is not None and spec.name in first:
            reader.fault(None, "name", f"{spec.name!r} is the name of the service in {first[spec.name]} already")
        elif spec is not None:
            first[spec.name] = str(file)
            specs[file] = spec
        faults += reader.faults
    if faults:
        raise SpecInvalid(faults)
    return specs


def loads(text: str, called: str = "service.yaml") -> Spec:
    """The service that the text of a service file describes. Raises SpecInvalid with every fault in it."""
    return _required(lambda: parse(text), called)


def _files(paths: Iterable[str | Path], faults: list[Fault]) -> Iterator[Path]:
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        found = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml") and file.is_file())
        if not found:
            faults.append(Fault(file=str(path), message="there is no .yaml or .yml file in this folder"))
        yield from found


def read(values: Settings, called: str = "Service") -> Spec:
    """The service that these settings describe, named and written as in the file. Raises SpecInvalid."""
    return _required(lambda: from_python(values), called)


def _required(compose: Callable[[], Node], called: str) -> Spec:
    reader = _Reader(called)
    spec = _interpreted(compose, reader)
    if spec is None:
        raise SpecInvalid(reader.faults)
    return spec


def Service(  # noqa: N802 - reads as what it makes: a described service
    *,
    name: str,
    task: Task,
    features: Mapping[str, str | Settings | Feature],
    subject: str | None = None,
    label: Settings | Label | None = None,
    learn: Settings | Learn | None = None,
    consolidate: Settings | Consolidate | None = None,
    gate: Settings | Gate | None = None,
    serve: Settings | Serve | None = None,
    budget: Settings | Budget | None = None,
) -> Spec:
    """A service described in Python, with the settings of the file: ``Service(name="fraud", task="binary",
    features={"amount": "number"}, label={"wait": "1h"})``. Raises SpecInvalid with every fault, as `load` does."""
    sections = {
        "subject": subject,
        "label": label,
        "learn": learn,
        "consolidate": consolidate,
        "gate": gate,
        "serve": serve,
        "budget": budget,
    }
    given = {section: value for section, value in sections.items() if value is not None}
    return read({"name": name, "task": task, "features": features, **given})
