"""Helpers shared by the whole code base: option dictionaries, logging, object look-up by name, files and URLs."""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import hashlib
import importlib
import io
import math
import os
import pathlib
import pickle
import re
import shutil
import sys
import tempfile
import types
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import numpy as np


class UserError(ValueError):
    """Something that a user can put right, such as an option or a file: one line that names it, the rule and the value.

    Commands print the line and end with exit code 2. Any other ValueError is taken for a bug, and shown as one.
    """


def is_lack_of_memory(err: BaseException) -> bool:
    """Is this error that of Python, numpy, a GPU, or torch's tensors on the CPU, when memory runs out?"""
    if isinstance(err, MemoryError) or type(err).__name__ == "OutOfMemoryError":
        return True
    return "can't allocate memory" in str(err)


class EasyDict(dict):
    """A dict whose items can also be read, written and deleted as attributes.

    Prints and pickles like a plain dict; nested dicts are left as they are.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(name) from None


class Logger:
    """Stands in for stdout and stderr from construction to `close()`, and copies all text to an optional file.

    Where the console cannot be written any more, since the terminal or the reader of a pipe has gone away, the file
    gets the text alone; without a file that is an error as it would be without this.
    """

    def __init__(self, file_name: str | os.PathLike | None = None, file_mode: str = "w", should_flush: bool = True):
        self.console: Any = sys.stdout  # where all text goes, also that for stderr; None if it was closed
        self._log: IO[str] | None = None
        if file_name is not None:
            self._log = open(file_name, file_mode, encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._path = file_name
        self._flushes_always = should_flush
        self._former = {name: getattr(sys, name) for name in ("stdout", "stderr")}
        for name in self._former:
            setattr(sys, name, self)

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def encoding(self) -> str:
        return getattr(self.console, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self.console is not None and self.console.isatty()

    def write(self, text: str | bytes) -> int:
        """Write to the file and the console; returns the number of characters."""
        characters = text.decode(errors="replace") if isinstance(text, bytes) else text
        if characters:
            if self._log is not None:
                with naming(cast(Any, self._path)):
                    self._log.write(characters)
            self._to_console(lambda console: console.write(characters))
            if self._flushes_always:
                self.flush()
        return len(characters)

    def flush(self) -> None:
        if self._log is not None:
            with naming(cast(Any, self._path)):
                self._log.flush()
        self._to_console(lambda console: console.flush())

    def _to_console(self, act: Callable[[Any], object]) -> None:
        if self.console is None:
            return
        try:
            act(self.console)
        except UnicodeEncodeError:
            raise
        except (OSError, ValueError):  # gone, full, or closed
            if self._log is None:
                raise
            discard(self.console)
            self.console = None

    def close(self) -> None:
        """Give the streams back, unless somebody else replaced them meanwhile, and close the file."""
        self.flush()
        for name, stream in self._former.items():
            if getattr(sys, name) is self:
                setattr(sys, name, stream)
        if self._log is not None:
            self._log.close()
            self._log = None


def discard(stream: Any) -> None:
    """Let a stream that cannot be written swallow what is still in its buffer, which Python would complain about."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def open_missing_streams() -> None:
    """Open stdin, stdout and stderr, where they were closed, on the null device.

    Otherwise the next file that is opened would take the place of one of them, and get what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115


_cache_dir: str | None = None


def set_cache_dir(path: str | None) -> None:
    """Set the cache root of this process; it wins over the environment."""
    global _cache_dir
    _cache_dir = path


def make_cache_dir_path(*parts: str) -> str:
    """Path below the cache root. Nothing is created.

    The root is the first of: `set_cache_dir`, $DNNLIB_CACHE_DIR, `.cache/dnnlib` in the home or temporary directory.
    """
    if _cache_dir is not None:
        return os.path.join(_cache_dir, *parts)
    if "DNNLIB_CACHE_DIR" in os.environ:
        return os.path.join(os.environ["DNNLIB_CACHE_DIR"], *parts)
    for variable in ("HOME", "USERPROFILE"):
        if variable in os.environ:
            return os.path.join(os.environ[variable], ".cache", "dnnlib", *parts)
    return os.path.join(tempfile.gettempdir(), ".cache", "dnnlib", *parts)


def format_time(seconds: float) -> str:
    """`12s`, `3m 07s`, `2h 03m 07s` or `1d 02h 03m`, from seconds rounded to the nearest integer."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    units = [(days, "d"), (h, "h"), (m, "m"), (s, "s")]
    while len(units) > 1 and units[0][0] == 0:
        units.pop(0)
    (count, unit), *smaller = units[:3]
    return " ".join([f"{count}{unit}", *(f"{count:02}{unit}" for count, unit in smaller)])


