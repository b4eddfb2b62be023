"""Labels find their images, or say that they do not."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from picture_helpers import encode, noise, write_files

from dataset_tool import main
from training.data import labels as labels_module
from training.data.dataset_conversion import ConversionOptions, convert_dataset
from training.data.image_files import ImageArchive
from training.data.labels import read_class_names, read_labels
from training.dataset import ImageFolderDataset

PNG = encode(noise())


def archive(folder: Path, names: list[str], entries: list[Any], label_file: str = "dataset.json") -> ImageArchive:
    content = json.dumps({"labels": entries}).encode()
    return ImageArchive(write_files(folder / "set", {**dict.fromkeys(names, PNG), label_file: content}))


@pytest.mark.parametrize("given", ["a\\\\b.png", "./a/b.png", "a//b.png", ".\\\\a\\\\b.png", "a/b.png"])
def test_other_spellings_of_a_name_find_the_image(tmp_path, given):
    source = archive(tmp_path, ["a/b.png", "c.png"], [[given, 3], ["c.png", 0]])
    assert read_labels(source) == {"a/b.png": 3, "c.png": 0}


def test_letters_with_accents_match_in_one_part_or_two(tmp_path):
    assert read_labels(archive(tmp_path, ["e\u0301.png"], [["\u00e9.png", 2]])) == {"e\u0301.png": 2}


def test_two_files_of_one_plain_name_are_told_apart_by_their_exact_names(tmp_path):
    names = ["\u00e9.png", "e\u0301.png"]
    assert read_labels(archive(tmp_path, names, [[names[0], 1], [names[1], 2]])) == dict(zip(names, [1, 2]))


def test_names_that_match_nothing_are_counted_and_the_first_is_named(tmp_path):
    source = archive(tmp_path, ["0.png", "1.png"], [["x/0.png", 1], ["x/1.png", 0], ["0.png", 1]])
    with pytest.raises(ValueError, match=r'1.png has no label \(1 of 2 images\); "x/0.png" names no file \(2 of 3'):
        read_labels(source)
    result = CliRunner().invoke(main, [f"--source={source.path}", f"--dest={tmp_path / 'out.zip'}"])
    assert result.exit_code == 2 and result.output.count("\n") == 1 and not (tmp_path / "out.zip").exists()


def test_labels_of_absent_images_do_no_harm_where_every_image_has_one(tmp_path):
    assert read_labels(archive(tmp_path, ["0.png"], [["0.png", 1], ["deleted.png", 0]])) == {"0.png": 1}


@pytest.mark.parametrize("given", ["set/0.png", "0.png"])
@pytest.mark.parametrize("as_zip", [True, False])
def test_the_label_file_may_lie_in_the_only_folder_at_the_top(tmp_path, given, as_zip):
    content = json.dumps({"labels": [[given, 4]]})
    files = {"set/0.png": PNG, "set/dataset.json": content.encode(), "__MACOSX/._0.png": b"", ".DS_Store": b""}
    if as_zip:
        with zipfile.ZipFile(tmp_path / "in.zip", "w") as file:
            for name, data in files.items():
                file.writestr(name, data)
        source = str(tmp_path / "in.zip")
    else:
        source = write_files(tmp_path / "in", files)
    assert ImageFolderDataset(source, use_labels=True).get_details(0).raw_label == 4


def test_one_file_with_two_labels_is_refused_also_under_two_spellings(tmp_path):
    with pytest.raises(ValueError, match="0.png is listed twice, with the labels 1 and 2"):
        read_labels(archive(tmp_path, ["0.png"], [["0.png", 1], ["./0.png", 2]]))
    assert read_labels(archive(tmp_path, ["0.png"], [["0.png", 1], ["0.png", 1]])) == {"0.png": 1}


def test_classes_without_images_are_counted(tmp_path):
    source = archive(tmp_path, ["0.png", "1.png"], [["0.png", 1], ["1.png", 7]]).path
    assert convert_dataset(source, str(tmp_path / "out.zip")).label_text == "labels of 8 classes, 6 empty"


@pytest.mark.parametrize("label", [2**16, 999_999, [0] * (2**16 + 1), []])
def test_labels_wider_than_any_network_are_refused(tmp_path, label):
    with pytest.raises(ValueError, match="the label of 0.png must be an integer in 0..65535 or a list of 1 to 65536"):
        read_labels(archive(tmp_path, ["0.png", *map(str, range(9))], [["0.png", label]]))


def test_a_label_file_that_unpacks_to_more_than_its_images_need_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(labels_module, "MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("0.png", PNG)
        file.writestr("dataset.json", b'{"labels": [["0.png", [' + b"0," * 10**5 + b"0]]]}")
    assert os.path.getsize(tmp_path / "s.zip") < 2000
    with pytest.raises(OSError, match="cannot read dataset.json: unpacks to 200028 bytes, the limit is 33768"):
        read_labels(ImageArchive(str(tmp_path / "s.zip")))


def test_class_names_survive_a_second_conversion(tmp_path):
    source = write_files(tmp_path / "in", {"cat/0.png": PNG, "dog/1.png": PNG})
    convert_dataset(source, str(tmp_path / "a.zip"), ConversionOptions(subfolders_as_labels=True))
    summary = convert_dataset(str(tmp_path / "a.zip"), str(tmp_path / "b.zip"))
    assert summary.classes == [("cat", 1), ("dog", 1)]
    assert read_class_names(ImageArchive(str(tmp_path / "b.zip"))) == ["cat", "dog"]


def test_folders_that_are_numbers_are_classes_in_the_order_of_numbers(tmp_path):
    source = write_files(tmp_path / "in", {f"{i}/x.png": PNG for i in range(12)})
    summary = convert_dataset(source, str(tmp_path / "out.zip"), ConversionOptions(subfolders_as_labels=True))
    assert [name for name, _ in summary.classes] == [str(i) for i in range(12)]
