"""`ssn`, also `python -m ssn_plugin`: every command, on the code of this project or another StyleGAN2-ADA checkout.

Most commands are scripts of the host, such as `generate.py`; the rest is the plugin's own.
"""

from __future__ import annotations

import copy
import re
import sys
from typing import Any

import click

import ssn_plugin
from ssn_plugin import config
from ssn_plugin.errors import UserError
from ssn_plugin.hosts import host

MAX_SEED = 2**32 - 1  # numpy's RandomState takes no more
INSTALL = "pip install torch numpy scipy pillow click psutil"
PROGRAM = "python -m ssn_plugin"  # in the examples of the help texts, where the name of the running program takes over

# The scripts, and what the list of commands says about them: importing them all for their own words takes too long.
SCRIPTS = {
    "train": "Train a GAN; with --cfg=ssn a Spatially Stochastic Network.",
    "generate": "Generate images, and redraw parts of them.",
    "edit": "Edit generated images in the browser.",
    "metrics": "Measure the quality of a trained network.",
    "project": "Find the latent that makes a network draw a given picture.",
    "mix": "Combine the styles of two images.",
    "dataset": "Convert images to a data set.",
}


def examples(*lines: str) -> str:
    """The end of a help text: command lines that work as they stand, given the files they name."""
    return "\b\nExamples:\n" + "\n".join(f"  {PROGRAM} {line}" for line in lines)


