"""Edit generated images in the browser: click what you don't like, choose among eight new ones."""

from __future__ import annotations

import os
import shlex
import webbrowser
from typing import TYPE_CHECKING

import click

from training.cli import Command, network_option, trust_option, words_to_call
from training.images.image_commands import class_option, device_option, progress_bar, usable_class

if TYPE_CHECKING:
    from ssn_plugin.editor.launch import OpenEditor

EPILOG = """\b
Examples:
  python edit.py --network=demo:castles64
  python edit.py --network=network-snapshot.pkl --picture=photo.png --tune
"""


@click.command(cls=Command, epilog=EPILOG)
@network_option()
@click.option("--picture", "picture_path", metavar="FILE", help="Find this picture in the network first, then edit it")
@click.option("--tune", is_flag=True, help="Tune the network to --picture: closest to it, and takes twice as long")
@class_option("; for --picture")
@click.option("--load", "load_path", metavar="FILE", help="Go on with a session that was saved")
@click.option("--save", "save_path", metavar="FILE",
              help="Where to save the session, after every change  [default: the file of --load; else a new one in "
                   "the folder edits]")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS",
              help="Address to answer at. Another one lets others in who have the token")
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="INT", help="Port  [default: a free one]")
@click.option("--no-browser", is_flag=True, help="Print the address instead of opening it")
@device_option()
@trust_option()
def main(
    network: str,
    picture_path: str | None,
    tune: bool,
    class_text: str | None,
    load_path: str | None,
    save_path: str | None,
    host: str,
    port: int,
    no_browser: bool,
    device: str | None,
    trust_pickle: bool,
) -> None:
    """Edit generated images in the browser.

    Opens a page of this machine's own, which shows images of a network trained with --cfg=ssn. Click a block to see
    it drawn anew eight times, click the one to keep. Nothing leaves this machine. The session is saved after every
    change; Ctrl-C ends the server.
    """
    try:
        from ssn_plugin.editor import launch
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] != "werkzeug":
            raise
        raise click.ClickException("the editor needs the package werkzeug: pip install 'ssn-plugin[editor]'") from err

    for flag, given in (("--tune", tune), ("--class", class_text)):
        if given and picture_path is None:
            raise click.UsageError(f"{flag} needs --picture")
    picture = None if picture_path is None else read_file(picture_path)
    with launch.open_editor(network, host, port, load_path, save_path, device, trust_pickle) as editor:
        if picture is not None:
            class_ = usable_class(editor.server.editor.studio.session.network.G, class_text, network, trust_pickle)
            find_picture(editor, picture, os.path.basename(picture_path or ""), tune, class_)
        click.echo(f"Editing images of {network} at {editor.server.url}")
        click.echo(f"The session is saved in {editor.save_path}; to go on later: {go_on(network, editor.save_path)}")
        click.echo("Ctrl-C ends the server.")
        if not no_browser:
            webbrowser.open(editor.server.url)
        try:
            editor.server.serve()
        except KeyboardInterrupt:
            saved = os.path.exists(editor.save_path)
            click.echo(f"\nStopped. The session is in {editor.save_path}" if saved else "\nStopped.")


def read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def find_picture(editor: OpenEditor, data: bytes, name: str, tune: bool, class_: int | None) -> None:
    """Start from the image that comes closest to the picture."""
    from ssn_plugin.editor.finding import Wish, find

    studio = editor.server.editor.studio
    wish = Wish(data, name, likeness="tuned" if tune else "layers", label=class_)
    with progress_bar("Searching", wish.steps, "steps") as bar:
        studio.start_from(find(studio.session, wish, on_step=lambda at: bar.step(f"{at.distance:.4g}")))


def go_on(network: str, save_path: str) -> str:
    return shlex.join([*words_to_call("edit"), f"--network={network}", f"--load={save_path}"])


if __name__ == "__main__":
    main()
