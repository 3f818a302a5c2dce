"""The kinds of hostile input: one grammar for each format of files, one for extensions, one for the environment."""

import gzip
import json
import os
import sqlite3
import struct
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.mutate import anything, mutate_bytes, mutate_plain, replace_path, to_json
from tests.fuzz.options import OPTION_PARTS, make_options
from tests.fuzz.sandbox import INSIDE, Attack, Grammar
from tests.fuzz.seeds import KINDS, OTHER, PREDICTOR, PROFILE, SPACE, TABLE, TOY, TOY_GPU

Command = tuple[str, ...]

SHOW: Command = ("profiles", "show", f"{TOY}/{Path(PROFILE).name}", "--profiles", "profiles")
LIST: Command = ("profiles", "--profiles", "profiles")
FIT: Command = ("fit", "--device", TOY, "--profiles", "profiles", "--metric", "latency_ms", "--out", "fitted")
FIT_FROM: Command = ("fit", "--device", OTHER, *FIT[3:], "--from", TOY, "--predictors", "predictors")
FIT_TABLE: Command = ("fit", "--device", TOY_GPU, "--profiles", "profiles", "--out", "fitted")
NETWORK = f"{SPACE}:random:1"
PREDICT: Command = ("predict", NETWORK, "--device", TOY, "--allow-outside", "--predictors", "predictors")
QUERY: Command = ("query", "runs/search")
SEARCH: Command = (
    *("search", "--space", SPACE, "--no-accuracy", "--objective", "latency_ms", "--device", TOY),
    *("--predictors", "predictors", "--budget", "10", "--no-verify", "--export-top", "0", "--dry-run"),
)
IMPORT_TABLE: Command = (
    *("profiles", "import-timm", "benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv", "--out", "imported"),
)
REPORT: Command = ("report", "runs/search")
RESUME_SEARCH: Command = ("search", "--resume", "runs/half-search")
RESUME_TRAIN: Command = ("train", "--resume", "--out", "runs/half")
EVALUATE: Command = ("evaluate", "runs/super", "min")
PROFILE_AGAIN: Command = (
    *("profile", "--space", SPACE, "--device", "cpu", "--runtime", "onnxruntime", "--no-reference-networks"),
    *("--samples", "4", "--out", "own"),
)
SEARCHED = ("runs/search", "runs/super", "predictors")
HALF_SEARCHED = ("runs/half-search", "runs/super", "predictors")


def base_of(case: Path) -> Path:
    """Return the folder around a case."""
    return case.parents[len(INSIDE.parts)]


def _edit_json(path: Path, rng: Random, *, indent: int | None = None) -> str:
    document, what = mutate_plain(json.loads(path.read_bytes()), rng)
    path.write_bytes(to_json(document, root=base_of(_case_of(path)), indent=indent))
    return f"{path.name}: {what}"


def _edit_line(path: Path, rng: Random) -> str:
    """Change one line of a file of JSON lines."""
    lines = path.read_bytes().splitlines()
    index = rng.choice((0, len(lines) - 1, rng.randrange(len(lines))))
    document, what = mutate_plain(json.loads(lines[index]), rng)
    lines[index] = to_json(document, root=base_of(_case_of(path)))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return f"{path.name} line {index + 1}: {what}"


def _edit_bytes(path: Path, rng: Random) -> str:
    data, what = mutate_bytes(path.read_bytes(), rng)
    path.write_bytes(data)
    return f"{path.name}: {what}"


def _edit_place(path: Path, rng: Random) -> str:
    return replace_path(path, rng, root=base_of(_case_of(path)))


def _case_of(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.name == "case")


Edit = Callable[[Path, Random], str]


def _file_grammar(
    name: str,
    parts: Sequence[str],
    files: Sequence[str],
    commands: Sequence[Command],
    *edits: Edit,
    weight: int = 1,
    quick: bool = True,
    strict: Sequence[Command] = (),
) -> Grammar:
    """A grammar that changes one of some files and runs one of some commands.

    Args:
        name: Its name.
        parts: The seeds that it needs.
        files: Glob patterns of the files, below the folder of the case.
        commands: Commands that read the files.
        edits: Changes of the content, each as likely; bytes and the place itself are changed less often.
        weight: Share of the cases.
        quick: True if the commands take a fraction of a second.
        strict: Commands that must fail if a document is no longer JSON.
    """

    def make(case: Path, rng: Random) -> Attack:
        path = rng.choice([found for pattern in files for found in sorted(case.glob(pattern))])
        edit: Edit = rng.choice([*edits * 3, *(_edit_bytes,) * (2 if edits else 5), _edit_place])
        what = edit(path, rng)
        command = rng.choice(commands)
        broken = command in strict and path.suffix == ".json" and not _is_json(path)
        names: tuple[str, ...] = ()
        # Flipped bits may be those of a weight, which shows only when the network runs.
        if (
            edit is not _edit_tensor_values
            and "bits flipped" not in what
            and command[0] not in _CHOOSING
            and "['data']['name']" not in what
        ):
            names = (path.name, path.parent.name, path.parents[1].name)
        return Attack(arguments=command, what=what, must_fail=broken, names=names)

    return Grammar(name=name, parts=tuple(parts), make=make, weight=weight, quick=quick, commands=tuple(commands))


