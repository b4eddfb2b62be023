"""Promises of dnnlib.util."""

from __future__ import annotations

import copy
import ctypes
import hashlib
import http.server
import io
import os
import pickle
import resource
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest

import dnnlib
from dnnlib import download, util


def test_easy_dict_reads_writes_and_deletes_items_as_attributes():
    d = dnnlib.EasyDict(a=1)
    d.b = 2
    assert (d.a, d["b"]) == (1, 2)
    del d.a
    assert d == {"b": 2}
    with pytest.raises(AttributeError):
        _ = d.a
    with pytest.raises(AttributeError):
        del d.a


def test_easy_dict_prints_pickles_and_copies_like_a_dict():
    d = dnnlib.EasyDict(a=1, nested={"b": 2})
    assert repr(d) == "{'a': 1, 'nested': {'b': 2}}"
    assert type(d.nested) is dict
    for other in (pickle.loads(pickle.dumps(d)), copy.deepcopy(d)):
        assert other == d
        assert type(other) is dnnlib.EasyDict
    assert b"dnnlib.util" in pickle.dumps(d)


def test_logger_copies_both_streams_and_gives_them_back(tmp_path, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    stderr = sys.stderr
    with dnnlib.util.Logger(str(tmp_path / "log.txt")) as logger:
        print("to stdout")
        print("to stderr", file=sys.stderr)
        logger.write(b"bytes\n")
        logger.write("")
    assert sys.stdout is out
    assert sys.stderr is stderr
    assert out.getvalue() == "to stdout\nto stderr\nbytes\n" == (tmp_path / "log.txt").read_text()


def test_logger_leaves_streams_alone_that_were_replaced_meanwhile(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    logger = dnnlib.util.Logger()
    newer = io.StringIO()
    monkeypatch.setattr(sys, "stdout", newer)
    logger.close()
    assert sys.stdout is newer


def test_a_closed_logger_still_reaches_the_console(tmp_path, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    logger = dnnlib.util.Logger(str(tmp_path / "log.txt"))
    logger.close()
    logger.close()
    logger.write("late\n")
    assert out.getvalue() == "late\n" and (tmp_path / "log.txt").read_text() == ""


class Gone(io.StringIO):
    """A console whose terminal or reader has gone away."""

    def write(self, text):
        raise OSError(5, "Input/output error")


def test_without_its_console_a_logger_goes_on_with_the_file(tmp_path, monkeypatch):
    for console in [Gone(), None]:
        monkeypatch.setattr(sys, "stdout", console)
        with dnnlib.util.Logger(tmp_path / "log.txt") as logger:
            print("one")
            print("two", flush=True)
            assert logger.isatty() is False
        assert (tmp_path / "log.txt").read_text() == "one\ntwo\n"
        assert sys.stdout is console


def test_without_console_and_file_a_logger_says_so(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(OSError, match="Input/output error"), dnnlib.util.Logger():
        print("lost")


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize("closed", ["0<&- >&- 2>&-", "2>&-"])
def test_closed_streams_change_nothing_but_what_is_seen(closed, tmp_path):
    code = ("import sys; from dnnlib import util; util.open_missing_streams()\n"
            "with open(sys.argv[1], 'w') as file: print('lost'); print('lost', file=sys.stderr); file.write('kept')")
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    assert subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *command]).returncode == 0
    assert (tmp_path / "file").read_text() == "kept"


def test_only_the_temporary_files_of_dead_processes_are_swept(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = [f".tmp-{child.pid}-{'0' * 32}", f".tmp-{'0' * 32}"]
    kept = [f".tmp-{os.getpid()}-{'0' * 32}", ".tmp-notes", "file"]
    for name in dead + kept:
        (tmp_path / name).touch()
    util.sweep_temporary_files(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (187, "3m 07s"),
        (2 * 3600 + 187, "2h 03m 07s"),
        (3600, "1h 00m 00s"),
        (86400 + 2 * 3600 + 187, "1d 02h 03m"),
        (86400, "1d 00h 00m"),
    ],
)
def test_format_time(seconds, text):
    assert util.format_time(seconds) == text


def test_tuple_product():
    assert util.tuple_product((2, 3, 4)) == 24
    assert util.tuple_product(()) == 1


@pytest.mark.parametrize("given", ["float32", np.float32, np.dtype("float32"), np.zeros(3, np.float32)])
def test_dtype_helper_accepts_names_types_and_arrays(given):
    assert util.get_dtype_and_ctype(given) == (np.dtype("float32"), ctypes.c_float)


def test_dtype_helper_refuses_other_types():
    with pytest.raises(ValueError, match="got complex64"):
        util.get_dtype_and_ctype("complex64")


def test_is_pickleable():
    assert util.is_pickleable([1, "a"])
    assert not util.is_pickleable(lambda: None)


def test_ask_yes_no_asks_until_it_understands(monkeypatch):
    answers = iter(["maybe", "YES"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    assert util.ask_yes_no("really?")


def test_objects_are_found_by_dotted_name():
    assert util.get_obj_by_name("dnnlib.util.EasyDict") is dnnlib.EasyDict
    assert util.get_obj_by_name("np.random.RandomState") is np.random.RandomState
    assert util.get_obj_by_name("os.path") is os.path
    assert util.get_module_from_obj_name("dnnlib.util.EasyDict.get") == (util, "EasyDict.get")
    assert util.get_obj_from_module(util, "") is util


def test_a_missing_member_is_named():
    with pytest.raises(AttributeError, match="NoSuchClass"):
        util.get_obj_by_name("dnnlib.util.NoSuchClass")


def test_a_missing_package_is_named():
    with pytest.raises(ImportError, match="no_such_package.Thing"):
        util.get_obj_by_name("no_such_package.Thing")


def test_a_malformed_name_is_an_import_error():
    with pytest.raises(ImportError, match="not a dotted name"):
        util.get_obj_by_name("dnnlib..util")


def test_an_import_that_fails_inside_a_module_is_what_gets_reported(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("import missing_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="missing_dependency"):
        util.get_obj_by_name("broken_module.Thing")


def test_construct_class_by_name_forwards_all_arguments():
    made = util.construct_class_by_name([("a", 1)], class_name="dnnlib.EasyDict", b=2)
    assert made == {"a": 1, "b": 2}
    assert type(made) is dnnlib.EasyDict


def test_construct_class_by_name_refuses_what_cannot_be_called():
    with pytest.raises(ValueError, match="class_name is required"):
        util.construct_class_by_name()
    with pytest.raises(ValueError, match="os.sep must be callable, got str"):
        util.construct_class_by_name(class_name="os.sep")


def test_module_dir_and_top_level_names():
    assert util.get_module_dir_by_obj_name("dnnlib.util.EasyDict") == os.path.dirname(util.__file__)
    assert util.is_top_level_function(util.format_time)
    assert not util.is_top_level_function(lambda: None)
    assert not util.is_top_level_function(dnnlib.EasyDict.__getattr__)
    assert not util.is_top_level_function(os.path)
    assert util.get_top_level_function_name(util.format_time) == "dnnlib.util.format_time"


def test_a_module_without_a_file_has_no_directory():
    with pytest.raises(ValueError, match="sys.exit must be defined in a file, module sys has none"):
        util.get_module_dir_by_obj_name("sys.exit")


def test_a_function_of_a_script_is_named_after_the_script(tmp_path):
    script = tmp_path / "my_script.py"
    script.write_text("from dnnlib import util\ndef f(): pass\nprint(util.get_top_level_function_name(f))\n")
    environment = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.dirname(util.__file__)))
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert result.stdout == "my_script.f\n", result.stderr


def test_atomic_write_shows_the_file_only_when_complete(tmp_path):
    path = tmp_path / "file.bin"
    with util.open_atomic(path) as f:
        f.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_failed_atomic_write_keeps_the_old_content_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), util.open_atomic(path, "w", encoding="utf-8") as f:
        f.write("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_atomic_write_into_a_missing_folder_names_the_file(tmp_path):
    path = str(tmp_path / "missing" / "file.bin")
    with pytest.raises(FileNotFoundError) as info, util.open_atomic(path):
        pass
    assert info.value.filename == path


def test_atomic_write_follows_a_symbolic_link(tmp_path):
    target = tmp_path / "target"
    target.write_text("old")
    (tmp_path / "link").symlink_to(target)
    with util.open_atomic(tmp_path / "link", "w") as f:
        f.write("new")
    assert (tmp_path / "link").is_symlink()
    assert target.read_text() == "new"


def test_atomic_write_gives_the_permissions_of_an_ordinary_file(tmp_path):
    (tmp_path / "ordinary").write_text("")
    with util.open_atomic(tmp_path / "atomic"):
        pass
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_directory_listing_honours_ignore_patterns(tmp_path):
    for name in ("a/x.py", "a/x.pyc", "b/__pycache__/y.py", "z.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found = util.list_dir_recursively_with_ignore(str(tmp_path), ["*.pyc", "__pycache__"], add_base_to_relative=True)
    base = tmp_path.name
    assert found == [
        (str(tmp_path / "z.py"), os.path.join(base, "z.py")),
        (str(tmp_path / "a/x.py"), os.path.join(base, "a", "x.py")),
    ]


def test_copy_makes_folders(tmp_path):
    (tmp_path / "a").write_text("text")
    util.copy_files_and_create_dirs([(str(tmp_path / "a"), str(tmp_path / "new" / "deep" / "b"))])
    assert (tmp_path / "new" / "deep" / "b").read_text() == "text"


def test_cache_root_order(monkeypatch, tmp_path):
    for name in ("DNNLIB_CACHE_DIR", "HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: "temp")
    expected = os.path.join("temp", ".cache", "dnnlib", "x", "y")
    assert dnnlib.make_cache_dir_path("x", "y") == expected
    monkeypatch.setenv("USERPROFILE", "profile")
    assert dnnlib.make_cache_dir_path() == os.path.join("profile", ".cache", "dnnlib")
    monkeypatch.setenv("HOME", "home")
    assert dnnlib.make_cache_dir_path() == os.path.join("home", ".cache", "dnnlib")
    monkeypatch.setenv("DNNLIB_CACHE_DIR", "env")
    assert dnnlib.make_cache_dir_path("x") == os.path.join("env", "x")
    monkeypatch.setattr(util, "_cache_dir", None)
    util.set_cache_dir(str(tmp_path / "set"))
    assert dnnlib.make_cache_dir_path("x") == str(tmp_path / "set" / "x")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("text", "allow_file", "expected"),
    [
        ("https://example.com/a.pkl", False, True),
        ("http://127.0.0.1:80/a.pkl", False, True),
        ("http://localhost/a.pkl", False, False),
        ("file:///tmp/a.pkl", False, False),
        ("file:///tmp/a.pkl", True, True),
        ("/tmp/a.pkl", True, False),
        ("example.com/a.pkl", False, False),
        (3, False, False),
    ],
)
def test_is_url(text, allow_file, expected):
    assert util.is_url(text, allow_file_urls=allow_file) is expected


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers from the list `server.replies` of (status, headers, body), one per request."""

    def do_GET(self):
        self.server.paths.append(self.path)
        status, headers, body = self.server.replies.pop(0)
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "RETRY_DELAY", 0)
    monkeypatch.setenv("no_proxy", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.paths, server.replies = [], []
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_local_paths_and_file_urls_are_opened_directly(tmp_path):
    path = tmp_path / "a file.bin"
    path.write_bytes(b"local")
    for url in (str(path), path.as_uri()):
        assert util.open_url(url, return_filename=True) == str(path)
        with util.open_url(url) as f:
            assert f.read() == b"local"
    assert util.open_url("file:///C:/dir/a.pkl", return_filename=True) == "C:/dir/a.pkl"


def test_download_is_cached_under_the_documented_name(server, tmp_path):
    url = f"{server.url}/dir/network%20final.pkl?x=1"
    server.replies = [(200, {}, b"data")]
    with util.open_url(url, cache_dir=str(tmp_path / "cache"), verbose=False) as f:
        assert f.read() == b"data"
    path = util.open_url(url, cache_dir=str(tmp_path / "cache"), return_filename=True)
    assert os.path.basename(path) == f"{hashlib.md5(url.encode()).hexdigest()}_network_20final.pkl"
    assert os.listdir(tmp_path / "cache") == [os.path.basename(path)]
    assert len(server.paths) == 1


def test_download_without_cache_writes_nothing(server, tmp_path):
    server.replies = [(200, {"Content-Disposition": 'attachment; filename="x.pkl"'}, b"data")]
    with util.open_url(f"{server.url}/a", cache_dir=str(tmp_path), cache=False, verbose=False) as f:
        assert f.read() == b"data"
    assert os.listdir(tmp_path) == []


def test_download_tries_again_after_errors_that_may_pass(server, tmp_path, capsys):
    truncated = (200, {"Content-Length": "10"}, b"data")
    server.replies = [(503, {}, b"busy"), truncated, (200, {}, b"data")]
    with util.open_url(f"{server.url}/a.pkl", cache_dir=str(tmp_path)) as f:
        assert f.read() == b"data"
    assert capsys.readouterr().out == f"Downloading {server.url}/a.pkl ... ..done\n"


def test_missing_download_fails_at_once_and_names_the_url(server, tmp_path):
    server.replies = [(404, {}, b"no")]
    with pytest.raises(OSError, match=rf"cannot download {server.url}/a.pkl \(attempt 1 of 10\): .*404"):
        util.open_url(f"{server.url}/a.pkl", cache_dir=str(tmp_path), verbose=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("reply", [
    (200, {"Content-Type": "text/html; charset=utf-8"}, b"<p>Log in first</p>"), (200, {}, b" <!DOCTYPE HTML><p>Hello"),
])
def test_a_web_page_instead_of_a_file_is_refused_at_once_and_not_kept(server, tmp_path, reply):
    server.replies = [reply]
    with pytest.raises(OSError, match=r"\(attempt 1 of 10\): the server sent a web page instead of a file"):
        util.open_url(f"{server.url}/a.pkl", cache_dir=str(tmp_path), verbose=False)
    assert os.listdir(tmp_path) == []


def test_another_scheme_is_refused_without_any_attempt():
    with pytest.raises(ValueError, match="only files, http and https can be opened, got s3://bucket.example.com/a"):
        util.open_url("s3://bucket.example.com/a")


def test_a_download_takes_no_more_memory_than_its_pieces(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PIECE_BYTES", 1 << 14)
    server.replies = [(200, {}, bytes(1 << 24))]
    tracemalloc.start()
    try:
        kept = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        path = util.open_url(f"{server.url}/a.pkl", cache_dir=str(tmp_path), verbose=False, return_filename=True)
        peak = tracemalloc.get_traced_memory()[1] - kept
    finally:
        tracemalloc.stop()
    assert os.path.getsize(path) == 1 << 24 and peak < 1 << 21


def test_download_gives_up_after_the_last_attempt(server, tmp_path):
    server.replies = [(500, {}, b"no")] * 2
    with pytest.raises(OSError, match="attempt 2 of 2"):
        util.open_url(f"{server.url}/a.pkl", cache_dir=str(tmp_path), num_attempts=2, verbose=False)


def test_a_file_name_without_cache_is_refused():
    with pytest.raises(ValueError, match="needs cache=True"):
        util.open_url("https://example.com/a", return_filename=True, cache=False)


def test_a_url_without_a_proper_host_is_refused():
    with pytest.raises(ValueError, match="got https://nowhere/a"):
        util.open_url("https://nowhere/a")


def test_google_drive_confirmation_is_found_as_form_and_as_link():
    form = (
        '<form id="download-form" action="https://drive.example.com/download" method="get">'
        '<input type="hidden" name="id" value="1&amp;2"><input type="hidden" name="confirm" value="t"></form>'
    )
    page_url = "https://docs.google.com/uc?id=1"
    assert download.find_drive_confirmation(form, page_url) == "https://drive.example.com/download?id=1%262&confirm=t"
    link = '<a href="/uc?export=download&amp;confirm=abc&amp;id=1">Download anyway</a>'
    assert (
        download.find_drive_confirmation(link, page_url) == "https://docs.google.com/uc?export=download&confirm=abc&id=1"
    )
    assert download.find_drive_confirmation("<p>Quota exceeded</p>", page_url) is None


def test_google_drive_page_is_confirmed_and_a_quota_page_is_an_error(monkeypatch):
    url = "https://drive.google.com/uc?id=1"
    button = '<a href="/uc?export=download&amp;confirm=abc&amp;id=1">Download anyway</a>'
    pages = {
        url: ("uc", button),
        f"{url.split('?')[0]}?export=download&confirm=abc&id=1": ("net.pkl", None),
    }
    monkeypatch.setattr(download, "fetch", lambda opener, asked, file: pages[asked])
    file = io.BytesIO(b"data")
    file.seek(4)
    assert download.download_once(url, file) == "net.pkl"
    pages[url] = ("uc", "<p>Quota exceeded</p>")
    with pytest.raises(OSError, match="quota exceeded"):
        download.download_once(url, file)


# Content of files.


class Endless:
    def read(self, size):
        assert size <= 2**20
        return bytes(size)


def test_reading_at_most_a_limit_never_asks_for_more_than_a_piece():
    assert dnnlib.util.read_at_most(io.BytesIO(b"x" * 3_000_000), 3_000_000) == b"x" * 3_000_000
    assert dnnlib.util.read_at_most(io.BytesIO(b"abc"), 2) is None
    assert dnnlib.util.read_at_most(io.BytesIO(), 2) == b""
    assert dnnlib.util.read_at_most(Endless(), 2**23) is None


def test_names_from_files_cannot_act_on_the_terminal():
    assert dnnlib.util.printable("tür\x1b[2J\n\u202e\udcff") == "tür\\x1b[2J\\n\\u202e\\udcff"
    assert dnnlib.util.printable("ab" * 50, 3) == "aba..."
    assert dnnlib.util.printable("ab" * 50, None) == "ab" * 50


@pytest.mark.parametrize("mode", ["wb", "w"])
def test_a_full_disk_names_the_file_that_is_written(tmp_path, mode):
    """With a limit on the size of files for a full disk; the content is larger than what is buffered, or not."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (200, 2_000_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            with pytest.raises(OSError) as caught, dnnlib.util.open_atomic(tmp_path / "new", mode) as file:
                file.write(size * (b"a" if mode == "wb" else "a"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.filename == str(tmp_path / "new")
        assert not list(tmp_path.iterdir())