def ask_yes_no(question: str) -> bool:
    """Ask on the terminal until the answer is yes or no."""
    answers = {"y": True, "yes": True, "n": False, "no": False}
    while True:
        answer = input(f"{question} [y/n] ").strip().lower()
        if answer in answers:
            return answers[answer]


def tuple_product(t: Iterable) -> Any:
    """Product of all elements; 1 when there are none."""
    return math.prod(t)


_CTYPES = {name: f"c_{name}" for bits in (8, 16, 32, 64) for name in (f"uint{bits}", f"int{bits}")}
_CTYPES |= {"float32": "c_float", "float64": "c_double"}


def get_dtype_and_ctype(type_obj: Any) -> tuple[np.dtype, Any]:
    """The numpy dtype and the ctypes type of a dtype, its name, a numpy scalar type, or anything with a `dtype`.

    Raises ValueError for types other than the (un)signed integers of 8 to 64 bits, float32 and float64.
    """
    import ctypes

    import numpy as np  # takes a while, which --help need not wait for

    # The scalar types of numpy have an attribute `dtype` too, but it is not a dtype.
    given = type_obj if isinstance(type_obj, type) else getattr(type_obj, "dtype", type_obj)
    try:
        dtype = np.dtype(given)
        return dtype, getattr(ctypes, _CTYPES[dtype.name])
    except (TypeError, KeyError):
        raise UserError(f"type must be one of {', '.join(_CTYPES)}, got {given}") from None


def is_pickleable(obj: Any) -> bool:
    """Whether `pickle.dumps` succeeds."""
    try:
        pickle.dumps(obj)
    except Exception:  # whatever a foreign __reduce__ raises, the answer is no
        return False
    return True


def get_module_from_obj_name(obj_name: str) -> tuple[types.ModuleType, str]:
    """Split `package.module.Class.member` into the imported module and the dotted rest, here `Class.member`.

    The longest importable prefix that has the rest as a member wins. If none has, an import that failed *inside* a
    candidate is raised first (it explains the most), then a missing member, then a plain ImportError.
    """
    full_name = re.sub(r"^tf\.", "tensorflow.", re.sub(r"^np\.", "numpy.", obj_name))
    parts = full_name.split(".")
    if not all(parts):
        raise ImportError(f"not a dotted name of an object: {obj_name!r}")

    import_error: ImportError | None = None
    attribute_error: AttributeError | None = None
    for count in range(len(parts), 0, -1):
        module_name, rest = ".".join(parts[:count]), ".".join(parts[count:])
        try:
            module = importlib.import_module(module_name)
        except ImportError as err:
            # That the candidate itself or a parent of it does not exist is the normal case here.
            if not (isinstance(err, ModuleNotFoundError) and f"{module_name}.".startswith(f"{err.name}.")):
                import_error = import_error or err
            continue
        try:
            get_obj_from_module(module, rest)
        except AttributeError as err:
            attribute_error = attribute_error or err
            continue
        return module, rest
    raise import_error or attribute_error or ImportError(obj_name)


def get_obj_from_module(module: types.ModuleType, obj_name: str) -> Any:
    """Member of a module by its dotted name; the module itself for an empty name."""
    obj: Any = module
    for part in obj_name.split(".") if obj_name else []:
        obj = getattr(obj, part)
    return obj


def get_obj_by_name(name: str) -> Any:
    """Import whatever is needed and return the object with this fully qualified name."""
    module, obj_name = get_module_from_obj_name(name)
    return get_obj_from_module(module, obj_name)


def call_func_by_name(*args: Any, func_name: str | None = None, **kwargs: Any) -> Any:
    """Call the object with the fully qualified name `func_name`, forwarding all other arguments."""
    if func_name is None:
        raise UserError("func_name is required: the fully qualified name of what to call")
    func = get_obj_by_name(func_name)
    if not callable(func):
        raise UserError(f"{func_name} must be callable, got {type(func).__name__}")
    return func(*args, **kwargs)


def construct_class_by_name(*args: Any, class_name: str | None = None, **kwargs: Any) -> Any:
    """Construct the class with the fully qualified name `class_name`, forwarding all other arguments."""
    if class_name is None:
        raise UserError("class_name is required: the fully qualified name of what to construct")
    return call_func_by_name(*args, func_name=class_name, **kwargs)


