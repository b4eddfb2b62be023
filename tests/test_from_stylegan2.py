"""StyleGAN2 -> SSN: the same images at the start, everything else listed, and a run that starts from it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from network_file_helpers import discriminator, generator, image_of, moved, snapshot

import dnnlib
from ssn_plugin import from_stylegan2
from ssn_plugin.networks import SSNGenerator
from train import setup_training_loop_kwargs  # train.py, unlike training.config, brings the cfg along
from training import config
from training.config import UserError
from training.formats import network_export
from training.networks import Generator
from training.run import resuming

GRIDS = [[2, 2], [4, 2]]


@pytest.fixture
def photos(tmp_path):
    """Two images of 16x16 pixels."""
    (tmp_path / "photos").mkdir()
    for i in range(2):
        PIL.Image.fromarray(np.full([16, 16, 3], 90 * i, dtype=np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


def saved(networks: dict[str, Any], folder: Path, name: str = "source.pkl") -> str:
    network_export.save_networks(networks, folder / name)
    return str(folder / name)


def equal_blocks(G: Any, source: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Truncated images of both, where every block of the SSN holds the latent of the other."""
    z = torch.randn([2, source.z_dim], generator=torch.Generator().manual_seed(0))
    c = torch.eye(source.c_dim)[:2] if source.c_dim else torch.zeros([2, 0])
    kwargs: dict[str, Any] = dict(truncation_psi=0.7, noise_mode="const")
    with torch.no_grad():
        return G(z.repeat(1, G.z_dim // source.z_dim), c, **kwargs), source(z, c, **kwargs)


def assert_equal_images(G: Any, source: Any) -> None:
    actual, expected = equal_blocks(G, source)
    torch.testing.assert_close(actual, expected, atol=2e-5 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_equal_blocks_give_the_image_of_the_source(architecture, c_dim, grid):
    """Borders included, with a moving average that matters; for G and for G_ema, which differ."""
    source = snapshot(generator(architecture, c_dim=c_dim, resolution=16), discriminator(c_dim=c_dim, resolution=16))
    source["G"] = moved(copy.deepcopy(source["G"]))
    networks, _ = from_stylegan2.transfer_networks(source, [grid])
    assert networks["G_ema"].block_grid == [grid]
    for key in ("G", "G_ema"):
        assert_equal_images(networks[key], source[key])
    assert not torch.equal(image_of(networks["G"]), image_of(networks["G_ema"]))


@pytest.mark.parametrize("c_dim", [0, 3])
def test_equal_blocks_of_several_grids_give_the_image_of_the_source(c_dim):
    source = snapshot(generator(c_dim=c_dim, resolution=16), discriminator(c_dim=c_dim, resolution=16))
    networks, notes = from_stylegan2.transfer_networks(source, [[1, 1], [2, 2], [4, 4]])
    assert_equal_images(networks["G_ema"], source["G_ema"])
    assert notes and all("encoder" in line for line in notes)


def test_a_grid_keeps_its_own_mapping_network_and_mean_style_among_others():
    def ssn(grids):
        G = SSNGenerator(8, 0, 8, 16, 3, block_grid=grids, mapping_kwargs=dict(num_layers=2),
                         synthesis_kwargs=dict(channel_base=64, channel_max=8, encoder="none"))  # fmt: skip
        G.mapping.w_avg.copy_(torch.arange(len(grids)).float().repeat_interleave(
            torch.tensor([8 * rows * cols for rows, cols in grids])))  # fmt: skip
        return G

    both, fine, middle, single = ssn([[1, 1], [4, 4]]), ssn([[4, 4]]), ssn([[2, 2]]), ssn([[1, 1]])
    theirs = both.mapping.grid1_fc0.weight
    for target in (fine, middle):   # of equal size, and as the finest
        notes = from_stylegan2.transfer_weights(both, target, "G")
        assert torch.equal(target.mapping.fc0.weight, theirs) and (target.mapping.w_avg == 1).all()
        assert {line for line in notes if "mapping" in line} == {
            f"G.mapping.fc{i}.{kind} of the source has no place here" for i in (0, 1) for kind in ("weight", "bias")}
    from_stylegan2.transfer_weights(both, single, "G")
    assert torch.equal(single.mapping.fc0.weight, both.mapping.fc0.weight) and (single.mapping.w_avg == 0).all()
    more = ssn([[1, 1], [2, 2]])
    assert from_stylegan2.transfer_weights(fine, more, "G") == []
    assert torch.equal(more.mapping.fc0.weight, theirs) and torch.equal(more.mapping.grid1_fc0.weight, theirs)
    assert (more.mapping.w_avg == 1).all()


def test_independent_blocks_give_another_image_at_their_place_only_little_elsewhere():
    """The encoder is closed, so a block acts through the interpolated style map: most inside, less outside."""
    G = from_stylegan2.transfer_networks(snapshot(generator(resolution=16)), [[2, 2]])[0]["G_ema"]
    z = torch.randn([8, G.z_dim], generator=torch.Generator().manual_seed(0))
    other = z.clone()
    other[:, :8] = torch.randn([8, 8], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        change = (G(other, None, noise_mode="const") - G(z, None, noise_mode="const")).square().mean(dim=[0, 1])
    assert change[:8, :8].mean() > 2 * change[8:, 8:].mean() > 0


def test_other_widths_and_a_deeper_mapping_are_kept():
    G = moved(Generator(
        12, 2, 6, 16, 1, mapping_kwargs=dict(num_layers=3, embed_features=5, layer_features=7, w_avg_beta=0.9),
        synthesis_kwargs=dict(channel_base=64, channel_max=8, use_noise=False, resample_filter=[1, 2, 1]),
    ))  # fmt: skip
    result = from_stylegan2.transfer_networks(dict(G=G.eval(), G_ema=G.eval(), D=None), [[4, 4]])[0]["G_ema"]
    assert (result.block_z_dim, result.block_w_dim, result.z_dim, result.w_dim) == (12, 6, 192, 96)
    assert result.mapping.w_avg_beta == 0.9
    assert_equal_images(result, G)


def test_precision_goes_with_the_network():
    G = generator(resolution=16, num_fp16_res=2, conv_clamp=256)
    result = from_stylegan2.transfer_networks(snapshot(G), [[2, 2]])[0]["G_ema"].synthesis
    assert [getattr(result, f"b{r}").use_fp16 for r in (4, 8, 16)] == [False, True, True]
    assert result.b16.conv1.conv_clamp == 256


def test_defaults_of_another_host_are_read_off_the_network():
    G = generator(resolution=16, num_fp16_res=1, conv_clamp=128)
    G._init_kwargs["synthesis_kwargs"]["fused_modconv_default"] = "inference_only"
    for name in ("num_fp16_res", "conv_clamp"):
        del G._init_kwargs["synthesis_kwargs"][name]
    result = from_stylegan2.transfer_networks(dict(G=G, G_ema=G, D=None), [[2, 2]])[0]["G_ema"].synthesis
    assert [getattr(result, f"b{r}").use_fp16 for r in (4, 8, 16)] == [False, False, True]
    assert result.b4.conv1.conv_clamp == 128


def test_an_argument_without_meaning_for_an_ssn_is_refused():
    G = generator(resolution=16)
    G._init_kwargs["synthesis_kwargs"]["attention"] = True
    with pytest.raises(ValueError, match="with the arguments attention, which an SSN has not"):
        from_stylegan2.generator_structure(G)


def test_the_encoder_starts_closed_or_as_in_the_paper():
    source = snapshot(generator(resolution=16))
    for init, gate in [("zero", 0), ("random", 1)]:
        networks, _ = from_stylegan2.transfer_networks(source, [[2, 2]], encoder_init=init)
        encoder = networks["G"].synthesis.encoder
        assert all(float(getattr(encoder, f"gate{r}")) == gate for r in encoder.levels)
        images = equal_blocks(networks["G"], source["G"])
        assert torch.allclose(*images, atol=1e-4) == (init == "zero")
    assert from_stylegan2.transfer_networks(source, [[2, 2]], encoder="none")[0]["G"].synthesis.encoder is None


def test_the_encoder_is_the_same_in_both_generators_and_drawn_from_its_seed():
    source = snapshot(generator(resolution=16))
    state = torch.get_rng_state()
    first, second, third = (from_stylegan2.transfer_networks(source, [[2, 2]], seed=s)[0] for s in (0, 0, 1))
    name = "synthesis.encoder.conv4.weight"
    weights = [n[key].state_dict()[name] for n in (first, second, third) for key in ("G", "G_ema")]
    assert all(torch.equal(weights[0], w) for w in weights[1:4]) and not torch.equal(weights[0], weights[4])
    assert torch.equal(torch.get_rng_state(), state)


def test_what_does_not_come_from_the_source_is_listed_by_name():
    networks, notes = from_stylegan2.transfer_networks(snapshot(generator(resolution=16)), [[2, 2]])
    new = {f"{key}.{name}" for key in ("G", "G_ema") for name in networks[key].state_dict() if "encoder" in name}
    assert new and {line.removesuffix(" is new") for line in notes} == new


def test_discriminator_and_everything_else_are_taken_over():
    source = snapshot(generator(resolution=16))
    networks, _ = from_stylegan2.transfer_networks(source, [[2, 2]])
    assert set(networks) == set(source)
    assert all(networks[key] is source[key] for key in ("D", "augment_pipe", "training_set_kwargs"))


def test_tensors_of_another_shape_are_new_and_those_without_a_place_are_named():
    source, target = generator(resolution=16), SSNGenerator(
        8, 0, 8, 8, 1, block_grid=[[2, 2]], mapping_kwargs=dict(num_layers=2),
        synthesis_kwargs=dict(channel_base=64, channel_max=8, encoder="none"),
    )  # fmt: skip
    before = target.synthesis.b8.torgb.weight.clone()
    notes = from_stylegan2.transfer_weights(source, target, "G")
    assert "G.synthesis.b8.torgb.weight is new: it has shape [3, 8, 1, 1] in the source and [1, 8, 1, 1] here" in notes
    assert "G.synthesis.b16.conv0.weight of the source has no place here" in notes
    assert torch.equal(target.synthesis.b8.torgb.weight, before)
    assert torch.equal(target.synthesis.b8.conv1.weight, source.synthesis.b8.conv1.weight)
    assert not any("b8.conv1" in line for line in notes)


def test_a_mean_style_is_repeated_for_every_block_also_between_grids():
    source = generator(resolution=64)
    pair = from_stylegan2.transfer_networks(snapshot(source), [[2, 2]])[0]["G"]
    wide = from_stylegan2.transfer_networks(snapshot(source), [[4, 4]])[0]["G"]
    wide.mapping.w_avg.zero_()
    assert from_stylegan2.transfer_weights(pair, wide, "G") == []
    assert torch.equal(wide.mapping.w_avg, source.mapping.w_avg.repeat(16))


@pytest.mark.parametrize(("change", "message"), [
    (dict(G_ema=discriminator()), "Discriminator is no StyleGAN2 generator"),
    (dict(grid=[3, 3]), "grid 3x3 does not divide the 16x16 image"),
    (dict(encoder_init="ones"), "the encoder's start must be one of zero, random, got 'ones'"),
])
def test_what_cannot_be_transferred_is_refused(change, message):
    networks = snapshot(generator(resolution=16))
    networks.update({key: change.pop(key) for key in list(change) if key == "G_ema"})
    with pytest.raises(ValueError, match=message):
        from_stylegan2.transfer_networks(networks, [change.pop("grid", [2, 2])], **change)


def test_an_ssn_of_one_block_is_a_stylegan2():
    """How a slim StyleGAN2 is trained on the CPU: --cfg=ssn --blocks=1x1."""
    source = snapshot(generator(resolution=16))
    single, notes = from_stylegan2.transfer_networks(source, [[1, 1]])
    assert notes == []
    networks, notes = from_stylegan2.transfer_networks(single, [[2, 2]])
    assert notes and all("encoder" in line for line in notes)
    assert_equal_images(networks["G_ema"], source["G_ema"])


def test_a_run_of_more_blocks_starts_from_one_of_a_single_block(photos, tmp_path):
    single = from_stylegan2.transfer_networks(snapshot(generator(resolution=16)), [[1, 1]])[0]
    path = saved(single, tmp_path)
    _, args = setup_training_loop_kwargs(data=str(photos), cfg="ssn", gpus=0, resume=path)
    assert args.G_kwargs.block_grid == [[1, 1]]
    _, args = setup_training_loop_kwargs(data=str(photos), cfg="ssn", gpus=0, blocks="2x2", resume=path)
    run = run_networks(args)
    resuming.resume_networks(path, run)
    assert_equal_images(run["G_ema"], single["G_ema"])


def test_an_ssn_is_not_transferred_again():
    networks, _ = from_stylegan2.transfer_networks(snapshot(generator(resolution=16)), [[2, 2]])
    with pytest.raises(ValueError, match="is a Spatially Stochastic Network already, with a 2x2 grid"):
        from_stylegan2.transfer_networks(networks, [[4, 4]])


# train.py --cfg=ssn --resume


def run_networks(args: Any, c_dim: int = 0) -> dict[str, Any]:
    """Networks of a run as the training loop builds them."""
    shape: dict[str, Any] = dict(c_dim=c_dim, img_resolution=16, img_channels=3)
    G = dnnlib.util.construct_class_by_name(**args.G_kwargs, **shape).requires_grad_(False)
    D = dnnlib.util.construct_class_by_name(**args.D_kwargs, **shape).requires_grad_(False)
    return dict(G=G, D=D, G_ema=copy.deepcopy(G).eval())


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_a_run_takes_over_any_stylegan2(architecture, photos, tmp_path, capsys):
    """Whatever its widths, depth and architectures, which are not those of the cfg."""
    D = discriminator(architecture, resolution=16, epilogue_kwargs=dict(mbstd_num_channels=2, mbstd_group_size=2))
    source = snapshot(generator(architecture, resolution=16), D)
    path = saved(source, tmp_path)
    desc, args = setup_training_loop_kwargs(data=str(photos), cfg="ssn", blocks="2x4", gpus=0, resume=path)
    assert desc == "photos-ssn-blocks2x4-lambda100-resumecustom"
    assert args.G_kwargs.synthesis_kwargs.encoder_gate == 0
    run = run_networks(args)
    resuming.resume_networks(path, run)
    assert_equal_images(run["G_ema"], source["G_ema"])
    for name, value in source["D"].state_dict().items():
        assert torch.equal(run["D"].state_dict()[name], value), name
    printed = capsys.readouterr().out
    assert printed.startswith(f"Transferred from {path}; ")
    assert "G_ema.synthesis.encoder.gate4 is new" in printed and " D." not in printed


def test_precision_groups_and_frozen_layers_are_those_of_the_run(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "training_device", lambda prefer_cpu: "cuda")
    path = saved(snapshot(generator(resolution=16)), tmp_path)
    _, args = setup_training_loop_kwargs(data=str(photos), cfg="ssn", resume=path, freezed=1)
    assert args.G_kwargs.synthesis_kwargs.num_fp16_res == args.D_kwargs.num_fp16_res == 4
    assert args.D_kwargs.epilogue_kwargs.mbstd_group_size == 4
    assert args.D_kwargs.block_kwargs.freeze_layers == 1
    run = run_networks(args)
    assert config.take_over(snapshot(generator(resolution=16)), run) is not None


def test_a_run_goes_on_from_an_ssn_with_its_grid_and_its_encoder(photos, tmp_path, capsys):
    networks, _ = from_stylegan2.transfer_networks(snapshot(generator(resolution=16)), [[2, 4]], style_resolution=8)
    with torch.no_grad():
        networks["G_ema"].synthesis.encoder.gate4.fill_(0.3)
    path = saved(networks, tmp_path)
    desc, args = setup_training_loop_kwargs(data=str(photos), cfg="ssn", gpus=0, resume=path)
    assert "-ssn-blocks2x4-" in desc and "encoder_gate" not in args.G_kwargs.synthesis_kwargs
    run = run_networks(args)
    resuming.resume_networks(path, run)
    assert capsys.readouterr().out == ""
    for name, value in networks["G_ema"].state_dict().items():
        assert torch.equal(run["G_ema"].state_dict()[name], value), name


def test_a_run_takes_over_an_ssn_with_another_grid(photos, tmp_path):
    networks, _ = from_stylegan2.transfer_networks(snapshot(generator(resolution=16)), [[2, 2]])
    path = saved(networks, tmp_path)
    _, args = setup_training_loop_kwargs(data=str(photos), cfg="ssn", blocks="4x4", gpus=0, resume=path)
    run = run_networks(args)
    resuming.resume_networks(path, run)
    assert torch.equal(run["G"].mapping.w_avg, networks["G"].mapping.w_avg[:8].repeat(16))


@pytest.mark.parametrize(("options", "expected"), [
    (dict(), None), (dict(encoder_init="zero"), 0.0), (dict(encoder_init="random"), 1.0),
])
def test_the_start_of_the_encoder_is_in_the_tree_only_when_given(options, expected, photos):
    desc, args = setup_training_loop_kwargs(data=str(photos), cfg="ssn", gpus=0, **options)
    assert args.G_kwargs.synthesis_kwargs.get("encoder_gate") == expected
    assert desc.endswith("-initrandom") == (expected == 1)


def test_contradictions_with_the_network_are_refused(photos, tmp_path):
    plain = saved(snapshot(generator(resolution=16)), tmp_path)
    ssn = saved(from_stylegan2.transfer_networks(snapshot(generator(resolution=16)), [[2, 2]])[0], tmp_path, "ssn.pkl")
    for options, message in [
        (dict(resume=plain, block_dim=64), "--block-dim must be that of --resume, z 8 and w 8, got 64"),
        (dict(resume=ssn, encoder_init="zero"), "--encoder-init cannot be given with a --resume that holds a trained"),
        (dict(resume=plain, encoder="none", encoder_init="zero"), "--encoder-init has no effect with --encoder=none"),
        (dict(resume="lost.pkl"), "network lost.pkl is not an existing file"),
        (dict(trust_pickle=True), "--trust-pickle needs a network given with --resume, got noresume"),
    ]:
        with pytest.raises(UserError, match=message):
            setup_training_loop_kwargs(data=str(photos), cfg="ssn", gpus=0, **options)


def test_trust_is_in_the_tree_only_when_given(photos, tmp_path):
    path = saved(snapshot(generator(resolution=16)), tmp_path)
    for trust in (None, False, True):
        _, args = setup_training_loop_kwargs(data=str(photos), gpus=0, resume=path, trust_pickle=trust)
        assert args.get("trust_pickle") == (True if trust else None)