_CHOOSING = ("fit", "predict")
"""Commands that take what suits them of many folders: what is damaged is as good as absent there."""


def _is_json(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (ValueError, RecursionError):
        return False


# -------------------------------------------------------------------------------------------- sealed files


def _edit_predictor(path: Path, rng: Random) -> str:
    """Change the card or the model of a predictor, with digests that fit again."""
    model_path, card_path = path.with_name("model.json"), path.with_name("card.json")
    model, card, what = json.loads(model_path.read_bytes()), json.loads(card_path.read_bytes()), ""
    if path.name == "model.json":
        model, what = _mutate_model(model, rng)
    else:
        card, what = mutate_plain(card, rng)
    text = to_json(model, root=base_of(_case_of(path)))
    model_path.write_bytes(text)
    if isinstance(card, dict):
        card = {**card, "model_sha256": sha256(text).hexdigest(), "card_sha256": ""}
    card_path.write_bytes(to_json(card, root=base_of(_case_of(path))))
    return f"{path.name}, {_reseal(path.parent)}: {what}"


def _mutate_model(model: dict[str, Any], rng: Random) -> tuple[Any, str]:
    """Often inside the JSON of a boosted model, which a library reads."""
    inner = _find_tree(model)
    if inner is None or rng.random() < 0.3:
        return mutate_plain(model, rng)
    parent, key = inner
    document = json.loads(parent[key]) if isinstance(parent[key], str) else parent[key]
    trees = document["learner"]["gradient_booster"]["model"]["trees"]
    target = rng.choice(trees)
    name = rng.choice(sorted(target))
    if isinstance(target[name], list) and target[name] and rng.random() < 0.7:
        index = rng.randrange(len(target[name]))
        target[name][index] = rng.choice((-1, -2, 0, index, len(target[name]), 10**6, 2**31 - 1, 2**40, 1.5, "x", None))
        what = f"a tree's {name}[{index}] = {target[name][index]}"
    else:
        document, what = mutate_plain(document, rng)
    parent[key] = json.dumps(document) if isinstance(parent[key], str) else document
    return model, what


def _find_tree(value: Any) -> tuple[Any, Any] | None:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        is_text = isinstance(item, str) and item.startswith('{"learner"')
        if is_text or (isinstance(item, dict) and "learner" in item):
            return value, key
        found = _find_tree(item)
        if found is not None:
            return found
    return None


def _reseal(folder: Path) -> str:
    """Write the digests with the functions of hwnas where the card can still be read."""
    from dataclasses import replace

    from hwnas.config import load_json
    from hwnas.predict.card import card_from_json, card_json, sealed

    card_path = folder / "card.json"
    try:
        card = card_from_json(load_json(card_path), source="card")
        text = (folder / "model.json").read_text()
        card_path.write_text(json.dumps(card_json(sealed(replace(card, card_sha256=""), model_text=text))))
    except Exception as error:  # a card that cannot be read is a case as well
        return f"not resealed ({type(error).__name__})"
    return "resealed"


def _edit_table(path: Path, rng: Random) -> str:
    """Change the manifest or the rows of a table, with a digest that fits again."""
    manifest = path.with_name("table.json")
    if path.name == "table.json":
        return _edit_json(path, rng)
    if rng.random() < 0.6:
        lines = [line.split(",") for line in path.read_text().splitlines()]
        row = rng.randrange(len(lines))
        lines[row][rng.randrange(len(lines[row]))] = str(anything(rng)).replace("\ud800", "?")
        what = f"table.csv: a field of line {row + 1} changed"
        path.write_text("\n".join(",".join(line) for line in lines) + "\n")
    else:
        what = _edit_bytes(path, rng)
    document = json.loads(manifest.read_bytes())
    document["sha256"] = sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(document))
    return what


