"""Which files of a folder or zip count as images."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from picture_helpers import encode, noise, write_files

from training.data import image_files
from training.data.dataset_conversion import ConversionOptions, convert_dataset
from training.data.image_files import ImageArchive, describe_others, list_folder
from training.dataset import ImageFolderDataset
from training.run.construction import load_training_set

PNG = encode(noise())


def write_zip(path: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return str(path)


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    write_files(tmp_path, {"set/real/a.png": PNG, "far/b.png": PNG, "far/deep/c.png": PNG})
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "set" / "again").symlink_to("real")           # is here anyway
    (tmp_path / "set" / "real" / "up").symlink_to("..")       # a circle
    (tmp_path / "far" / "back").symlink_to(tmp_path / "set")   # another, through the link
    (tmp_path / "set" / "self").symlink_to("self")
    names = ImageArchive(str(tmp_path / "set")).image_names
    assert names == ["linked/b.png", "linked/deep/c.png", "real/a.png"]


TOOLS = [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".thumbnails", "cat/.cache"]


@pytest.mark.parametrize("write", [write_zip, write_files])
def test_folders_of_tools_do_not_count_and_are_no_classes(tmp_path, write):
    files = {"cat/0.png": PNG, "dog/1.png": PNG, **{f"{folder}/x.png": PNG for folder in TOOLS}}
    source = write(tmp_path / "in.zip", files)
    assert ImageArchive(source).image_names == ["cat/0.png", "dog/1.png"]
    summary = convert_dataset(source, str(tmp_path / "out.zip"), ConversionOptions(subfolders_as_labels=True))
    assert summary.classes == [("cat", 1), ("dog", 1)] and summary.others == ""


def test_what_is_no_ordinary_file_is_neither_read_nor_waited_for(tmp_path):
    source = write_files(tmp_path / "in", {"0.png": PNG})
    os.mkfifo(tmp_path / "in" / "1.png")
    assert len(ImageFolderDataset(source)) == 1
    assert convert_dataset(source, str(tmp_path / "out.zip")).others == "1 file of other kinds: 1 no ordinary file"


def test_a_pipe_with_the_name_of_a_zip_or_a_database_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "s.zip")
    with pytest.raises(OSError, match="images are read from a folder or a .zip, got .*s.zip"):
        ImageFolderDataset(str(tmp_path / "s.zip"))
    (tmp_path / "church_lmdb").mkdir()
    os.mkfifo(tmp_path / "church_lmdb" / "data.mdb")
    with pytest.raises(OSError, match="data.mdb is not a readable LMDB file: it is no ordinary file"):
        convert_dataset(str(tmp_path / "church_lmdb"), str(tmp_path / "out.zip"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_second_file_of_one_name_in_a_zip_is_counted(tmp_path):
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("a.png", PNG)
        archive.writestr("a.png", PNG)
    assert describe_others(ImageArchive(str(tmp_path / "s.zip")).others).endswith(": 1 under the name of another")


def test_a_broken_link_is_an_image_that_cannot_be_read(tmp_path):
    write_files(tmp_path, {"0.png": PNG})
    (tmp_path / "1.png").symlink_to("lost.png")
    assert list_folder(str(tmp_path)) == ["0.png", "1.png"]
    with pytest.raises(OSError, match="cannot read 1.png: .*No such file"):
        ImageFolderDataset(str(tmp_path))[1]


@pytest.mark.parametrize("name", ["paper.pdf", "data.h5", "film.mpg", "print.eps", "old.wmf", "x.palm"])
def test_files_that_pillow_can_only_name_do_not_stop_a_run(tmp_path, name):
    source = write_files(tmp_path / "in", {"0.png": PNG, name: b"something"})
    assert len(ImageFolderDataset(source)) == 1
    summary = convert_dataset(source, str(tmp_path / "out.zip"))
    assert summary.others == f"1 file of other kinds: 1 {os.path.splitext(name)[1]}"


def test_other_files_are_counted_by_ending_with_advice():
    assert describe_others(Counter({".heic": 10, ".nef": 2, ".txt": 1})) == (
        "13 files of other kinds: 10 .heic (pip install pillow-heif reads them), "
        "2 .nef (raw photographs: convert them to TIFF, PNG or JPEG first), 1 .txt")
    many = Counter({f".{i}": 1 for i in range(9)})
    assert describe_others(many).endswith("1 .5, 3 with other endings")


def test_training_says_what_it_leaves_out(tmp_path, capsys):
    source = write_files(tmp_path / "in", {"0.png": PNG, "a.psb": b"x"})
    load_training_set(dict(class_name="training.dataset.ImageFolderDataset", path=source), verbose=True)
    assert capsys.readouterr().out.splitlines()[1] == "  left out: 1 file of other kinds: 1 .psb"


def test_a_folder_of_other_files_only_says_what_it_has(tmp_path):
    source = write_files(tmp_path / "in", {"a.dng": b"x", "b.dng": b"y"})
    for read in (ImageFolderDataset, lambda path: convert_dataset(path, str(tmp_path / "out.zip"))):
        with pytest.raises(OSError, match="contains no image, but 2 files of other kinds: 2 .dng \\(raw"):
            read(source)


def test_a_file_that_unpacks_to_a_multiple_that_no_picture_does_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "FREE_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.png", bytes(10**5))
    with pytest.raises(OSError, match="cannot read a.png: unpacks to 100000 bytes, the limit is "):
        ImageFolderDataset(str(tmp_path / "s.zip"))


def test_an_encrypted_zip_is_one_line(tmp_path):
    path = Path(write_zip(tmp_path / "s.zip", {"a.png": PNG}))
    data = bytearray(path.read_bytes())
    data[6] |= 1                                 # the flag in the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1   # and in the directory
    path.write_bytes(data)
    with pytest.raises(OSError, match="cannot read a.png: .*encrypted"):
        ImageFolderDataset(str(path))