def get_module_dir_by_obj_name(obj_name: str) -> str:
    """Directory of the file that defines the object. Raises ValueError where that is no file."""
    module, _ = get_module_from_obj_name(obj_name)
    file = getattr(module, "__file__", None)
    if file is None:
        raise UserError(f"{obj_name} must be defined in a file, module {module.__name__} has none")
    return str(pathlib.Path(file).parent)


def is_top_level_function(obj: Any) -> bool:
    """Whether `obj` is callable, and its own module has it under its own name."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    return callable(obj) and getattr(module, getattr(obj, "__qualname__", ""), None) is obj


def get_top_level_function_name(obj: Any) -> str:
    """Name under which another process finds a top-level function; `__main__` becomes the stem of the script."""
    if not is_top_level_function(obj):
        raise UserError(f"only functions at the top of a module have such a name, got {obj!r}")
    module_name = obj.__module__
    if module_name == "__main__":
        module_name = pathlib.Path(sys.modules["__main__"].__file__ or "").stem
    return f"{module_name}.{obj.__qualname__}"


_TEMPORARY = ".tmp-"  # then the number of the process that writes, and a random one


def sweep_temporary_files(folder: str | os.PathLike) -> None:
    """Remove what killed processes of this machine have left half-written in a folder that no other machine uses."""
    import psutil  # only needed here

    for name in os.listdir(folder):
        match = re.fullmatch(re.escape(_TEMPORARY) + r"(\d+-)?[0-9a-f]{32}", name)
        if match and not (match[1] and psutil.pid_exists(int(match[1][:-1]))):
            with contextlib.suppress(OSError):
                os.remove(os.path.join(folder, name))


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike, mode: str = "wb", **open_kwargs: Any) -> Iterator[IO[Any]]:
    """Open a file for writing that appears under its name only when it is complete.

    The content goes to a temporary file beside it, is forced to disk and renamed over `path` at the end of the `with`
    block. When the block raises, the temporary file is removed and an existing `path` keeps its content.
    """
    if "w" not in mode:
        raise UserError(f"an atomic write needs a mode with 'w', got {mode!r}")
    final = os.path.realpath(path)  # write through a symbolic link instead of replacing it
    # The short name cannot exceed the limit of the file system where that of `path` does not.
    temp = os.path.join(os.path.dirname(final), f"{_TEMPORARY}{os.getpid()}-{os.urandom(16).hex()}")
    try:
        file: Any = io.BufferedWriter(_NamedWriter(temp, path))
    except OSError as err:
        raise type(err)(err.errno, err.strerror, os.fspath(path)) from None  # name the file the user knows
    if "b" not in mode:
        file = io.TextIOWrapper(file, **open_kwargs)
    try:
        with file:
            yield file
            file.flush()
            with naming(path):
                os.fsync(file.fileno())
        os.replace(temp, final)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temp)
        raise


class _NamedWriter(io.FileIO):
    """A new file. What goes wrong while it is written, as on a full disk, names the file that the user knows."""

    def __init__(self, temp: str, path: str | os.PathLike):
        super().__init__(temp, "x")
        self._path = path

    def write(self, data: Any) -> int:
        with naming(self._path):
            return super().write(data)


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Let an OSError of the block name the file that is written, where it names none, such as that of a full disk."""
    try:
        yield
    except OSError as err:
        if err.errno is None or err.filename is not None:
            raise
        raise OSError(err.errno, err.strerror, os.fspath(path)) from err


_PIECE_BYTES = 1 << 20  # of a file that is read piece by piece


def read_at_most(file: Any, limit: int) -> bytes | None:
    """What is left in the binary `file`; None if that is more than `limit` bytes. It takes as much memory as it has."""
    pieces, total = [], 0
    while piece := file.read(_PIECE_BYTES):  # asking for `limit` at once would reserve that much
        pieces.append(piece)
        total += len(piece)
        if total > limit:
            return None
    return b"".join(pieces)


def hash_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def printable(text: str, limit: int | None = 80) -> str:
    """`text` from a file, fit for a line on a terminal: at most `limit` characters, escapes for what is not shown."""
    start = text if limit is None or len(text) <= limit else text[:limit] + "..."
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in start)


