"""Constructor arguments of networks that come from files: every one has a rule, and the rules bound what is built."""

from __future__ import annotations

import pytest

from ssn_plugin import networks as ssn_networks
from training import networks
from training.augment import AugmentPipe
from training.formats.network_arguments import _RULES, check_arguments, constructor_names

# What an outer constructor computes for an inner one; a file cannot give it without an error of Python's.
COMPUTED = {
    "in_channels", "tmp_channels", "out_channels", "resolution", "is_last", "first_layer_idx", "up", "use_fp16",
    "num_ws", "demodulation", "channels_last",
}
SIZES = dict(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3)


@pytest.mark.parametrize("cls", [
    networks.Generator, networks.MappingNetwork, networks.SynthesisNetwork, networks.SynthesisBlock,
    networks.SynthesisLayer, networks.Discriminator, networks.DiscriminatorBlock, networks.DiscriminatorEpilogue,
    ssn_networks.SSNGenerator, ssn_networks.BlockMappingNetwork, ssn_networks.SpatialSynthesisNetwork,
    ssn_networks.SpatialSynthesisBlock, ssn_networks.SpatialSynthesisLayer,
])
def test_every_argument_of_a_constructor_has_a_rule(cls):
    names = {name for name in constructor_names(cls) if not name.endswith("_kwargs")}
    assert names <= _RULES.keys() | COMPUTED


@pytest.mark.parametrize("changes, message", [
    (dict(img_resolution=8192), "img_resolution must be a side of 4..4096 pixels or a list of two, got 8192"),
    (dict(img_resolution=[16, 2**70]), "got a list"),
    (dict(img_channels=65), "img_channels must be an integer in 1..64, got 65"),
    (dict(c_dim=True), "c_dim must be an integer in 0..65536, got True"),
    (dict(w_dim=0), "w_dim must be an integer in 1..16384, got 0"),
    (dict(mapping_kwargs=dict(num_layers=65)), "num_layers must be an integer in 0..64, got 65"),
    (dict(mapping_kwargs=dict(w_avg_beta=float("nan"))), "w_avg_beta must be a number in 0..1 or None, got nan"),
    (dict(synthesis_kwargs=dict(conv_clamp="x\x1b")), r"conv_clamp must be a positive number or None, got 'x\\x1b'"),
    (dict(synthesis_kwargs=dict(resample_filter=[1] * 65)), "resample_filter must be a list of at most 64"),
    (dict(synthesis_kwargs=dict(activation="exec")), "activation must be one of"),
])
def test_a_value_beyond_its_rule_is_named(changes, message):
    with pytest.raises(ValueError, match=f"^G: .*{message}"):
        check_arguments(networks.Generator, (), {**SIZES, **changes}, "G")


def test_arguments_by_position_are_checked_by_their_names():
    check_arguments(networks.Generator, (8, 0, 8, [4096, 4096], 3), {}, "G")
    with pytest.raises(ValueError, match="G: w_dim must be"):
        check_arguments(networks.Generator, (8, 0, "x", 16, 3), {}, "G")


def test_the_blocks_of_all_grids_count_together():
    kwargs = dict(c_dim=0, img_resolution=1024, img_channels=3, block_z_dim=512, block_w_dim=512)
    check_arguments(ssn_networks.SSNGenerator, (), dict(kwargs, block_grid=[[4, 4], [64, 64]]), "G")
    with pytest.raises(ValueError, match="at most 65536 blocks of together 4194304 numbers are read, got 8208 of 512"):
        check_arguments(ssn_networks.SSNGenerator, (), dict(kwargs, block_grid=[[4, 4], [64, 64], [64, 64]]), "G")


def test_strengths_of_augmentations_are_numbers():
    check_arguments(AugmentPipe, (), dict(xflip=1, imgfilter_bands=[1, 0, 1, 1]), "augment_pipe")
    for kwargs in (dict(xflip="1"), dict(scale=[1]), dict(imgfilter_bands=[1] * 5), dict(noise=float("inf"))):
        with pytest.raises(ValueError, match=f"augment_pipe: {next(iter(kwargs))} must be"):
            check_arguments(AugmentPipe, (), kwargs, "augment_pipe")
