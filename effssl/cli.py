"""Command line and YAML files -> settings: set defaults < `--config` YAML < flags."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from effssl import InputError
from effssl.commands import Embed, Evaluation, Export, check_evaluation
from effssl.config import (
    FIELDS,
    SET_DEFAULTS,
    SWITCHES,
    Config,
    Images,
    Storage,
    check_values,
    flag_of,
    flat,
)

T = TypeVar("T")

# A resumed run may change where and for how long it runs, and what it reports; nothing that moves the weights.
RESUME_MAY_CHANGE = {
    *("data_dir", "beton_dir", "workers", "max_seconds", "device", "out", "resume"),
    *("log_every", "save_every_s", "probe_every", "probe_images"),
}
_NOT_SAVED = ("out", "resume")


def parse(argv: list[str] | None = None) -> Config:
    """Read the command line (sys.argv when None) and the files it names.

    Raises InputError for anything that is not a valid setting. `--help` prints help and exits.
    """
    flags = list(sys.argv[1:] if argv is None else argv)
    flags, files = _take_option(flags, "--config")
    flags, resumed = _take_option(flags, "--resume")
    _check_flags(flags, FIELDS, ["--config", "--help"])
    layers = [token for file in files for token in _yaml_to_argv(Path(file))] + flags
    if resumed:
        return _resumed(Path(resumed[-1]), layers)
    asks_help = bool({"-h", "--help"} & set(flags))
    data = _tyro([t for t in layers if t not in ("-h", "--help")]).images.data  # whose defaults lie below all else
    defaults = _tyro(_settings_to_argv({"data": data} | SET_DEFAULTS[data]))
    if asks_help:
        tyro.cli(_FLAT, args=["--help"], default=defaults, prog=_PROGRAM)
    cfg = _tyro(layers, defaults)
    check_values(cfg)
    return cfg


def parse_storage(argv: list[str] | None = None) -> Storage:
    """Read the command line of effssl.prepare; otherwise as `parse`, but without files."""
    storage = _parse_command(Storage, "prepare", argv)
    check_values(Config(images=Images(**vars(storage))))
    return storage


def parse_evaluation(argv: list[str] | None = None) -> Evaluation:
    """Read the command line of effssl.evaluate; otherwise as `parse`, but without files."""
    settings = _parse_command(Evaluation, "evaluate", argv)
    check_evaluation(settings)
    return settings


def parse_export(argv: list[str] | None = None) -> Export:
    """Read the command line of effssl.export; otherwise as `parse`, but without files."""
    return _parse_command(Export, "export", argv)


def parse_embed(argv: list[str] | None = None) -> Embed:
    """Read the command line of effssl.embed; otherwise as `parse`, but without files."""
    settings = _parse_command(Embed, "embed", argv)
    if (settings.images is None) == (settings.data is None):
        raise InputError("name what to embed: --images DIR for a folder of images, or --data SET --data-dir DIR")
    return settings


def _parse_command(kind: type[T], name: str, argv: list[str] | None) -> T:
    flags, program = list(sys.argv[1:] if argv is None else argv), f"python -m effssl.{name}"
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    negations = [f"--no-{field.name.replace('_', '-')}" for field in fields if field.type == "bool"]
    _check_flags(flags, [field.name for field in fields], ["--help", *negations])
    if {"-h", "--help"} & set(flags):
        tyro.cli(kind, args=["--help"], prog=program)
    return _one_line(lambda: tyro.cli(kind, args=flags, prog=program))


def parse_or_exit(parse: Callable[[], T]) -> T:
    """What `parse` makes of the command line; one line on stderr and exit code 2 for bad input."""
    try:
        return parse()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def save(cfg: Config, path: Path) -> None:
    """Write the resolved settings; the file is itself a valid `--config`."""
    kept = {k: v for k, v in flat(cfg).items() if k not in _NOT_SAVED}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(yaml.safe_dump(kept, sort_keys=False, default_flow_style=None, width=120))
    temporary.replace(path)


def load(path: Path) -> Config:
    """The settings that `save` wrote; those that this version has added since get their defaults. Raises InputError."""
    return _tyro(_yaml_to_argv(path))


def _resumed(run: Path, layers: list[str]) -> Config:
    saved_file = run / "config.yaml"
    if not saved_file.is_file():
        raise InputError(f"--resume {run}: no run there (no {saved_file})")
    saved = load(saved_file)
    asked = _tyro(_yaml_to_argv(saved_file) + layers)
    was, now = flat(saved), flat(asked)
    changed = [k for k in FIELDS if was[k] != now[k] and k not in RESUME_MAY_CHANGE]
    if changed:
        difference = ", ".join(f"{flag_of(k)} {was[k]} -> {now[k]}" for k in changed)
        raise InputError(f"--resume {run}: the settings differ from the run's: {difference}; start a new run instead")
    if asked.run.out is not None and asked.run.out.resolve() != run.resolve():
        raise InputError(f"--resume {run} goes on in that folder; leave --out away")
    check_values(asked)
    return dataclasses.replace(asked, run=dataclasses.replace(asked.run, out=run, resume=run))


def _take_option(tokens: list[str], name: str) -> tuple[list[str], list[str]]:
    """Split `name VALUE` and `name=VALUE` off the tokens."""
    rest: list[str] = []
    values: list[str] = []
    remaining = iter(tokens)
    for token in remaining:
        if token == name:
            value = next(remaining, None)
            if value is None:
                raise InputError(f"{name} needs a value")
            values.append(value)
        elif token.startswith(name + "="):
            values.append(token.partition("=")[2])
        else:
            rest.append(token)
    return rest, values


def _check_flags(tokens: list[str], fields: Iterable[str], others: list[str]) -> None:
    known = [flag_of(k) for k in fields] + [_off(k) for k in SWITCHES] + others
    for token in tokens:
        flag = token.partition("=")[0].replace("_", "-")
        if token.startswith("--") and flag not in known:
            raise InputError(f"unknown flag {token.partition('=')[0]}{_meant(flag, known)}")


def _meant(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else "; --help lists them all"


def _yaml_to_argv(path: Path) -> list[str]:
    try:
        settings = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise InputError(f"--config {path}: expected `key: value` lines")
    for key in settings:
        if key not in FIELDS or key in _NOT_SAVED:
            allowed = [k for k in FIELDS if k not in _NOT_SAVED]
            raise InputError(f"--config {path}: unknown key {key}{_meant(str(key), allowed)}")
    return _settings_to_argv(settings)


def _settings_to_argv(settings: dict[str, Any]) -> list[str]:
    # As arguments every value is parsed by its field's type, which also cures YAML's reading of 3e-4 as text.
    tokens: list[str] = []
    for key, value in settings.items():
        values = value if isinstance(value, list) else [value]
        if key in SWITCHES and isinstance(value, bool):
            tokens.append(flag_of(key) if value else _off(key))
        else:
            tokens += [flag_of(key), *map(_token, values)]
    return tokens


def _off(switch: str) -> str:
    return flag_of(f"no_{switch}")


def _token(value: Any) -> str:
    if isinstance(value, dict):
        return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return str(value).lower() if isinstance(value, bool) else str(value)


_PROGRAM = "python -m effssl.train"
_FLAT = tyro.conf.OmitArgPrefixes[Config]


def _tyro(tokens: list[str], default: Config | None = None) -> Config:
    return _one_line(lambda: tyro.cli(_FLAT, args=tokens, default=default or Config(), prog=_PROGRAM))


def _one_line(read: Callable[[], T]) -> T:
    """What tyro reads; its complaint becomes an InputError of one line."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            return read()
    except SystemExit:
        # tyro prints title, message and hint, parted by rules; the title is in the first rule unless that is ASCII.
        parts = [""]
        for line in printed.getvalue().splitlines():
            bare = line.strip("│ ")
            if line.startswith("╭") or (bare and not bare.strip("─-")):
                parts.append("")
            else:
                parts[-1] += f" {bare}"
        raise InputError(" ".join(parts[:2][-1].split())) from None