# ------------------------------------------------------------------------------------------- binary formats


def _edit_study(path: Path, rng: Random) -> str:
    """Change a study with statements that its schema never sees."""
    tables = {
        "meta": ("key", "value"),
        "candidates": ("id", "genome", "arch_id", "generation"),
        "metrics": ("id", "name"),
        "evaluations": ("metric", "source", "candidate", "value", "lower", "upper", "unix_time_s"),
    }
    table = rng.choice(sorted(tables))
    first = tables[table][0]
    column = rng.choice(tables[table])
    value = rng.choice(
        (None, -1, 0, 10**15, 1.5, float("inf"), "text", "", b"", b"\xff\xfe", b"x" * 1000, "[]", "null")
    )
    statements: list[tuple[str, tuple[Any, ...]]] = [
        (f"DROP TABLE {table}", ()),
        (f"DELETE FROM {table}", ()),
        (f"DELETE FROM {table} WHERE rowid % 2" if table != "meta" else "DELETE FROM meta WHERE key <> 'config'", ()),
        (f"ALTER TABLE {table} RENAME COLUMN {column} TO renamed", ()),
        (f"ALTER TABLE {table} RENAME TO renamed", ()),
        (f"ALTER TABLE {table} ADD COLUMN extra TEXT", ()),
        (f"UPDATE {table} SET {column} = ?", (value,)),
        (
            f"UPDATE {table} SET {column} = ? WHERE {first} IN (SELECT {first} FROM {table} LIMIT 1)",
            (value,),
        ),
        ("PRAGMA user_version = 77", ()),
        ("CREATE TRIGGER bad AFTER INSERT ON candidates BEGIN DELETE FROM candidates; END", ()),
        ("CREATE TABLE other (a)", ()),
        ("INSERT INTO meta VALUES (?, ?)", ("other", "{")),
    ]
    statement, values = rng.choice(statements)
    connection = sqlite3.connect(path)
    try:
        _, config = connection.execute("SELECT * FROM meta WHERE key = 'config'").fetchone()
        if rng.random() < 0.2:
            document, what = mutate_plain(json.loads(config), rng)
            statement, values = (
                "UPDATE meta SET value = ? WHERE key = 'config'",
                (to_json(document, root=path).decode(),),
            )
            what = f"config: {what}"
        else:
            what = f"{statement} {values!r}"[:160]
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(statement, values)
        connection.commit()
    except sqlite3.Error as error:
        what = f"{what} ({error})"
    finally:
        connection.close()
    return what


