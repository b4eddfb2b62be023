"""Films: MP4 with ffmpeg, animated WebP without, and the labelled grids of training.images.pictures."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from training.images import pictures, video
from training.images.video import FilmFormat, save_film

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (230, 230, 230)]


@pytest.fixture(params=[".webp", ".mp4"])
def film_format(request, monkeypatch) -> FilmFormat:
    if request.param == ".webp":
        monkeypatch.setattr(video, "_ffmpegs", lambda: [])
    found = video.choose_format()
    if found.suffix != request.param:
        pytest.skip("no ffmpeg with H.264 here")
    return found


def frames(channels: int = 3) -> Iterator[np.ndarray]:
    for colour in COLOURS:
        yield np.broadcast_to(np.array([*colour, 255][:channels], dtype=np.uint8), [8, 12, channels])


def read_film(path: str, film_format: FilmFormat) -> np.ndarray:
    """Frames `[N, H, W, 3]` of a film."""
    if film_format.ffmpeg is None:
        with Image.open(path) as film:
            return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)])
    command = [film_format.ffmpeg, "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, 256, 384, 3)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_film_has_every_frame_in_order_enlarged_by_whole_pixels(film_format, tmp_path, channels):
    shown = []
    path = save_film(frames(channels), 4, 10, str(tmp_path / "film"), film_format, lambda: shown.append(1))
    assert path == str(tmp_path / "film") + film_format.suffix and len(shown) == 4
    film = read_film(path, film_format)
    assert film.shape == (4, 256, 384, 3)   # the shorter side of 8 pixels, 32 times
    colours = film[:, 20:-20, 20:-20].mean(axis=(1, 2))
    assert np.abs(colours - COLOURS).max() < 12   # neither codec is lossless


def test_gray_becomes_colour_and_transparency_white(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_ffmpegs", lambda: [])
    webp = video.choose_format()
    images = [np.full([256, 256, 1], 90, dtype=np.uint8), np.zeros([256, 256, 4], dtype=np.uint8)]
    film = np.concatenate([
        read_film(save_film(iter([image, image]), 2, 10, str(tmp_path / str(i)), webp), webp)[:1]
        for i, image in enumerate(images)
    ])
    assert np.abs(film.mean(axis=(1, 2)) - [[90] * 3, [255] * 3]).max() < 4


def test_a_film_that_breaks_off_leaves_the_one_before_it(film_format, tmp_path):
    def broken() -> Iterator[np.ndarray]:
        yield from frames()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_film(broken(), 5, 10, str(tmp_path / "film"), film_format)
    assert not list(tmp_path.iterdir())
    path = Path(save_film(frames(), 4, 10, str(tmp_path / "film"), film_format))
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        save_film(broken(), 5, 10, str(tmp_path / "film"), film_format)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_an_animation_takes_its_frames_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_ffmpegs", lambda: [])
    alive: list[weakref.ref] = []

    def counted() -> Iterator[np.ndarray]:
        for colour in range(20):
            frame = np.full([256, 256, 3], colour * 10, dtype=np.uint8)
            alive.append(weakref.ref(frame))
            assert sum(ref() is not None for ref in alive) <= 3
            yield frame

    save_film(counted(), 20, 10, str(tmp_path / "film"), video.choose_format())
    assert len(alive) == 20


def fake_ffmpeg(folder: Path, body: str) -> FilmFormat:
    path = folder / "ffmpeg"
    path.write_text(f"#!{sys.executable}\nimport pathlib, sys\n{body}\n")
    path.chmod(0o755)
    return FilmFormat(".mp4", str(path))


def test_ffmpeg_gets_the_frames_as_they_are_and_makes_h264_for_every_player(tmp_path):
    fake = fake_ffmpeg(tmp_path, "pathlib.Path(sys.argv[-1]).write_bytes(sys.stdin.buffer.read());"
                                 f"pathlib.Path({str(tmp_path)!r}, 'arguments').write_text(' '.join(sys.argv))")
    path = save_film(frames(), 4, 10, str(tmp_path / "film"), fake)
    sent = np.fromfile(path, dtype=np.uint8).reshape(4, 256, 384, 3)
    assert (sent == np.array(COLOURS)[:, None, None]).all()
    arguments = (tmp_path / "arguments").read_text()
    for part in ("-s 384x256 -r 10 -i -", "-c:v libx264 -b:v 16M -pix_fmt yuv420p", "-f mp4"):
        assert part in arguments


@pytest.mark.parametrize("body", ["sys.stdin.read()", "pass"])   # it fails at the end, or before it read anything
def test_a_failure_of_ffmpeg_is_reported_by_its_last_line(tmp_path, body):
    fake = fake_ffmpeg(tmp_path, f"{body}; print('first', 'disk full', sep='\\n', file=sys.stderr); sys.exit(1)")
    with pytest.raises(OSError, match="film.mp4: ffmpeg could not write the film: disk full$"):
        save_film(frames(), 4, 10, str(tmp_path / "film"), fake)
    assert [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]


def test_an_ffmpeg_without_h264_is_passed_over(tmp_path, monkeypatch):
    fake = fake_ffmpeg(tmp_path, "sys.exit('Unknown encoder libx264')")
    monkeypatch.setattr(video, "_ffmpegs", lambda: [fake.ffmpeg, str(tmp_path / "missing")])
    assert video.choose_format().suffix == ".webp"
    monkeypatch.setattr(video.features, "check", lambda name: False)
    with pytest.raises(ValueError, match="a film needs ffmpeg .* or a Pillow with WebP"):
        video.choose_format()


def test_the_first_ffmpeg_that_works_is_taken(tmp_path, monkeypatch):
    fake = fake_ffmpeg(tmp_path, "sys.stdin.read()")
    monkeypatch.setattr(video, "_ffmpegs", lambda: [str(tmp_path / "missing"), fake.ffmpeg])
    assert video.choose_format() == fake


@pytest.mark.parametrize(("shape", "tile"), [
    ((8, 8), (128, 128)), ((48, 48), (144, 144)), ((64, 32), (64, 128)), ((128, 128), (128, 128)),
    ((200, 200), (200, 200)), ((1024, 512), (128, 256)),
])
def test_tiles_are_whole_multiples_of_small_images_and_reduce_large_ones(shape, tile):
    assert pictures.tile_size(*shape) == tile


def test_a_labelled_grid_has_every_image_at_its_place():
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, [6, 128, 128, 3]).astype(np.uint8)
    page = np.asarray(pictures.draw_labelled_grid(images, ["seed 1", "seed 22"], ["a", "b", "c"]))
    for i, image in enumerate(images):
        row, column = divmod(i, 3)
        top = page.shape[0] - pictures.GRID_MARGIN - (2 - row) * 132 + 4
        left = page.shape[1] - pictures.GRID_MARGIN - (3 - column) * 132 + 4
        assert np.array_equal(page[top : top + 128, left : left + 128], image)
    assert (page[: pictures.GRID_MARGIN // 2] == 255).all() and (page[:, : pictures.GRID_MARGIN // 2] == 255).all()
    assert page[: top - 140].min() < 60 and page[:, : left - 270].min() < 60   # labels above and on the left