class Commands(click.Group):
    """The plugin's own commands, and scripts that are imported when they are called.

    Reports ValueError, OSError and wrong usage in one line; DNNLIB_TRACEBACK=1 shows the traceback.
    """

    def main(self, args: Any = None, *other: Any, **options: Any) -> Any:
        try:
            adapter = host.current()
        except ModuleNotFoundError as err:  # in a checkout whose requirements were not installed
            click.echo(f"Error: the library {err.name} is missing: {INSTALL}", err=True)
            sys.exit(2)
        if args is None:  # the process is this command
            adapter.keep_freed_memory()
        return super().main(args, *other, **options)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with host.current().one_line_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with host.current().one_line_errors():
            host.current().name_scripts(ctx, program_of(ctx))
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*SCRIPTS, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = script_command(cmd_name) if cmd_name in SCRIPTS else self.commands.get(cmd_name)
        return None if command is None else named(command, program_of(ctx), cmd_name)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        click.Group.format_epilog(named(self, program_of(ctx), ""), ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([
                (name, SCRIPTS.get(name) or self.commands[name].get_short_help_str())
                for name in self.list_commands(ctx)
            ])  # fmt: skip


def script_command(name: str) -> click.Command:
    """The command of a script, or the one that takes its place in a host whose script knows nothing of the plugin."""
    command = host.require(*(host.TRAIN_MODULES if name == "train" else ())).script(name)
    if command is not None:
        return command
    from ssn_plugin.hosts import commands, launch

    if name == "train":
        return launch.train_command()
    own: dict[str, click.Command] = dict(generate=commands.generate, metrics=commands.metrics)
    if name not in own:
        raise UserError(f"{name} works in the host of this project only: use the script of this checkout")
    return own[name]


def program_of(ctx: click.Context) -> str:
    """How the user calls this program."""
    return ctx.find_root().info_name or PROGRAM


def named(command: click.Command, program: str, name: str) -> click.Command:
    """The command, whose examples call it as the user does."""
    if command.epilog is None or command.callback is None:
        return command
    renamed = copy.copy(command)
    examples = command.epilog.replace(f"python {command.callback.__module__}.py", f"{program} {name}")
    renamed.epilog = examples.replace(PROGRAM, program)
    return renamed


def console() -> None:
    """The command `ssn`. In its process no other package's `training` or `metrics` comes before this project's."""
    if ssn_plugin.HOST_DIR is not None:
        sys.path.insert(0, ssn_plugin.HOST_DIR)
    main(prog_name="ssn")


@click.group(cls=Commands, context_settings=dict(help_option_names=["-h", "--help"]), epilog=examples(
    "transfer stylegan2.pkl ssn.pkl --blocks=4x4",
    "generate --network=ssn.pkl --seeds=3 --resample-block=1,2 --outdir=out",
))
def main() -> None:
    """Spatially Stochastic Networks: train them, redraw parts of their images, measure them."""


def list_networks(ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Callback of an eager parameter that names a network: `help` prints the short names and ends the command."""
    if value == "help":
        click.echo(host.require().network_help())
        ctx.exit()
    return value


source_argument = click.argument("source", metavar="IN", callback=list_networks, is_eager=True)
trust_option = click.option(
    "--trust-pickle", is_flag=True, help="Run code that the network file carries; only for files you trust"
)


@main.command(short_help="Convert a network file to another format.", epilog=examples(
    "convert ssn.pkl ssn.safetensors",
    "convert ssn.pkl release/castles.pkl",
))
@source_argument
@click.argument("dest", metavar="OUT")
@trust_option
def convert(source: str, dest: str, trust_pickle: bool) -> None:
    """Convert a network file between .pkl, .safetensors and .pt, with a model card beside it.

    IN is a path, a URL, or a short name that `convert help` lists.
    """
    for line in host.require().convert(source, dest, trust_pickle):
        click.echo(line)


@main.command(short_help="Turn a StyleGAN2 network into an SSN.", epilog=examples(
    "transfer stylegan2.pkl ssn.pkl --blocks=4x4",
    "transfer stylegan2.pkl ssn.pkl --blocks=2x4 --encoder=none",
))
@source_argument
@click.argument("dest", metavar="OUT")
@click.option("--blocks", default="4x4", show_default=True, metavar="RxC", help="Rows x columns of the block grid")
@click.option("--encoder", type=click.Choice(config.ENCODERS), default="gated", show_default=True,
              help="Spatial encoder of the block latents")
@click.option("--encoder-init", type=click.Choice(config.ENCODER_INITS), default="zero", show_default=True,
              help="zero: its gates are closed, which keeps the images; random: open, as in the paper")
@click.option("--style-resolution", type=int, metavar="INT",
              help="Finest resolution of the style maps; 0 = exact everywhere  [default: from the grid]")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, metavar="INT",
              help="Seed of the encoder's weights")
@trust_option
def transfer(
    source: str, dest: str, blocks: str, encoder: str, encoder_init: str, style_resolution: int | None, seed: int,
    trust_pickle: bool,
) -> None:
    """Turn a StyleGAN2 network into a Spatially Stochastic Network with the same weights.

    IN is a path, a URL, or a short name that `transfer help` lists. Prints every parameter and buffer that does not
    come from it. Train the result further with train --cfg=ssn --resume=OUT.
    """
    lines = ssn_plugin.transfer(source, dest, blocks, encoder, encoder_init, style_resolution, seed, trust_pickle)
    for line in [f"wrote {dest}", *lines]:
        click.echo(line)


@main.command(short_help="Write a network for other programs.", epilog=examples(
    "export ssn.pkl ssn-onnx",
    "export ssn.pkl ssn-torch --format=torch --inputs=noise,mask",
))
@source_argument
@click.argument("outdir", metavar="OUT")
@click.option("--format", "kind", default="onnx", show_default=True, metavar="NAME",
              help="onnx: for ONNX runtimes; torch: programs of torch.export; page: the editor for any static host")
@click.option("--dtype", default="float32", show_default=True, metavar="NAME",
              help="float32, or float16 for the activations beyond the first level")
@click.option("--inputs", default="", metavar="LIST",
              help="What synthesis takes beside styles: noise (maps), mask (of blocks, and other styles)")
@click.option("--runtime", metavar="DIR", help="Folder of onnxruntime-web, for a page  [default: npm fetches it]")
@click.option("--licence", metavar="TEXT", help="Licence of the weights  [default: as far as known]")
@trust_option
def export(
    source: str, outdir: str, kind: str, dtype: str, inputs: str, runtime: str | None, licence: str | None,
    trust_pickle: bool,
) -> None:
    """Write mapping and synthesis of a network for other programs, and compare what they make with torch.

    IN is a path, a URL, or a short name that `export help` lists. OUT is a new or an empty folder.
    """
    words = [word.strip() for word in inputs.split(",") if word.strip()]
    for line in ssn_plugin.export(source, outdir, kind, dtype, words, licence, trust_pickle, runtime):
        click.echo(line)


@main.command(short_help="Say what this machine can train, or how a run goes.", epilog=examples(
    "doctor",
    "doctor --cfg=ssn --resolution=64 --outdir=training-runs",
))
@click.argument("run", required=False, metavar="[RUN]")
@click.option("--cfg", default="auto", show_default=True, metavar="NAME", help="A --cfg of train.py, such as ssn")
@click.option("--resolution", default="256", show_default=True, metavar="R|WxH", help="Size of the images in pixels")
@click.option("--gpus", type=click.IntRange(min=0), metavar="INT",
              help="How many to train on; 0 = the CPU  [default: 1, or the CPU where there is no GPU]")
@click.option("--batch", type=click.IntRange(min=1), metavar="INT", help="Images per step  [default: that of the cfg]")
@click.option("--outdir", default=".", show_default=True, metavar="DIR", help="Where the runs will be saved")
@click.pass_context
def doctor(
    ctx: click.Context, run: str | None, cfg: str, resolution: str, gpus: int | None, batch: int | None, outdir: str
) -> None:
    """Say what this machine offers for a training run, what is missing, and what to do about it.

    With the folder RUN, say instead how that run goes: whether the discriminator wins, blocks die, images are too few,
    distortion rises, numbers break, and what helps. The exit code is 1 if something would not work, else 0.
    """
    if run is not None:
        from ssn_plugin.run_doctor import examine_run, format_signs

        click.echo(format_signs(examine_run(run)))
        return
    width, height = parse_resolution(resolution)
    try:
        from ssn_plugin.hosts.doctor import Plan, examine, format_findings
    except ModuleNotFoundError as err:  # not even the doctor can do without
        raise UserError(f"the library {err.name} is missing: {INSTALL}") from err
    findings = list(examine(Plan(cfg, width, height, gpus, batch, outdir)))
    click.echo(format_findings(findings))
    ctx.exit(1 if any(finding.is_problem for finding in findings) else 0)


def parse_resolution(text: str) -> tuple[int, int]:
    """`256` -> (256, 256), `128x64` -> (128, 64)."""
    match = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", text)
    width, height = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not (width and height):
        raise UserError(f"--resolution must be a number of pixels such as 256, or WIDTHxHEIGHT, got {text}")
    return width, height
