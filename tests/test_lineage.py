"""training.lineage: growing, the layers and losses of StyleGAN2's ancestors, and their cfgs."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from metric_fixtures import write_images

from training import network_files, plugins
from training.config import UserError, setup_training_loop_kwargs
from training.lineage import growing, losses, networks
from training.training_loop import training_loop

SMALL = dict(channel_base=64, channel_max=8)
plugins.import_cfgs()


def progan(resolution=16, **kwargs):
    return networks.ProGANGenerator(8, 0, 8, resolution, 3, synthesis_kwargs={**SMALL, **kwargs}).eval()


def stylegan(layer="adain", resolution=16):
    kwargs = dict(mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(SMALL, layer=layer))
    return networks.StyleGANGenerator(8, 0, 8, resolution, 3, **kwargs).eval()


def discriminator(resolution=16):
    return networks.GrowingDiscriminator(0, resolution, 3, **SMALL).eval()


def draw(G, stage, seed=0):
    G.synthesis.stage.fill_(stage)
    z = torch.randn([2, G.z_dim], generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return G(z, torch.zeros([2, 0]), noise_mode="const")


# The schedule.


def test_every_level_is_held_and_then_the_next_fades_in():
    stage = functools.partial(growing.stage_at, last=2, fade_nimg=100, hold_nimg=50)
    assert [stage(n) for n in (0, 50, 75, 150, 199, 250, 300, 10**6)] == [0, 0, 0.25, 1, 1, 1.5, 2, 2]
    assert stage(75, first=1) == 1.25


@pytest.mark.parametrize("first", [0, 1])
def test_the_schedule_can_be_taken_up_anywhere(first):
    for nimg in range(0, 700, 7):
        stage = growing.stage_at(nimg, 5, 100, 50, first)
        again = growing.nimg_at(stage, 100, 50, first)
        assert again <= nimg and growing.stage_at(again, 5, 100, 50, first) == pytest.approx(stage, abs=0.01)


@pytest.mark.parametrize(("stage", "index", "share"), [(0, 0, 1), (0.25, 1, 0.25), (1, 1, 1), (1.5, 2, 0.5)])
def test_a_stage_is_a_level_and_its_share(stage, index, share):
    assert growing.split_stage(stage) == (index, share)


def test_real_images_are_as_coarse_as_generated_ones():
    img = torch.randn([2, 3, 16, 16])
    sizes = [[4, 4], [8, 8], [16, 16]]
    half = growing.enlarge(growing.reduce(img, [8, 8]), [16, 16])
    torch.testing.assert_close(growing.fade_reals(img, 2, sizes), img)
    torch.testing.assert_close(growing.fade_reals(img, 1, sizes), half)
    torch.testing.assert_close(growing.fade_reals(img, 1.25, sizes), half.lerp(img, 0.25))


# Networks.


@pytest.mark.parametrize("make", [progan, stylegan, functools.partial(stylegan, "demod")])
def test_an_image_does_not_change_at_a_switch_and_fades_in_between(make):
    G = make()
    small, large = draw(G, 1), draw(G, 2)
    torch.testing.assert_close(draw(G, 1 + 1e-6), small, rtol=0, atol=1e-4)
    torch.testing.assert_close(draw(G, 2 - 1e-6), large, rtol=0, atol=1e-4)
    torch.testing.assert_close(draw(G, 1.25), small.lerp(large, 0.25))
    assert torch.equal(small, growing.enlarge(growing.reduce(small, [8, 8]), [16, 16])), "8x8 pixels, repeated"


def test_a_discriminator_sees_as_much_as_its_stage_says():
    D = discriminator()
    img = torch.randn([4, 3, 16, 16])
    coarse = growing.enlarge(growing.reduce(img, [8, 8]), [16, 16])

    def judge(x, stage):
        D.stage.fill_(stage)
        with torch.no_grad():
            return D(x, torch.zeros([4, 0]))

    torch.testing.assert_close(judge(img, 1), judge(coarse, 1))
    assert (judge(img, 2) - judge(coarse, 2)).abs().max() > 1e-4
    torch.testing.assert_close(judge(img, 1 + 1e-6), judge(img, 1), rtol=0, atol=1e-4)


def test_adain_gives_every_feature_map_the_moments_of_the_style():
    x = torch.randn([2, 3, 8, 8]) * 5 + 7
    scale, shift = torch.rand([2, 3, 1, 1]) + 0.5, torch.randn([2, 3, 1, 1])
    y = networks.instance_norm(x, scale, shift)
    torch.testing.assert_close(y.mean(dim=[2, 3]), shift[:, :, 0, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(y.std(dim=[2, 3], unbiased=False), scale[:, :, 0, 0])


def test_pixels_of_progressive_gan_have_unit_length():
    block = networks.ProGANBlock(4, 6, 8, is_first=False)
    y = block(torch.randn([2, 4, 4, 4]))
    torch.testing.assert_close(y.square().mean(dim=1), torch.ones([2, 8, 8]))


def test_msg_discriminators_see_exactly_the_rgb_outputs_of_the_generator():
    G, D = progan(), networks.MSGDiscriminator(0, 16, 3, **SMALL)
    seen = []
    for level in (4, 8):  # what joins the activations there
        conv = getattr(D, f"conv{level}_0")
        conv.register_forward_pre_hook(lambda module, args: seen.append(args[0][:, 8 : 8 + 3]))
    levels = G.synthesis(G.mapping(torch.randn([2, 8]), torch.zeros([2, 0])), all_levels=True)
    D(levels, torch.zeros([2, 0]))
    assert [list(x.shape[2:]) for x in levels] == [[4, 4], [8, 8], [16, 16]]
    assert torch.equal(seen[0], levels[1]) and torch.equal(seen[1], levels[0])


def test_an_image_alone_is_averaged_down_to_all_levels():
    D = networks.MSGDiscriminator(0, 16, 3, **SMALL)
    img = torch.randn([4, 3, 16, 16])
    c = torch.zeros([4, 0])
    torch.testing.assert_close(D(img, c), D([growing.reduce(img, [s, s]) for s in (4, 8, 16)], c))


@pytest.mark.parametrize(("make", "millions"), [
    (lambda: networks.ProGANGenerator(512, 0, 512, 1024, 3), 23.1),
    (lambda: networks.GrowingDiscriminator(0, 1024, 3, channel_base=16384), 23.1),
    (lambda: networks.StyleGANGenerator(512, 0, 512, 1024, 3), 26.2),
])
def test_networks_of_1024_pixels_have_as_many_parameters_as_published(make, millions):
    count = sum(parameter.numel() for parameter in make().parameters())
    assert round(count / 1e6, 1) == millions


def test_labels_are_taken_in():
    G = networks.ProGANGenerator(8, 3, 8, 8, 3, synthesis_kwargs=SMALL).eval()
    z, c = torch.randn([1, 8]).repeat(2, 1), torch.eye(3)[:2]
    a, b = G(z, c)
    assert G.w_dim == 16 and not torch.allclose(a, b)


# Losses.


def make_loss(cls, G, D, **kwargs):
    return cls(torch.device("cpu"), G.mapping, G.synthesis, D, **kwargs)


def test_the_gradient_penalty_of_a_linear_critic_is_that_of_its_weights():
    weight = torch.randn([3, 4, 4])
    img = torch.randn([2, 3, 4, 4], requires_grad=True)
    logits = (img * weight).sum(dim=[1, 2, 3])[:, None]
    penalty = losses.gradient_penalty([img], logits)
    torch.testing.assert_close(penalty, ((weight.norm() - 1) ** 2).expand(2))


def test_the_penalty_of_a_pyramid_takes_the_norm_over_its_levels():
    levels = [torch.randn([2, 3, side, side], requires_grad=True) for side in (4, 8)]
    logits = sum(level.sum(dim=[1, 2, 3]) for level in levels)[:, None]
    torch.testing.assert_close(losses.gradient_penalty(levels, logits), torch.full([2], ((3 * 80) ** 0.5 - 1) ** 2))


def test_stages_follow_the_real_images_whatever_the_parts_of_a_step():
    stages = []
    for part in (4, 2):
        G, D = progan().train(), discriminator().train()
        loss = make_loss(losses.WGANGPLoss, G, D, fade_kimg=0.008, hold_kimg=0.004)
        for _ in range(3):
            for start in range(0, 4, part):
                real = torch.zeros([part, 3, 16, 16])
                loss.accumulate_gradients("Dboth", real, real[:, :0, 0, 0], torch.randn([part, 8]),
                                          real[:, :0, 0, 0], sync=start + part == 4, gain=1)
        stages.append((loss.nimg, float(G.synthesis.stage), float(D.stage)))
    assert stages == [(12, 1.0, 1.0)] * 2


def test_a_resumed_network_goes_on_growing_where_it_was():
    G, D = progan(), discriminator()
    G.synthesis.stage.fill_(1.5)
    loss = make_loss(losses.GrowingLoss, G, D, fade_kimg=0.1, hold_kimg=0.1)
    assert loss.nimg == 350 and float(D.stage) == 1.5


# Runs.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_images(tmp_path_factory.mktemp("data") / "d.zip", 16))


def arguments(data, cfg, **options):
    _, args = setup_training_loop_kwargs(data=data, cfg=cfg, gpus=0, metrics=[], batch=4, aug="noaug", **options)
    return args


@pytest.mark.parametrize("cfg", ["progan", "stylegan", "stylegan2-d", "msggan"])
def test_a_cfg_trains_snapshots_and_generates(data, cfg, tmp_path):
    growth = {} if cfg == "msggan" else dict(grow_kimg=0.008)
    args = arguments(data, cfg, grow_channels=4, grow_channels_max=8, **growth)
    args.G_kwargs.update(z_dim=8, w_dim=8)
    args.update(run_dir=str(tmp_path), total_kimg=0.024, kimg_per_tick=1, preview_size=[2, 2])
    training_loop(**args)
    (path,) = tmp_path.glob("*.pkl")
    G = network_files.load_networks(str(path))["G_ema"]
    img = G(torch.randn([1, 8]), torch.zeros([1, 0]), truncation_psi=0.7)
    assert img.shape == (1, 3, 16, 16) and bool(img.isfinite().all())
    first = 1 if cfg.startswith("stylegan") else 0
    expected = 2 if cfg == "msggan" else growing.stage_at(24, 2, 8, 8, first)
    assert float(G.synthesis.stage) == expected


def test_growing_carries_on_bit_by_bit(data, tmp_path):
    def run(folder, kimg, **kwargs):
        args = arguments(data, "progan", grow_kimg=0.008, grow_channels=4)
        args.G_kwargs.update(z_dim=8, w_dim=8)
        folder.mkdir(exist_ok=True)
        args.update(run_dir=str(folder), total_kimg=kimg, kimg_per_tick=1, preview_size=[2, 2], **kwargs)
        training_loop(**args)
        newest = max(folder.glob("*.pkl"), key=lambda path: path.stat().st_mtime_ns)
        return network_files.load_networks(str(newest))["G_ema"].state_dict()

    whole = run(tmp_path / "whole", 0.02)
    run(tmp_path / "parts", 0.012)
    parts = run(tmp_path / "parts", 0.02, resume_run=True)
    assert all(torch.equal(parts[name], value) for name, value in whole.items())


def test_config_f_is_stylegan2(data):
    tree = arguments(data, "stylegan2-f")
    assert tree.pop("preview_size") == [16, 8], "small where the processor draws it"
    assert tree == arguments(data, "stylegan2")
    half = arguments(data, "stylegan2-e")
    assert half.G_kwargs.synthesis_kwargs.channel_base == 16384
    assert half.G_kwargs.class_name == "training.networks.Generator"


def test_configs_e_and_f_can_be_narrower(data):
    tree = arguments(data, "stylegan2-e", grow_channels=8, grow_channels_max=24)
    assert tree.G_kwargs.synthesis_kwargs.channel_base == tree.D_kwargs.channel_base == 8 * 16
    assert tree.G_kwargs.synthesis_kwargs.channel_max == tree.D_kwargs.channel_max == 24


def test_the_ladder_adds_one_thing_at_a_time(data):
    trees = [arguments(data, cfg) for cfg in ("stylegan", "stylegan2-b", "stylegan2-c", "stylegan2-d")]
    assert [tree.G_kwargs.synthesis_kwargs.layer for tree in trees] == ["adain", "demod", "demod", "demod"]
    assert [tree.get("D_reg_interval", 16) for tree in trees] == [None, None, 16, 16]
    assert [tree.loss_kwargs.pl_weight for tree in trees] == [0, 0, 0, 2]


@pytest.mark.parametrize(("cfg", "options", "message"), [
    ("progan", dict(grow_kimg=-1), "--grow-kimg must be at least 0, got -1"),
    ("msggan", dict(grow_kimg=5), "--grow-kimg has no effect with --cfg=msggan"),
    ("stylegan2-e", dict(grow_kimg=8), "--grow-kimg has no effect with --cfg=stylegan2-e and -f"),
    ("auto", dict(grow_kimg=5), "--grow-kimg can only be given with --cfg=progan"),
])
def test_bad_options_get_one_line(data, cfg, options, message):
    with pytest.raises(UserError, match=message):
        arguments(data, cfg, **options)


def test_pyramids_are_not_augmented():
    with pytest.raises(ValueError, match="use --aug=noaug"):
        make_loss(losses.MSGLoss, progan(), networks.MSGDiscriminator(0, 16, 3), augment_pipe=torch.nn.Identity())


def test_random_numbers_of_the_penalty_lie_between_the_images():
    torch.manual_seed(0)
    G, D = progan(), discriminator()
    loss = make_loss(losses.WGANGPLoss, G, D)
    seen = []
    loss.judge = lambda levels, c, sync: seen.append(levels[0]) or levels[0].sum(dim=[1, 2, 3])[:, None]
    loss.penalty([torch.zeros([8, 3, 16, 16])], torch.zeros([8, 0]), [torch.ones([8, 3, 16, 16])], sync=True)
    shares = seen[0][:, 0, 0, 0].detach().numpy()
    assert (shares > 0).all() and (shares < 1).all() and np.ptp(shares) > 0.1
