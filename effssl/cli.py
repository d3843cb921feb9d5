"""Command line and YAML files -> settings: set defaults < `--config` YAML < flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from effssl import InputError
from effssl.config import FIELDS, Config, flag_of, flat, resolved
from effssl.flags import (
    POSITIONAL,
    Given,
    check_needs,
    did_you_mean,
    print_help,
    read_flags,
    types_of,
)
from effssl.image_config import Storage
from effssl.job_config import Embed, Evaluation, Export
from effssl.ranges import local_path
from effssl.set_defaults import defaults_for, that_apply, without_found_out

T = TypeVar("T")


def _optional(kind: type) -> list[str]:
    """Return the fields that may be None."""
    return [name for name, hint in types_of(kind).items() if type(None) in get_args(hint)]


# A resumed run may change where and for how long it runs, and what it reports; nothing that moves
# the weights by more than rounding, but that it may also be given more epochs.
RESUME_MAY_CHANGE = {
    *("data_dir", "more_dirs", "trust_store", "beton_dir", "workers", "loader", "max_image_gib"),
    *("out", "resume", "go_on", "max_seconds", "device", "deterministic", "graph_muon", "log_to"),
    *("log_every", "save_every_s", "probe_every", "probe_images", "picture_bands", "normalize"),
    *("profile", "plan", "look", "stop_when_flat", "on_collapse"),
}
_OPTIONAL = {name for group in types_of(Config).values() for name in _optional(group)}
_IN_FILES = tuple(name for name in FIELDS if name not in ("out", "resume", "go_on", "plan", "look"))


def parse(argv: list[str] | None = None) -> Config:
    """Read the command line of `effssl train` (sys.argv when None) and the files that it names.

    Raises InputError for anything that is not a valid setting. `--help` prints help and exits.
    """
    flags = read_flags(Config, "train", argv)
    asks_help = flags.pop("help", False)
    given: Given = {}
    for file in flags.pop("config", []):
        given |= _read_yaml(_path("--config", file), flags)
    given = that_apply(given, given | flags) | flags
    # Of a set that does not exist there are no defaults; `_config` complains about it.
    set_defaults = defaults_for(given.get("data", Config().images.data), given)
    if asks_help:
        print_help(Config, "train", flat(_config(set_defaults)))
    if "resume" in given:
        return _resumed(_path("--resume", given["resume"]), given, flags)
    cfg = _config(set_defaults | given)
    if cfg.run.go_on and cfg.run.out and (cfg.run.out / "config.yaml").is_file():
        return _resumed(cfg.run.out, given | {"resume": str(cfg.run.out)}, flags)
    check_needs(flags, flat(cfg))
    return cfg


def parse_storage(argv: list[str] | None = None) -> Storage:
    """Read the command line of `effssl prepare`; otherwise as `parse`, but without files."""
    return _parse_job(Storage, "prepare", argv)


def parse_evaluation(argv: list[str] | None = None) -> Evaluation:
    """Read the command line of `effssl evaluate`; otherwise as `parse`, but without files."""
    return _parse_job(Evaluation, "evaluate", argv)


def parse_export(argv: list[str] | None = None) -> Export:
    """Read the command line of `effssl export`; otherwise as `parse`, but without files."""
    return _parse_job(Export, "export", argv)


def parse_embed(argv: list[str] | None = None) -> Embed:
    """Read the command line of `effssl embed`; otherwise as `parse`, but without files."""
    return _parse_job(Embed, "embed", argv)


def dump(cfg: Config) -> str:
    """Return the settings as YAML; a file of it is a valid `--config`.

    Its paths are absolute, so that they are found from wherever the file is read.
    """
    settings = {name: value for name, value in resolved(cfg).items() if name in _IN_FILES}
    return yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=120)


def load(path: Path) -> Config:
    """Return the settings of a file that holds what `dump` gave; those that this version has added
    since get their defaults. Raises InputError."""
    return _config(_read_yaml(path))


def _path(flag: str, text: str) -> Path:
    try:
        return local_path(text)
    except ValueError as error:
        raise InputError(f"{flag} {text}: {error}") from None


def _parse_job(kind: type[T], job: str, argv: list[str] | None) -> T:
    given = read_flags(kind, job, argv)
    if given.pop("help", False):
        defaults = {f.name: f.default for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
        print_help(kind, job, {k: v for k, v in defaults.items() if v is not dataclasses.MISSING})
    return _validated(kind, given)


def _resumed(run: Path, given: Given, flags: Given) -> Config:
    """Return the run's own settings with those of `given`, of which `flags` are the command line's.
    Raises InputError if they differ where a resumed run may not."""
    saved_file = run / "config.yaml"
    if not saved_file.is_file():
        raise InputError(f"--resume {run}: no run there (no {saved_file})")
    saved = _read_yaml(saved_file, flags)
    asked = _config(saved | without_found_out(given, saved))
    was, now = resolved(_config(saved)), resolved(asked)
    may_change = RESUME_MAY_CHANGE | ({"epochs"} if now["epochs"] > was["epochs"] else set())
    changed = [k for k in FIELDS if was[k] != now[k] and k not in may_change]
    if changed:
        difference = ", ".join(f"{flag_of(k)} {was[k]} -> {now[k]}" for k in changed)
        differ = f"the settings differ from the run's: {difference}; start a new run instead"
        raise InputError(f"--resume {run}: {differ}")
    if asked.run.out is not None and asked.run.out.resolve() != run.resolve():
        raise InputError(f"--resume {run} goes on in that folder; leave --out away")
    return dataclasses.replace(asked, run=dataclasses.replace(asked.run, out=run))


def _read_yaml(path: Path, flags: Given | None = None) -> Given:
    """Return the settings of a file as the texts that flags would have. Raises InputError, also if
    it alone names code to run, beside the command line's `flags`: it may be a stranger's."""
    try:
        settings = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected `key: value` lines")
    for key in settings:
        if key not in _IN_FILES:
            name = " ".join(str(key).split())
            raise InputError(f"{path}: unknown key {name}{did_you_mean(name, _IN_FILES)}")
        if settings[key] is None and key not in _OPTIONAL:
            raise InputError(f"{path}: {key} has no value (nor has `~`: '~' is the home folder)")
    if flags is not None and settings.get("transform") and "transform" not in flags:
        code = f"--transform {settings['transform']}"
        raise InputError(f"{path} names code, {code}, and no file runs any: give that flag too")
    given = {
        name: list(map(_text, value)) if isinstance(value, list) else _text(value)
        for name, value in settings.items()
    }
    _groups(given, lambda name: f"{path}: {name}")  # for a complaint that names the file
    return given


def _text(value: Any) -> str:
    """Return the text that a flag would have for a value in YAML, which takes 3e-4 for a text, and
    `compile: true` for a bool."""
    match value:
        case dict():
            return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
        case bool():
            return str(value).lower()
    return str(value)


def _config(given: Given) -> Config:
    return _validated(Config, _groups(given, flag_of))


def _groups(given: Given, name_of: Callable[[str], str]) -> dict[str, Any]:
    """Return each group of settings by its name in Config."""
    groups = {}
    for group, kind in types_of(Config).items():
        of_group = {name: value for name, value in given.items() if name in types_of(kind)}
        groups[group] = _validated(kind, of_group, name_of)
    return groups


def _validated(kind: type[T], given: Given, name_of: Callable[[str], str] = flag_of) -> T:
    """Return the settings. Raises InputError in one line with the name that `name_of` gives to the
    field, the value and the rule that it breaks."""
    nones = {name: None for name in _optional(kind) if given.get(name) == "None"}
    try:
        return TypeAdapter(kind).validate_python(given | nones)
    except ValidationError as error:
        raise InputError(_complaint(error.errors(include_url=False), name_of)) from None


# The rule that a value breaks, by pydantic's name for the error; others are told in its words.
_RULES = {
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le:g}",
    "finite_number": "must be finite",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "literal_error": "must be {expected}",
    "missing": "has too few values",  # within a tuple
    "too_long": "has too many values",
    "tuple_type": "must be a list",
    "value_error": "{error}",
}


def _complaint(errors: list[ErrorDetails], name_of: Callable[[str], str]) -> str:
    """Return what is wrong with the first setting that is wrong."""
    # One is missing perhaps only because a flag before it took its value.
    first = min(errors, key=lambda error: error["type"] == "missing")
    if not first["loc"]:  # a rule about several settings
        return _rule(first)
    field = str(first["loc"][0])
    name = "RUN" if field in POSITIONAL else name_of(field)
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return f"{name} is missing; --help says what it is"
    # A value that may be of two types breaks a rule of each.
    same = [e for e in errors if e["loc"][0] == field and isinstance(e["loc"][-1], str)] or [first]
    others = [_rule(each).removeprefix("must be ") for each in same[1:]]
    value = first["input"]
    shown = " ".join(map(str, value)) if isinstance(value, list) else value
    return f"{name} {shown}: {' or '.join([_rule(same[0]), *others])}"


def _rule(error: ErrorDetails) -> str:
    if error["type"] not in _RULES:
        return error["msg"].replace("Input should be", "must be")
    rule = _RULES[error["type"]].format(**error.get("ctx", {}))
    return rule.replace("'", "") if error["type"] == "literal_error" else rule
