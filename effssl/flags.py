"""The flags of a class of settings, and their help: an argparse parser made from its fields."""

from __future__ import annotations

import argparse
import difflib
import functools
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NoReturn, Union

from pydantic import TypeAdapter

from effssl import InputError
from effssl.config import Config, flag_of

Given = dict[str, Any]  # the fields that were given: a text, a list of texts, or True or False

POSITIONAL = {"run": "?", "runs": "*"}  # field -> how many, in argparse's letters
ALONE = {"profile": "20", "plan": "0"}  # what a flag means that no value follows
REPEATED = {"checkpoint": "NAME=FILE"}  # field -> what `--help` shows as its value
# Flags that do nothing by themselves: the setting that each needs, and of which value, if not any.
_NEEDS = {
    **dict.fromkeys(("inv_weight", "cov_weight"), ("method", "vicreg")),
    "redundancy_weight": ("method", "barlow_twins"),
    "temperature": ("method", "simclr"),
    "concentration": ("method", "entropy_reconstruction"),
    **dict.fromkeys(("small_size", "small_crop_scale"), ("small_views", "")),
    **dict.fromkeys(("grow_by", "grow_until"), ("first_size", "")),
    "keep_fisher": ("keep", ""),
}
_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$", re.IGNORECASE)
_HELP_FORMAT = functools.partial(argparse.ArgumentDefaultsHelpFormatter, max_help_position=26)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message.removeprefix("argument "))


def read_flags(kind: type, job: str, argv: list[str] | None) -> Given:
    """Return the fields of `kind` that argv (sys.argv when None) gives, and `help` and `config` if
    they are there.

    Raises InputError for a flag that is unknown or lacks a value; values are not looked at.
    """
    parser = _parser(kind, job)
    tokens = sys.argv[1:] if argv is None else argv
    given, unknown = parser.parse_known_intermixed_args([_with_hyphens(token) for token in tokens])
    if unknown and not unknown[0].startswith("--"):
        raise InputError(f"unexpected argument {unknown[0]}")
    if unknown:
        flag = unknown[0].partition("=")[0]
        raise InputError(f"unknown flag {flag}{did_you_mean(flag, _flags(kind))}")
    return vars(given)


def check_needs(flags: Given, settings: Mapping[str, Any]) -> None:
    """Raise InputError for a flag that does nothing beside the other settings. Files may hold it:
    they are for flags to override."""
    for name, (other, value) in _NEEDS.items():
        if name in flags and (not settings[other] or value not in ("", settings[other])):
            needed = f"{flag_of(other)} {value}".rstrip()
            raise InputError(f"{flag_of(name)} does nothing without {needed}")


def print_help(kind: type, job: str, defaults: Mapping[str, Any]) -> NoReturn:
    """Print what the job does, its flags and their defaults, and exit."""
    parser = _parser(kind, job)
    parser.set_defaults(**{name: _shown(value) for name, value in defaults.items() if value != ()})
    parser.print_help()
    raise SystemExit(0)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a complaint about an unknown word: the known ones that are close to it."""
    close = difflib.get_close_matches(word, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else "; --help lists them all"


@functools.cache
def types_of(kind: type) -> dict[str, Any]:
    """Return the type of each field, without its range."""
    return typing.get_type_hints(kind)


def _groups(kind: type) -> dict[str, type]:
    return types_of(Config) if kind is Config else {"settings": kind}


def _fields(kind: type) -> dict[str, Any]:
    groups = _groups(kind).values()
    return {name: hint for group in groups for name, hint in types_of(group).items()}


def _flags(kind: type) -> list[str]:
    fields = _fields(kind)
    switches = [flag_of(f"no_{name}") for name, hint in fields.items() if hint is bool]
    others = ["--help"] + ["--config"] * (kind is Config)
    return [flag_of(name) for name in fields if name not in POSITIONAL] + switches + others


def _with_hyphens(token: str) -> str:
    """`--proj_dim=4` -> `--proj-dim=4`."""
    flag, equals, value = token.partition("=")
    return flag.replace("_", "-") + equals + value if token.startswith("--") else token


def _parser(kind: type, job: str) -> argparse.ArgumentParser:
    runs = {"run": " RUN", "runs": " RUN [RUN ...]"}
    positional = "".join(runs[name] for name in _fields(kind) if name in POSITIONAL)
    parser = _Parser(
        prog=f"effssl {job}",
        usage=f"effssl {job}{positional} [FLAGS]",
        description=kind.__doc__,
        formatter_class=_HELP_FORMAT,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    parser._negative_number_matcher = _NEGATIVE  # argparse's own takes -1e3 for a flag
    for title, group in _groups(kind).items():
        section = parser.add_argument_group(title, group.__doc__ if kind is Config else None)
        descriptions = _descriptions(group)
        for field, hint in types_of(group).items():
            name = field if field in POSITIONAL else flag_of(field)
            description = descriptions[field].replace("%", "%%")
            section.add_argument(name, help=description, **_options(field, hint))
    general = parser.add_argument_group("general")
    general.add_argument("-h", "--help", action="store_true", help="Print this and exit.")
    if kind is Config:
        general.add_argument(
            "--config",
            action="append",
            metavar="FILE",
            help="YAML file of settings; may be repeated, a later one wins.",
        )
    return parser


def _options(name: str, hint: Any) -> dict[str, Any]:
    """Return the arguments of add_argument for a field of this type."""
    if name in POSITIONAL:
        return {"nargs": POSITIONAL[name], "metavar": "RUN"}
    if name in REPEATED:
        return {"action": "append", "metavar": REPEATED[name]}
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if name in ALONE:
        return {"nargs": "?", "const": ALONE[name], "metavar": _metavar(hint)}
    # A tuple that may be None is given as a tuple is; one that may be one value, as either.
    kinds = (hint,) if typing.get_origin(hint) is tuple else typing.get_args(hint)
    tuples = [kind for kind in kinds if typing.get_origin(kind) is tuple]
    if tuples:
        one, *others = typing.get_args(tuples[0])
        is_word = any(typing.get_origin(kind) is Literal for kind in kinds)
        fixed = "+" if one in kinds or is_word else 1 + len(others)
        return {"nargs": "*" if others == [...] else fixed, "metavar": _metavar(one)}
    return {"metavar": _metavar(hint)}


def _metavar(hint: Any) -> str:
    """`int | None` -> INT, `Literal["a", "b"]` -> {a,b}."""
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case origin if origin is Literal:
            return f"{{{','.join(arguments)}}}"
        case origin if origin in (Union, types.UnionType):
            return "|".join(_metavar(each) for each in arguments if each is not types.NoneType)
        case _:
            return hint.__name__.upper()


def _shown(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)


@functools.cache
def _descriptions(kind: type) -> dict[str, str]:
    """Return the docstrings below the fields."""
    described: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):  # a class knows those of its own fields alone
        fields = TypeAdapter(base).json_schema()["properties"]
        described |= {k: v["description"] for k, v in fields.items() if "description" in v}
    return described