def _edit_pages(path: Path, rng: Random) -> str:
    """Zero, swap or flip whole pages."""
    data = bytearray(path.read_bytes())
    page = rng.randrange(len(data) // 4096)
    start = 4096 * page
    kind = rng.choice(("zeroed", "filled", "flipped"))
    if kind == "zeroed":
        data[start : start + 4096] = bytes(4096)
    elif kind == "filled":
        data[start : start + 4096] = b"\xff" * 4096
    else:
        for _ in range(40):
            data[start + rng.randrange(4096)] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"{path.name}: page {page} {kind}"


def _edit_tensors(path: Path, rng: Random) -> str:
    """Change the header of a file of tensors: its metadata, which is JSON inside JSON, or the tensors' rows."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    if rng.random() < 0.75:
        inner, what = mutate_plain(json.loads(header["__metadata__"]["hwnas"]), rng)
        header["__metadata__"]["hwnas"] = to_json(inner, root=base_of(_case_of(path))).decode()
        what = f"metadata {what}"
    else:
        header, what = mutate_plain(header, rng)
    text = to_json(header, root=base_of(_case_of(path)))
    length = len(text) if rng.random() < 0.95 else rng.choice((0, len(text) - 1, 2**40, 2**63))
    path.write_bytes(struct.pack("<Q", length) + text + body)
    return f"{path.name}: {what}"


def _edit_tensor_values(path: Path, rng: Random) -> str:
    """Fill part of the values of the tensors with NaN, infinity or noise."""
    data = bytearray(path.read_bytes())
    (size,) = struct.unpack("<Q", data[:8])
    start = 8 + size + 4 * rng.randrange((len(data) - 8 - size) // 4)
    fill = rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", rng.randbytes(4)))
    count = min(rng.choice((1, 100, 100_000)), (len(data) - start) // 4)
    data[start : start + 4 * count] = fill * count
    path.write_bytes(data)
    return f"{path.name}: {count} values are {fill.hex()}"


def _edit_gzip_lines(path: Path, rng: Random) -> str:
    if rng.random() < 0.05:
        path.write_bytes(gzip.compress(bytes(1 << 30), compresslevel=1))
        return f"{path.name}: 1 GiB of zeros"
    plain = path.with_name("plain")
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    what = (_edit_line if rng.random() < 0.8 else _edit_bytes)(plain, rng)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return f"{path.name}: {what}"


# ----------------------------------------------------------------------------------------------- images


def _make_images(case: Path, rng: Random) -> Attack:
    """Put hostile files among images."""
    folder = case / "images" / rng.choice(("train", "train/cat", "train/dog", "val/cat"))
    what = rng.choice(sorted(_HOSTILE_FILES))
    path = folder / rng.choice(("0.png", "x.png", "x.jpg", "x.avif", "x.webp", "x.spider", "x"))
    path.unlink(missing_ok=True)
    _HOSTILE_FILES[what](path, base_of(case), rng)
    return Attack(arguments=_train_on("images"), what=f"{path.relative_to(case)}: {what}")


def _train_on(data: str) -> Command:
    return (
        "train",
        "--space",
        SPACE,
        "--data",
        data,
        "--epochs",
        "1",
        "--batch",
        "8",
        "--out",
        "runs/new",
        "--dry-run",
    )


def _valid_png(width: int = 8, height: int = 8, mode: str = "RGB", kind: str = "PNG") -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, format=kind)
    return buffer.getvalue()


def _write_flipped(path: Path, base: Path, rng: Random) -> None:
    path.write_bytes(mutate_bytes(_valid_png(), rng)[0])


_HOSTILE_FILES: dict[str, Callable[[Path, Path, Random], object]] = {
    "named pipe": lambda path, base, rng: os.mkfifo(path),
    "folder": lambda path, base, rng: path.mkdir(),
    "link outside": lambda path, base, rng: path.symlink_to(base / "secret.txt"),
    "link loop": lambda path, base, rng: path.symlink_to(path.name),
    "link to a folder above": lambda path, base, rng: path.symlink_to(".."),
    "device": lambda path, base, rng: path.symlink_to("/dev/zero"),
    "empty": lambda path, base, rng: path.write_bytes(b""),
    "text": lambda path, base, rng: path.write_bytes(b"no image"),
    "damaged": _write_flipped,
    "one pixel": lambda path, base, rng: path.write_bytes(_valid_png(1, 1)),
    "very wide": lambda path, base, rng: path.write_bytes(_valid_png(60_000, 1)),
    "very large": lambda path, base, rng: path.write_bytes(_valid_png(14_000, 14_000, "1")),
    "palette": lambda path, base, rng: path.write_bytes(_valid_png(8, 8, "P")),
    "sixteen bit": lambda path, base, rng: path.write_bytes(_valid_png(8, 8, "I;16")),
    "floating point TIFF": lambda path, base, rng: path.write_bytes(_valid_png(8, 8, "F", "TIFF")),
    "SPIDER": lambda path, base, rng: path.write_bytes(_valid_png(8, 8, "F", "SPIDER")),
    "broken AVIF": lambda path, base, rng: path.write_bytes(b"\x00\x00\x00\x20ftypavif" + rng.randbytes(80)),
    "name that is no UTF-8": lambda path, base, rng: Path(os.fsdecode(bytes(path) + b"\xff\xfe.png")).write_bytes(
        _valid_png()
    ),
    "name with a line break": lambda path, base, rng: path.with_name("a\nb\x1b[31m.png").write_bytes(_valid_png()),
    "empty class": lambda path, base, rng: (path.parents[1] / "empty").mkdir(exist_ok=True),
    "socket": lambda path, base, rng: _make_socket(path),
}


def _make_socket(path: Path) -> None:
    import socket

    place = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(place)


def _make_parquet(case: Path, rng: Random) -> Attack:
    import pyarrow
    from pyarrow import parquet

    path = case / "parquet" / rng.choice(("train-00000.parquet", "test-00000.parquet"))
    kind = rng.choice(("bytes", "labels", "images", "columns", "place"))
    if kind == "bytes":
        what = _edit_bytes(path, rng)
    elif kind == "place":
        what = _edit_place(path, rng)
    else:
        table = parquet.read_table(path)
        count = len(table)
        labels: list[Any] = list(range(count))
        if kind == "labels":
            value = rng.choice((-1, 3 * 10**8, 2**40, None, 10**6, -(2**62)))
            labels = [index % 2 for index in range(count - 1)] + [value]
            column, what = pyarrow.array(labels, type=pyarrow.int64()), f"the last label is {value}"
            table = table.set_column(table.column_names.index("label"), "label", column)
        elif kind == "images":
            image = rng.choice((None, b"", b"x", b"\x89PNG\r\n\x1a\n", {"path": "/etc/passwd"}))
            column, what = _image_column(count, image), f"images are {image!r}"
            table = table.set_column(table.column_names.index("image"), "image", column)
        else:
            made: Any = rng.choice((["x"] * count, [1.5] * count, [True] * count, [[1]] * count, [None] * count))
            name = rng.choice(("label", "image"))
            table = table.set_column(table.column_names.index(name), name, pyarrow.array(made))
            what = f"{name} is {made[0]!r}"
            if rng.random() < 0.3:
                table, what = table.drop_columns([name]), f"no {name}"
        if rng.random() < 0.3:
            meta = rng.choice(
                (b"{", b"[]", b'{"info": 1}', b'{"info": {"features": {"label": {"names": 3}}}}', b"\xff")
            )
            table, what = table.replace_schema_metadata({b"huggingface": meta}), f"{what}, metadata {meta!r}"
        parquet.write_table(table, path)
    data = rng.choice(("parquet", f"parquet/{path.name}"))
    return Attack(arguments=_train_on(data), what=f"{path.name}: {what}")


def _image_column(count: int, value: Any) -> Any:
    import pyarrow

    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    row = value if isinstance(value, dict) else {"bytes": value, "path": None}
    return pyarrow.array([row] * count, type=kind)


def _make_shards(case: Path, rng: Random) -> Attack:
    import io
    import tarfile

    path = case / "wds" / "train-000000.tar"
    kind = rng.choice(("bytes", "place", "members", "members"))
    if kind != "members":
        what = (_edit_bytes if kind == "bytes" else _edit_place)(path, rng)
        return Attack(arguments=_train_on("wds/wds"), what=what)
    name = rng.choice(
        ("../../evil/x.png", "/abs.png", "x" * 300 + ".png", "a\nb.png", "é.png", "9999.cls", "9999.json", ".png")
    )
    content = rng.choice((b"", b"x", b"-1", b"99999999999999999999", b"1.5", b"\xff", _valid_png(), b'{"label": []}'))
    member = tarfile.TarInfo(name)
    member.type = rng.choice((tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE))
    member.linkname = "../../../secret.txt"
    member.size = len(content) if member.type == tarfile.REGTYPE else 0
    with tarfile.open(path, "a") as tar:
        tar.addfile(member, io.BytesIO(content))
    return Attack(
        arguments=_train_on("wds/wds"), what=f"a member {name[:40]!r} of type {member.type!r}, {content[:20]!r}"
    )


# -------------------------------------------------------------------------------------- code and environment

_EXTENSIONS = (
    "exit(0)",
    "import sys; sys.exit()",
    "import sys; sys.exit('text')",
    "import sys; sys.exit(4)",
    "raise KeyboardInterrupt",
    "raise BaseException('x')",
    "raise GeneratorExit",
    "raise SystemExit(70)",
    "raise MemoryError",
    "raise RecursionError",
    "def f(): f()\nf()",
    "raise Exception('\\ud800')",
    "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
    "import does_not_exist",
    "x = (",
    "\x00",
    "from hwnas.space import SPACES\nSPACES.add('x', None)",
    "from hwnas.space import SPACES\nSPACES.add('autoformer-tiny', object())",
    "from hwnas.space import SPACES\nSPACES.add('../evil', 'no.module:x')",
    "from hwnas.metrics import RUNTIMES\nRUNTIMES.add('mine', 'no.module:x')",
    "from hwnas.metrics import RUNTIMES\nRUNTIMES.add('', '')",
    "print('on standard output')",
    "import warnings; warnings.simplefilter('error')",
)


def _make_extension(case: Path, rng: Random) -> Attack:
    path, named = case / "extension.py", "extension.py"
    what = rng.choice((*_EXTENSIONS, *_EXTENSIONS, "bytes", "place", "name"))
    if what == "bytes":
        path.write_bytes(rng.randbytes(50))
    elif what == "place":
        what = _edit_place(path, rng)
    elif what == "name":
        named = what = rng.choice(
            ("json.py", "../x.py", ".py", "a b.py", "no_such", "a.b.c", "..", "x" * 300 + ".py", "é.py")
        )
    else:
        path.write_text(what)
    describe = ("describe", SPACE, "min")
    command = rng.choice((describe, describe, describe, ("completion", "bash"), ("completion", "zsh"), ("spaces",)))
    return Attack(arguments=command, environ={"HWNAS_EXTENSIONS": named}, what=f"extension {what!r}")


_VARIABLES = (
    *("HWNAS_CACHE", "HWNAS_PROFILES", "HWNAS_PREDICTORS", "HWNAS_EXTENSIONS", "HWNAS_MATMUL", "WORLD_SIZE", "RANK"),
    *("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "COMP_WORDS", "COMP_CWORD", "_HWNAS_COMPLETE", "HOME", "TMPDIR"),
    *("XDG_CACHE_HOME", "COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR", "CUDA_VISIBLE_DEVICES", "PATH"),
)
_VALUES = (
    *("", "x", "-1", "0", "1", "2", "1.5", "99999999999999999999", "no/such", "/proc", "/dev/null", "x" * 5000, "é"),
    *("\udcff\udcfe", "bash_complete", "zsh_complete", "bash_source", "complete", "arch.json", ":", "a:b", "~", "nan"),
)


def _make_environment(case: Path, rng: Random) -> Attack:
    names = rng.sample(_VARIABLES, rng.choice((1, 1, 2)))
    if rng.random() < 0.15:
        names = ["_HWNAS_COMPLETE", "COMP_WORDS", "COMP_CWORD"]
    environ = {name: rng.choice(_VALUES) for name in names}
    if environ.get("WORLD_SIZE") == "2":  # valid beside a rank: it waits for the other process
        environ["WORLD_SIZE"] = "abc"
    if names[0] == "_HWNAS_COMPLETE":
        environ["_HWNAS_COMPLETE"] = rng.choice(("bash_complete", "zsh_complete", "fish_complete", "bash_source"))
    commands = [
        LIST,
        PREDICT,
        EVALUATE,
        _train_on("digits"),
        ("completion", "bash"),
        ("describe", SPACE, "min"),
    ]
    return Attack(arguments=rng.choice(commands), environ=environ, what=f"environment {environ!r}"[:200])


def _make_locked(case: Path, rng: Random) -> Attack:
    """Another program holds a lock on the database of a study."""
    folder = rng.choice(("runs/search", "runs/half-search"))
    connection = sqlite3.connect(case / folder / "study.sqlite", isolation_level=None)
    mode = rng.choice(("EXCLUSIVE", "IMMEDIATE", "DEFERRED"))
    connection.execute(f"BEGIN {mode}")
    connection.execute("SELECT COUNT(*) FROM meta").fetchone()
    _KEPT_OPEN.append(connection)
    commands = [("query", folder), ("search", "--resume", folder)]
    return Attack(arguments=rng.choice(commands), what=f"another connection holds a {mode} transaction")


_KEPT_OPEN: list[sqlite3.Connection] = []


def _make_import(case: Path, rng: Random) -> Attack:
    import torch

    contents: tuple[Any, ...] = (
        {},
        [],
        {"model": {}},
        {"model": {"x": 1}},
        {"model": {"blocks.0": torch.zeros(1)}},
        {"model": {1: torch.zeros(1)}},
        {"state_dict": [torch.zeros(2)]},
        torch.zeros(3),
        {"model": {"pos_embed": torch.full((1, 1, 1), float("nan"))}},
        {"model": {"blocks.99999999999999.x": torch.zeros(1)}},
        {"model": {"\ud800": torch.zeros(1)} if rng.random() < 0.5 else {"a\x00": torch.zeros(1)}},
    )
    path = case / "official.pth"
    torch.save(rng.choice(contents), path)
    what = _edit_bytes(path, rng) if rng.random() < 0.4 else "a checkpoint without the weights"
    if rng.random() < 0.15:
        what = _edit_place(path, rng)
    arguments = ("import", "autoformer", "official.pth", "--space", "autoformer-tiny", "--out", "ours.safetensors")
    return Attack(arguments=arguments, what=what, must_fail=True)


def _make_recipe(case: Path, rng: Random) -> Attack:
    import tomli_w

    path = case / "recipe.toml"
    if rng.random() < 0.8:
        import tomllib

        document, what = mutate_plain(tomllib.loads(path.read_text()), rng)
        try:
            text = tomli_w.dumps(document).encode()
            path.write_bytes(text)
        except (TypeError, ValueError, AttributeError, RecursionError):  # what TOML cannot say
            what = _edit_bytes(path, rng)
    else:
        what = rng.choice((_edit_bytes, _edit_place))(path, rng)
    dry = ("--dry-run",) if rng.random() < 0.5 else ()
    return Attack(arguments=("train", *_SMALL_TRAINING, "--config", "recipe.toml", *dry), what=what)


_SMALL_TRAINING = (
    *("--space", SPACE, "--data", "digits", "--max-images", "200", "--heldout", "40", "--out", "runs/new"),
)


def _make_arch(case: Path, rng: Random) -> Attack:
    if rng.random() < 0.5:
        edit = rng.choice((_edit_json, _edit_json, _edit_json, _edit_bytes, _edit_place))
        what = edit(case / "arch.json", rng)
        return Attack(arguments=("describe", SPACE, "arch.json"), what=what)
    edit = rng.choice((_edit_line, _edit_line, _edit_line, _edit_bytes, _edit_place))
    what = edit(case / "archs.jsonl", rng)
    return Attack(arguments=("predict", "archs.jsonl", *PREDICT[2:]), what=what)


def _make_import_table(case: Path, rng: Random) -> Attack:
    name, command = IMPORT_TABLE[2], IMPORT_TABLE
    if rng.random() < 0.3:
        device = rng.choice(("../../evil", "a/b", "x" * 300, "", ".", "..", "é", "-", "a b"))
        return Attack(arguments=(*command, "--device", device), what=f"device {device!r}"[:80])
    if rng.random() < 0.2:
        new = "benchmark-infer-amp-nchw-pt240-cu124-" + rng.choice(("..", "x" * 200, "a b", "é", "_")) + ".csv"
        (case / name).rename(case / new)
        return Attack(arguments=("profiles", "import-timm", new, "--out", "imported"), what=f"file {new!r}"[:80])
    path = case / name
    if rng.random() < 0.6:
        lines = [line.split(",") for line in path.read_text().splitlines()]
        row = rng.randrange(len(lines))
        lines[row][rng.randrange(len(lines[row]))] = str(anything(rng)).replace("\ud800", "?")
        path.write_text("\n".join(",".join(line) for line in lines) + "\n")
        return Attack(arguments=command, what=f"a field of line {row + 1} changed")
    return Attack(arguments=command, what=rng.choice((_edit_bytes, _edit_place))(path, rng))


def _make_templates(case: Path, rng: Random) -> Attack:
    path = rng.choice(sorted((case / "cache" / "templates").glob("*.json")))
    what = rng.choice((_edit_json, _edit_json, _edit_bytes, _edit_place))(path, rng)
    command = ("export", SPACE, "min", "--out", "network.onnx")
    return Attack(arguments=command, environ={"HWNAS_CACHE": str(case / "cache")}, what=what)


GRAMMARS: tuple[Grammar, ...] = (
    _file_grammar(
        "manifest", ("profiles",), [f"{PROFILE}/manifest.json"], [SHOW, LIST, FIT], _edit_json, strict=[SHOW], weight=4
    ),
    _file_grammar(
        "measurements", ("profiles",), [f"{PROFILE}/measurements.jsonl"], [SHOW, SHOW, LIST, FIT], _edit_line, weight=3
    ),
    _file_grammar("store", ("own",), ["own/*/*/*.json*"], [PROFILE_AGAIN], weight=1),
    _file_grammar("store-manifest", ("own",), ["own/*/*/manifest.json"], [PROFILE_AGAIN], _edit_json, weight=1),
    _file_grammar("store-rows", ("own",), ["own/*/*/measurements.jsonl"], [PROFILE_AGAIN], _edit_line, weight=1),
    _file_grammar("table", ("profiles",), [f"{TABLE}/table.*"], [FIT_TABLE, FIT_TABLE, LIST], _edit_table, weight=4),
    _file_grammar("workloads", ("profiles",), ["profiles/*.gz"], [FIT_TABLE], _edit_gzip_lines, weight=2),
    Grammar(
        name="import-table",
        parts=("imported", "benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv"),
        make=_make_import_table,
        commands=(IMPORT_TABLE,),
        weight=3,
    ),
    _file_grammar(
        "plan",
        ("plan.jsonl",),
        ["plan.jsonl"],
        [("profile", "--plan", "plan.jsonl", "--out", "out")],
        _edit_line,
        weight=4,
    ),
    _file_grammar(
        "predictor",
        ("predictors", "profiles"),
        [f"{PREDICTOR}/card.json", f"{PREDICTOR}/model.json"],
        [PREDICT, PREDICT, (*PREDICT, "--json"), SEARCH, FIT_FROM],
        _edit_predictor,
        strict=[PREDICT],
        weight=6,
    ),
    *(
        _file_grammar(
            f"model-{kind}",
            (f"kinds/{kind}",),
            [f"kinds/{kind}/*/*/latency_ms/{name}.json" for name in ("model", "model", "card")],
            [("predict", NETWORK, "--device", OTHER if kind == "transfer" else TOY, *PREDICT[4:-1], f"kinds/{kind}")],
            _edit_predictor,
            weight=5 if kind == "boosted" else 2,
        )
        for kind in KINDS
    ),
    _file_grammar(
        "study",
        (*SEARCHED, "runs/half-search"),
        ["runs/*/study.sqlite"],
        [QUERY, QUERY, QUERY, RESUME_SEARCH],
        *(_edit_study,) * 3,
        _edit_pages,
        weight=4,
    ),
    Grammar(name="locked-study", parts=(*SEARCHED, "runs/half-search"), make=_make_locked, quick=False),
    _file_grammar(
        "record",
        SEARCHED,
        ["runs/search/search.json"],
        [QUERY, QUERY, ("search", "--resume", "runs/search")],
        _edit_json,
        strict=[QUERY],
        weight=4,
    ),
    _file_grammar("search-manifest", HALF_SEARCHED, ["runs/*/manifest.json"], [RESUME_SEARCH], _edit_json, weight=2),
    _file_grammar("train-manifest", ("runs/half",), ["runs/half/manifest.json"], [RESUME_TRAIN], _edit_json, weight=3),
    _file_grammar("run-manifest", ("runs/super",), ["runs/super/manifest.json"], [EVALUATE], _edit_json, weight=4),
    _file_grammar("accuracies", ("runs/super",), ["runs/super/accuracies.jsonl"], [EVALUATE], _edit_line, weight=2),
    _file_grammar("metrics", ("runs/half",), ["runs/half/*.jsonl"], [RESUME_TRAIN], _edit_line, weight=1),
    _file_grammar(
        "run-files",
        ("runs/half", "runs/super"),
        ["runs/half/*.*", "runs/super/*.*"],
        [RESUME_TRAIN, EVALUATE],
        weight=1,
    ),
    _file_grammar(
        "checkpoint",
        ("runs/half",),
        ["runs/half/checkpoints/*"],
        [RESUME_TRAIN],
        *(_edit_tensors,) * 4,
        _edit_tensor_values,
        weight=4,
    ),
    _file_grammar(
        "weights",
        ("runs/super",),
        ["runs/super/supernet.safetensors"],
        [
            EVALUATE,
            EVALUATE,
            ("train", "--supernet", "runs/super/supernet.safetensors", *_SMALL_TRAINING[2:], "--epochs", "1"),
        ],
        *(_edit_tensors,) * 4,
        _edit_tensor_values,
        weight=4,
    ),
    Grammar(
        name="recipe",
        parts=("recipe.toml",),
        make=_make_recipe,
        commands=(("train", *_SMALL_TRAINING, "--config", "recipe.toml"),),
        weight=3,
    ),
    Grammar(
        name="arch",
        parts=("arch.json", "archs.jsonl", "predictors"),
        make=_make_arch,
        commands=(("describe", SPACE, "arch.json"), ("predict", "archs.jsonl", *PREDICT[2:])),
        weight=5,
    ),
    Grammar(name="images", parts=("images",), make=_make_images, commands=(_train_on("images"),), weight=3),
    Grammar(
        name="parquet",
        parts=("parquet",),
        make=_make_parquet,
        commands=(_train_on("parquet"), _train_on("parquet/train-00000.parquet")),
        weight=3,
    ),
    Grammar(name="shards", parts=("wds",), make=_make_shards, commands=(_train_on("wds/wds"),), weight=2),
    Grammar(name="extension", parts=("extension.py",), make=_make_extension, weight=5),
    Grammar(
        name="environment",
        parts=("profiles", "predictors", "runs/super", "arch.json"),
        make=_make_environment,
        weight=2,
    ),
    Grammar(name="import", parts=(), make=_make_import, weight=4),
    Grammar(name="templates", parts=("cache",), make=_make_templates, quick=False),
    _file_grammar("report-record", SEARCHED, ["runs/search/search.json"], [REPORT], _edit_json, quick=False),
    _file_grammar("report-study", SEARCHED, ["runs/search/study.sqlite"], [REPORT], _edit_study, quick=False),
    Grammar(name="options", parts=OPTION_PARTS, make=make_options, weight=16),
)
"""All grammars, in no order that matters: a case is named by its grammar, a seed and a number."""

BY_NAME = {grammar.name: grammar for grammar in GRAMMARS}
