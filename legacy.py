"""Convert a network file to another format. Also the host's name for the functions that read network files."""

from __future__ import annotations

import click

from training import network_files
from training.cli import Command, list_networks
from training.formats.reading import TFNetworkStub, load_network_pkl
from training.formats.tf_conversion import convert_tf_discriminator, convert_tf_generator

__all__ = ["TFNetworkStub", "convert_tf_discriminator", "convert_tf_generator", "load_network_pkl"]

EXAMPLES = """\b
Examples:
  python legacy.py --source=stylegan2-ffhq-config-f.pkl --dest=ffhq.pkl
  python legacy.py --source=network-snapshot-001000.pkl --dest=release/castles.safetensors
"""


@click.command(cls=Command, epilog=EXAMPLES)
@click.option("--source", required=True, metavar="PATH", callback=list_networks, is_eager=True,
              help="Network file: path, URL, or a short name that --source=help lists")
@click.option("--dest", required=True, metavar="PATH",
              help="File to write; .pkl, .safetensors or .pt decides its format")
@click.option("--force-fp16", type=bool, default=False, metavar="BOOL", help="Compute the top resolutions in float16")
@click.option("--trust-pickle", is_flag=True, help="Execute the code inside the pickle; only if you trust its author")
def main(source: str, dest: str, force_fp16: bool, trust_pickle: bool) -> None:
    """Convert network files between formats, with a model card beside the result."""
    for line in network_files.convert(source, dest, trust=trust_pickle, force_fp16=force_fp16):
        click.echo(line)


if __name__ == "__main__":
    main()
