"""Write images as a film: MP4 where ffmpeg is at hand, otherwise an animated WebP, which browsers play."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image, features

import dnnlib
from dnnlib.util import UserError
from training.images.pictures import enlarge, to_rgb

MIN_SIDE = 256   # smaller frames are enlarged: players would blur them, and H.264 would mix their colours
BITRATE = "16M"


class FfmpegError(OSError):
    """What ffmpeg says when it fails."""


@dataclasses.dataclass(frozen=True)
class FilmFormat:
    """How films can be written on this machine; see `choose_format`."""

    suffix: str          # .mp4 or .webp
    ffmpeg: str | None   # path of the program that writes it
    note: str = ""       # what the user may want to know, if it is not the best format


def choose_format() -> FilmFormat:
    """The best format that works here, tried out before the frames are computed. `ValueError` if there is none."""
    for ffmpeg in _ffmpegs():
        try:
            _run_ffmpeg(ffmpeg, iter([np.zeros([16, 16, 3], dtype=np.uint8)]), fps=1, output=["-f", "null", "-"])
            return FilmFormat(".mp4", ffmpeg)
        except OSError:   # built without H.264, or not for this machine
            continue
    if not features.check("webp"):
        raise UserError("a film needs ffmpeg (pip install imageio-ffmpeg) or a Pillow with WebP, and here is neither")
    note = "no ffmpeg with H.264 was found, so films become animated WebP; pip install imageio-ffmpeg gives MP4"
    return FilmFormat(".webp", None, note)


def _ffmpegs() -> list[str]:
    """Programs to try: what the package imageio-ffmpeg brings along or finds, and what is on the path."""
    found = [shutil.which("ffmpeg")]
    if importlib.util.find_spec("imageio_ffmpeg") is not None:
        import imageio_ffmpeg

        with contextlib.suppress(RuntimeError):   # installed without a program for this machine
            found.insert(0, imageio_ffmpeg.get_ffmpeg_exe())
    return [path for path in found if path is not None]


def save_film(
    frames: Iterable[np.ndarray],   # uint8 [H, W, C], all of one size
    num_frames: int,
    fps: float,
    path: str,                      # without suffix
    film_format: FilmFormat,
    on_frame: Callable[[], None] | None = None,   # called with every frame
) -> str:
    """Write the frames one by one as they come; returns the path. The file appears when it is complete.

    Transparency becomes white, small frames are enlarged. Raises OSError where the film cannot be written.
    """
    def pictures() -> Iterator[np.ndarray]:
        for frame in frames:
            if on_frame is not None:
                on_frame()
            yield enlarge(np.asarray(to_rgb(frame)), MIN_SIDE)

    path += film_format.suffix
    with dnnlib.util.open_atomic(path) as file:
        if film_format.ffmpeg:
            # Players start at once when the index of the film comes first.
            output = ["-movflags", "+faststart", "-f", "mp4", "-y", file.name]
            try:
                _run_ffmpeg(film_format.ffmpeg, pictures(), fps, output)
            except FfmpegError as err:
                raise OSError(f"{path}: {err}") from err
        else:
            page = _as_animation(pictures(), num_frames)
            page.save(file, format="WEBP", save_all=True, duration=round(1000 / fps), loop=0, quality=90, method=2)
    return path


def _run_ffmpeg(ffmpeg: str, frames: Iterator[np.ndarray], fps: float, output: list[str]) -> None:
    """Send frames `[H, W, 3]` to ffmpeg, which encodes them as H.264. FfmpegError with its last line if it fails."""
    first = next(frames)
    height, width = first.shape[:2]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    # Most players know no other pixel format; it needs even sides.
    codec = ["-c:v", "libx264", "-b:v", BITRATE, "-pix_fmt", "yuv420p", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"]
    command = [ffmpeg, "-v", "error", *source, *codec, *output]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=messages)
        assert process.stdin is not None
        try:
            for frame in itertools.chain([first], frames):
                process.stdin.write(frame.tobytes())
        except BrokenPipeError:   # ffmpeg ended early; its message says why
            pass
        except BaseException:
            process.kill()
            raise
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
        if process.returncode != 0:
            messages.seek(0)
            lines = messages.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"exit code {process.returncode}"
            raise FfmpegError(f"{os.path.basename(ffmpeg)} could not write the film: {reason}")


def _as_animation(frames: Iterator[np.ndarray], num_frames: int) -> Image.Image:
    """A picture with Pillow's interface of animations that takes each frame when asked for it.

    Given a list, Pillow would hold all frames of the film in memory.
    """
    page = Image.fromarray(next(frames))
    shown = 0

    def seek(index: int) -> None:
        nonlocal shown
        if index == shown + 1:   # any other index is a return to the start, after the last frame
            page.paste(Image.fromarray(next(frames)))
            shown = index

    vars(page).update(n_frames=num_frames, is_animated=num_frames > 1, seek=seek)
    return page
