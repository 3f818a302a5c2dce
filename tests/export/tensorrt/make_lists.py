"""Makes the list of everything that the official Python bindings of TensorRT have, by name and call signature.

    python -m tests.export.tensorrt.make_lists 10.16.1.11 11.4.0.106
    python -m tests.export.tensorrt.make_lists --rtx

The bindings are a small wheel beside the library proper, which is large and is not fetched. They import it, so empty
libraries of the same names are compiled with gcc, enough to load the module and look at it, not to run it. Each version
becomes a file `api-VERSION.txt` beside this one: names, signatures and the numbers of enum members, no other text.
TensorRT for RTX is described as it is installed, in `rtx-VERSION.txt`.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType

DISTRIBUTION = "tensorrt-cu12-bindings"

_FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_NAMESPACES = re.compile(
    r"\b(?:tensorrt_bindings\.tensorrt\.|tensorrt\.tensorrt\.|tensorrt_rtx_bindings\.tensorrt_rtx\.|typing\.)"
    r"|\b(?:typing_extensions\.|collections\.abc\.)|\b(?:nvinfer1|nvonnxparser|v_1_0)::"
)
_SELF = re.compile(r"\(self: [\w.]+")
_DEFAULT = re.compile(r"<([\w.]+): -?\d+>")
_OVERLOAD = re.compile(r"^\d+\. ")
_COMMON = {  # what every class of pybind11 or every enum of it has
    "__del__", "__dict__", "__doc__", "__eq__", "__entries", "__enter__", "__exit__", "__ge__", "__getstate__",
    "__gt__", "__hash__", "__index__", "__int__", "__le__", "__lt__", "__members__", "__module__", "__ne__", "__new__",
    "__qualname__", "__repr__", "__setstate__", "__str__", "__weakref__",
}  # fmt: skip
_OF_ENUMS = ("name", "value")


def main() -> None:
    """Make the list of each version that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*")
    parser.add_argument("--rtx", action="store_true", help="the installed TensorRT for RTX")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    for version in arguments.versions:
        lines = make_list(version)
        (arguments.out / f"api-{version}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{version}: {len(lines)} lines")
    if arguments.rtx:
        version, lines = describe_rtx()
        (arguments.out / f"rtx-{version}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{version}: {len(lines)} lines")


def describe_rtx() -> tuple[str, list[str]]:
    """The version and the list of the installed TensorRT for RTX."""
    import tensorrt_rtx

    version = str(tensorrt_rtx.__version__)
    header = [
        f"# tensorrt-rtx {version}: the names and call signatures of the official Python bindings.",
        "# From the installed package, by `python -m tests.export.tensorrt.make_lists --rtx`.",
    ]
    return version, header + described_module(tensorrt_rtx)


def make_list(version: str) -> list[str]:
    """The list of one version, read in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = fetch(version, folder)
        make_libraries(version.partition(".")[0], folder)
        command = [sys.executable, "-c", "from tests.export.tensorrt.make_lists import describe; describe()"]
        paths = {"LD_LIBRARY_PATH": name, "PYTHONPATH": f"{name}{os.pathsep}{Path.cwd()}"}
        found = subprocess.run(command, env=os.environ | paths, check=True, stdout=subprocess.PIPE, text=True).stdout
    header = [
        f"# tensorrt {version}: the names and call signatures of the official Python bindings.",
        f"# From {wheel}, by `python -m tests.export.tensorrt.make_lists {version}`.",
    ]
    return header + found.splitlines()


def fetch(version: str, folder: Path) -> str:
    """Unpack the wheel of the bindings into a folder; its file name."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, f"--dest={folder}", f"{DISTRIBUTION}=={version}"], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return wheel.name


def make_libraries(major: str, folder: Path) -> None:
    """Compile libraries in which every function of the real ones that is needed answers with a null pointer."""
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _FUNCTIONS), encoding="utf-8")
    for library in _LIBRARIES:
        file = f"lib{library}.so.{major}"
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", str(folder / file), str(source)]
        subprocess.run(command, check=True)


def describe() -> None:
    """Print the list of the bindings that can be imported here."""
    import tensorrt_bindings  # type: ignore[import-not-found]

    print("\n".join(described_module(tensorrt_bindings)))


def described_module(module: ModuleType) -> list[str]:
    """The lines of all public names of a module."""
    skipped = ("attr", "common_enter", "common_exit", "value")  # left over from a loop and from deprecated methods
    lines: list[str] = []
    for name, item in sorted(vars(module).items()):
        if not name.startswith("_") and name not in skipped and type(item).__name__ != "module":
            lines += described(name, item)
    return lines


def described(name: str, item: object) -> list[str]:
    """The lines of one public name of the module."""
    if isinstance(item, type):
        return class_lines(name, item)
    if callable(item):
        return signatures(name, item)
    return [f"{name} = {item}"]


def class_lines(name: str, cls: type) -> list[str]:
    """The lines of a class: its base, its members, its methods, its properties."""
    bases = [base.__name__ for base in cls.__bases__ if base.__name__ != "pybind11_object"]
    lines = [f"class {name}({', '.join(bases)})" if bases else f"class {name}"]
    members = getattr(cls, "__members__", {})
    for key, item in sorted(vars(cls).items()):
        if key in members:
            lines.append(f"{name}.{key} = {int(members[key])}")
        elif key not in _COMMON and "pybind11" not in key and not (members and key in _OF_ENUMS):
            lines += member_lines(f"{name}.{key}", item, owner=cls)
    return lines


def member_lines(name: str, item: object, *, owner: type) -> list[str]:
    """The lines of what a class has under a name."""
    if isinstance(item, type):
        alias = item.__qualname__ if item.__qualname__ != name else ""
        return [f"{name} = {alias}"] if alias else class_lines(name, item)
    if isinstance(item, property):
        return [property_line(name, item)]
    if type(item).__name__ == "pybind11_static_property":
        return [f"{name}: {type(getattr(owner, name.rpartition('.')[2])).__name__} [get]"]
    if callable(item):
        return signatures(name, item)
    return [f"{name} = {type(item).__qualname__}.{getattr(item, 'name', item)}"]


def property_line(name: str, item: property) -> str:
    """A property, the type that its getter tells, and whether it can be read and set."""
    lines = ((item.fget.__doc__ if item.fget else None) or "").strip().splitlines()
    kind = simple(lines[0]).partition(" -> ")[2] if lines else ""
    can = " ".join(word for word, there in (("get", item.fget), ("set", item.fset)) if there)
    return f"{name}: {kind or 'object'} [{can}]"


def signatures(name: str, item: object) -> list[str]:
    """A line for each signature; of a method without one only that it takes anything."""
    short = name.rpartition(".")[2]
    lines = [simple(_OVERLOAD.sub("", line)) for line in (getattr(item, "__doc__", None) or "").splitlines()]
    found = [line for line in lines if line.startswith(f"{short}(") and "*args, **kwargs" not in line]
    if not found and short == "__init__":
        return []  # no constructor: objects of this class come from others
    return [name + line.removeprefix(short) for line in found] or [f"{name}(...)"]


def simple(text: str) -> str:
    """A signature without namespaces, and with defaults as one would write them."""
    return _DEFAULT.sub(r"\1", _SELF.sub("(self", _NAMESPACES.sub("", text.strip())))


if __name__ == "__main__":
    main()
