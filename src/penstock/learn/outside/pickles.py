"""Models of other libraries as bytes: pickles that may name what such models are made of, and nothing that acts.

A pickle is a program. Loading one of anybody's is running it, so what it may call is listed: classes of the libraries
that the service file names, NumPy's arrays and generators, and Python's plain containers. None of these runs a command,
opens a connection or evaluates text; functions are refused but for the few by which arrays and compiled classes are put
together. Pickles are loaded from the data folder and shared memory of the service alone, which whoever could write to
could also change its code, and only when their digest is right.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterable
from types import FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 32
PROTOCOL = 5
PLAIN = {
    "builtins": {
        "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set",
        "slice", "str", "tuple",
    },
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "functools": {"partial"},
    "random": {"Random"},
    "copyreg": {"_reconstructor"},
    "datetime": {"date", "datetime", "timedelta"},
    "numpy": {"dtype", "ndarray"},
}  # fmt: skip
"""Calling one of these makes a container or a number; `partial` can only hold what was let through itself."""
NUMPY_MAKERS = {
    ("multiarray", "_reconstruct"),
    ("multiarray", "scalar"),
    ("numeric", "_frombuffer"),
    ("_pickle", "__generator_ctor"),
    ("_pickle", "__bit_generator_ctor"),
    ("_pickle", "__randomstate_ctor"),
}
"""Functions of NumPy, by the last part of their module, that put arrays and random generators together."""
NUMPY_CLASSES = ("numpy.random", "numpy.dtypes")
COMPILED_MAKER = "__pyx_unpickle_"
"""How the functions begin by which compiled classes are put together."""
COMPILED = "river._river_rust"
"""River's own functions in machine code: distances and statistics."""
WITHHELD = ("river.api", "river.datasets", "river.stream", "sklearn.datasets", "sklearn.externals")
"""Modules of the libraries that read files or the network, which no model is made of."""


class Refused(pickle.UnpicklingError):
    """The bytes are no pickle of a model of the libraries named: {reason}"""

    def __str__(self) -> str:
        return str(self.args[0])


def packed(model: object) -> NDArray[np.uint8]:
    """(bytes,) the digest, and the model behind it. Raises whatever its classes raise where they cannot be pickled."""
    content = pickle.dumps(model, protocol=PROTOCOL)
    return np.frombuffer(hashlib.sha256(content).digest() + content, dtype=np.uint8)


def digest_of(array: NDArray[np.uint8]) -> bytes:
    """What tells the content from every other."""
    return array[:DIGEST_BYTES].tobytes()


def unpacked(array: NDArray[np.uint8], libraries: Iterable[str]) -> Any:
    """The model in these bytes. Raises Refused where they were damaged or name what they may not, and whatever the
    classes of the libraries raise at what is none of theirs."""
    whole = array.tobytes()
    digest, content = whole[:DIGEST_BYTES], whole[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise Refused("the digest is not that of the content")
    return _Restricted(content, libraries).load()


class _Restricted(pickle.Unpickler):
    def __init__(self, content: bytes, libraries: Iterable[str]) -> None:
        super().__init__(io.BytesIO(content))
        self._libraries = frozenset(libraries)

    def find_class(self, module: str, name: str) -> Any:
        if name in PLAIN.get(module, ()):
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return self._method
        root = module.partition(".")[0]
        if root == "numpy":
            return self._of_numpy(module, name)
        if root in self._libraries and not module.startswith(WITHHELD):
            found = super().find_class(module, name)
            is_maker = name.startswith(COMPILED_MAKER) or module.startswith(COMPILED)
            if (is_maker and "." not in name) or _is_class_of(root, found) or self._is_function_of(root, module, name):
                return found
        raise Refused(f"it names {module}.{name}")

    def _is_function_of(self, root: str, module: str, name: str) -> bool:
        """Whether it is a function that one of their classes defines itself; those of modules do not pass."""
        owner, _, last = name.rpartition(".")
        if not owner or not _is_class_of(root, found := super().find_class(module, owner)):
            return False
        defined = vars(found).get(last)
        function = defined.__func__ if isinstance(defined, staticmethod | classmethod) else defined
        return isinstance(function, FunctionType) and function.__module__.partition(".")[0] == root

    def _of_numpy(self, module: str, name: str) -> Any:
        if (module.rpartition(".")[2], name) in NUMPY_MAKERS:
            return super().find_class(module, name)
        if module.startswith(NUMPY_CLASSES) or module == "numpy":
            found = super().find_class(module, name)
            if isinstance(found, type) and (module != "numpy" or issubclass(found, np.generic)):
                return found
        raise Refused(f"it names {module}.{name}")

    def _method(self, owner: object, name: str) -> Any:
        """Models keep methods of their own, which pickles write as ``getattr``."""
        if type(owner).__module__.partition(".")[0] in self._libraries and not name.startswith("__"):
            found = getattr(owner, name)
            if getattr(found, "__self__", None) is owner:
                return found
        raise Refused(f"it asks {type(owner).__name__!r} for {name!r}")


def _is_class_of(root: str, found: object) -> bool:
    """Whether it is a class of this library: one that a module of theirs only imported comes from elsewhere."""
    if not isinstance(found, type) or found.__module__.startswith(WITHHELD):
        return False
    return found.__module__.partition(".")[0] == root
