"""A plan: which method for which weights, in order, written as TOML."""

from __future__ import annotations

import json
import tomllib
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from smidgen.errors import PlanError
from smidgen.methods import METHODS, Method

__all__ = ["LAYERS", "Plan"]

SHIPPED = Path(__file__).parent / "plans"

LAYERS = "(layers)"
"""In place of a pattern: what layers multiply with or look up, whatever its name. In TOML a step without ``match``."""


@dataclass(frozen=True)
class Plan:
    """Steps that are applied in order: a pattern of weight names (``fnmatch``, case counts) and a method.

    A weight that has become a code is finished, and later steps pass it by: specific patterns first, then general ones.

    Args:
        steps: each ``(pattern, method)``, or ``(LAYERS, method)`` for the weights of all convolutions, linear and
            recurrent layers and embeddings; none at all keeps every weight without loss.

    Raises:
        PlanError: a step that is not a pattern with a method.

    Example:
        >>> from smidgen.methods import Prune, Quantize
        >>> plan = Plan((("head.*", Prune(0.3)), (LAYERS, Quantize(bits=5))))
        >>> print(plan.dumps())
        [[step]]
        match = "head.*"
        method = "Prune"
        density = 0.3
        <BLANKLINE>
        [[step]]
        method = "Quantize"
        bits = 5
        <BLANKLINE>
        >>> Plan.parse(plan.dumps()) == plan
        True
    """

    steps: tuple[tuple[str, Method], ...]

    def __post_init__(self) -> None:
        for number, (pattern, method) in enumerate(self.steps, 1):
            if not isinstance(pattern, str) or not pattern or not isinstance(method, Method):
                raise PlanError(f"step {number}: must be a name pattern and a method, not {pattern!r} and {method!r}")

    @classmethod
    def parse(cls, text: str, origin: str = "plan.toml") -> Plan:
        """The plan that a TOML text writes; ``origin`` names the text in errors.

        Raises:
            PlanError: not TOML, an unknown or missing key, an unknown method, or a value that is not allowed.

        Example:
            >>> Plan.parse('[[step]]\\nmatch = "*"\\nmethod = "Binarize"').steps
            (('*', Binarize(ternary=False)),)
        """
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PlanError(f"{origin}: not valid TOML: {error}") from None
        for key in document:
            if key != "step":
                raise PlanError(f"{origin}: unknown key {key!r}; a plan holds only [[step]] tables")
        if "step" not in document:
            raise PlanError(f"{origin}: no [[step]]; write 'step = []' to keep every weight without loss")
        entries = document["step"]
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise PlanError(f"{origin}: steps must be written as [[step]] tables")
        return cls(tuple(_step(entry, f"{origin}: step {number}") for number, entry in enumerate(entries, 1)))

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """The plan in a TOML file.

        Raises:
            PlanError: the file cannot be read, or see ``parse``.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise PlanError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise PlanError(f"{path}: not a text file in UTF-8") from None
        return cls.parse(text, str(path))

    @classmethod
    def find(cls, name: str) -> Plan:
        """The plan in the file ``name``, or the one of that name that ships with smidgen.

        Raises:
            PlanError: there is neither; or see ``parse``.

        Example:
            >>> Plan.find("lossless").steps
            ()
        """
        if name in cls.shipped():
            return cls.load(SHIPPED / f"{name}.toml")
        if not Path(name).exists():
            raise PlanError(f"{name}: no such file, and not a plan that ships with smidgen: {', '.join(cls.shipped())}")
        return cls.load(name)

    @staticmethod
    def shipped() -> list[str]:
        """Names of the plans that ship with smidgen."""
        return sorted(path.stem for path in SHIPPED.glob("*.toml"))

    def dumps(self) -> str:
        """The plan as TOML, without the fields that have their default; ``parse`` gives back an equal plan."""
        return "\n".join(_dump(pattern, method) for pattern, method in self.steps) or "step = []\n"


def _step(entry: dict[str, Any], where: str) -> tuple[str, Method]:
    """One table of the TOML as a step."""
    entry = {"match": LAYERS, **entry}
    for key in ("match", "method"):
        if not isinstance(entry.get(key), str) or not entry[key]:
            found = f"is {entry[key]!r}" if key in entry else "is missing"
            raise PlanError(f"{where}: {key} {found}; it must be a text that is not empty")
    name = entry["method"]
    if name not in METHODS:
        raise PlanError(f"{where}: unknown method {name!r}{_hint(name, list(METHODS))}")
    kind = METHODS[name]
    allowed = _fields(kind)
    values = {key: value for key, value in entry.items() if key not in ("match", "method")}
    for key in values:
        if key not in allowed:
            raise PlanError(f"{where}: {name} has no field {key!r}{_hint(key, list(allowed))}")
    missing = [key for key, default in allowed.items() if default is MISSING and key not in values]
    if missing:
        raise PlanError(f"{where}: {name} needs the field {missing[0]!r}")
    try:
        return entry["match"], kind(**values)
    except PlanError as error:
        raise PlanError(f"{where}: {error}") from None


def _hint(word: str, known: list[str]) -> str:
    close = get_close_matches(word, known, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{meant} allowed: {', '.join(known)}"


def _fields(kind: type[Method]) -> dict[str, Any]:
    """Names and defaults of a method's fields."""
    return {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]


def _dump(pattern: str, method: Method) -> str:
    values = {name: getattr(method, name) for name, default in _fields(type(method)).items()}
    changed = {name: value for name, value in values.items() if value != _fields(type(method))[name]}
    where = {} if pattern == LAYERS else {"match": pattern}
    entries = {**where, "method": type(method).__name__, **changed}
    return "[[step]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in entries.items())


def _toml(value: str | bool | int | float) -> str:
    """A value in TOML, whose strings are those of JSON, but that DEL must be escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