def list_dir_recursively_with_ignore(
    dir_path: str, ignores: Sequence[str] | None = None, add_base_to_relative: bool = False
) -> list[tuple[str, str]]:
    """All files below a directory as sorted `(path, path relative to dir_path)`.

    ignores: shell patterns; matching directories are not entered, matching files left out.
    add_base_to_relative: start the relative paths with the name of the directory itself.
    """
    if not os.path.isdir(dir_path):
        raise NotADirectoryError(f"not a directory: {dir_path}")

    def kept(names: list[str]) -> list[str]:
        return sorted(n for n in names if not any(fnmatch.fnmatch(n, pattern) for pattern in ignores or []))

    base = os.path.basename(os.path.normpath(dir_path)) if add_base_to_relative else ""
    result = []
    for root, dirs, files in os.walk(dir_path):
        dirs[:] = kept(dirs)  # os.walk descends into what is left in the list
        for name in kept(files):
            path = os.path.join(root, name)
            result.append((os.path.abspath(path), os.path.join(base, os.path.relpath(path, dir_path))))
    return result


def copy_files_and_create_dirs(files: Iterable[tuple[str, str]]) -> None:
    """Copy each `(source, destination)`, making the folders of the destination."""
    for source, destination in files:
        os.makedirs(os.path.dirname(os.path.abspath(destination)), exist_ok=True)
        shutil.copyfile(source, destination)



def is_url(obj: Any, allow_file_urls: bool = False) -> bool:
    """Whether `obj` is text of the form `scheme://host.domain/...`; `file://` counts only if asked for."""
    if not isinstance(obj, str) or "://" not in obj:
        return False
    try:
        url = urllib.parse.urlsplit(obj)
    except ValueError:
        return False
    if url.scheme == "file":
        return allow_file_urls
    return bool(url.scheme) and "." in (url.hostname or "")


def open_url(
    url: str,
    cache_dir: str | None = None,
    num_attempts: int = 10,
    verbose: bool = True,
    return_filename: bool = False,
    cache: bool = True,
) -> Any:
    """Open a local path, a `file://` URL or a download for binary reading.

    cache_dir: where downloads are kept; default `downloads` in the cache root.
    return_filename: return the path of the (cached) file instead of a file object.
    cache: keep the download and reuse an earlier one.
    Raises OSError when the file cannot be had, ValueError for an unusable URL.
    """
    if num_attempts < 1:
        raise UserError(f"num_attempts must be >= 1, got {num_attempts}")
    if return_filename and not cache:
        raise UserError("return_filename=True needs cache=True: without the cache there is no file to name")

    path = _local_path(url)
    if path is not None:
        return path if return_filename else open(path, "rb")  # noqa: SIM115 - the caller closes it
    if not is_url(url):
        raise UserError(f"a URL needs a scheme and a host with a dot, got {url}")

    if urllib.parse.urlsplit(url).scheme.lower() not in ("http", "https"):
        raise UserError(f"only files, http and https can be opened, got {url}")

    from dnnlib.download import download  # takes a while to import, and few commands need the network

    if not cache:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        download(url, num_attempts, verbose, file)
        file.seek(0)
        return file
    cache_dir = cache_dir or make_cache_dir_path("downloads")
    url_md5 = hashlib.md5(url.encode("utf-8"), usedforsecurity=False).hexdigest()
    cached = glob.glob(os.path.join(glob.escape(cache_dir), f"{url_md5}_*"))
    if len(cached) != 1:
        os.makedirs(cache_dir, exist_ok=True)
        cached = [_download_to_cache(url, num_attempts, verbose, os.path.join(cache_dir, url_md5))]
    return cached[0] if return_filename else open(cached[0], "rb")  # noqa: SIM115 - the caller closes it


def _download_to_cache(url: str, num_attempts: int, verbose: bool, start: str) -> str:
    """Download to a file whose name begins with the path `start`; it appears whole or not at all. Returns its path."""
    from dnnlib.download import download

    whole = f"{start}.part{os.getpid()}"
    try:
        with open_atomic(whole) as file:
            name = download(url, num_attempts, verbose, file)
        safe_name = re.sub(r"[^0-9a-zA-Z\-._]", "_", name)[-128:]
        os.replace(whole, f"{start}_{safe_name}")
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(whole)
    return f"{start}_{safe_name}"


def _local_path(url: str) -> str | None:
    """The path that a string without scheme or with `file://` stands for, None for everything else."""
    if not re.match(r"[a-zA-Z][a-zA-Z0-9+.\-]*://", url):
        return url
    if not url.startswith("file://"):
        return None
    path = urllib.parse.unquote(urllib.parse.urlsplit(url).path)
    return path[1:] if re.match(r"/[a-zA-Z]:", path) else path  # file:///C:/x is C:/x
