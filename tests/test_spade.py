"""ssn_plugin.spade: the layer, and the cfg `spade`."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from metric_fixtures import write_images
from network_file_helpers import discriminator, generator, snapshot

import generate
from metrics import metric_main
from ssn_plugin.networks import SSNGenerator
from ssn_plugin.spade import AdaINLayer, SpadeGenerator, SpadeLayer, StyledInstanceNorm
from training import network_files, plugins
from training.config import UserError, setup_training_loop_kwargs
from training.formats import network_export
from training.lineage.networks import instance_norm
from training.training_loop import training_loop

plugins.import_plugins()


def test_with_a_constant_map_it_is_adain_over_the_statistics_of_each_image():
    x, scale, shift = torch.randn([2, 5, 8, 8]) * 3 + 1, torch.rand([2, 5, 1, 1]), torch.randn([2, 5, 1, 1])
    maps = [value.expand(2, 5, 4, 4) for value in (scale, shift)]
    torch.testing.assert_close(StyledInstanceNorm()(x, *maps), instance_norm(x, scale, shift))


@pytest.mark.parametrize("up", [1, 2])
def test_a_layer_with_a_constant_map_is_adain_but_at_the_border_where_its_convolutions_see_zeros(up):
    layer = SpadeLayer(6, 5, 4, 16, up=up).requires_grad_(False)
    x, style = torch.randn([2, 6, 16 // up, 16 // up]), torch.randn([2, 4, 1, 1])
    adain = AdaINLayer(6, 5, 4, 16, up=up).requires_grad_(False)
    adain.load_state_dict({**layer.state_dict(), **adain.affine.state_dict(prefix="affine.")}, strict=False)
    middle = layer.scale_and_shift(style.expand(2, 4, 16, 16))[:, :, 8:9, 8:9]
    adain.scale_and_shift = lambda _encoded: middle
    spade, expected = (L(x, style.expand(2, 4, 16, 16), noise_mode="const") for L in (layer, adain))
    torch.testing.assert_close(spade[:, :, 2:-2, 2:-2], expected[:, :, 2:-2, 2:-2])


def test_only_the_styled_convolutions_differ_from_an_ssn():
    size = dict(block_z_dim=4, c_dim=0, block_w_dim=4, img_resolution=16, img_channels=3,
                synthesis_kwargs=dict(channel_base=64, channel_max=8))
    ssn, spade = SSNGenerator(**size), SpadeGenerator(**size)
    layers = [layer for layer in spade.modules() if hasattr(layer, "noise_strength")]
    assert len(layers) == 5 and all(isinstance(layer, SpadeLayer) for layer in layers)
    own = {name for name in spade.state_dict() if ".conv" in name and ".affine." in name and "encoder" not in name}
    shapes = [{name: value.shape for name, value in G.state_dict().items() if name not in own and not (
        ".conv" in name and ".affine." in name)} for G in (ssn, spade)]
    assert shapes[0] == shapes[1] and own


def arguments(data, **options):
    return setup_training_loop_kwargs(
        data=data, cfg="spade", gpus=0, metrics=[], batch=4, aug="noaug", blocks="2x2", block_dim=4, channels=2,
        **options)[1]


def test_the_cfg_trains_resumes_bit_by_bit_generates_redraws_and_is_scored(tmp_path):
    data = str(write_images(tmp_path / "d.zip", 16))

    def run(folder, kimg, **kwargs):
        folder.mkdir(exist_ok=True)
        training_loop(**dict(arguments(data), run_dir=str(folder), total_kimg=kimg, kimg_per_tick=1,
                             preview_size=[2, 2], **kwargs))
        return max(folder.glob("*.pkl"), key=lambda path: path.stat().st_mtime_ns)

    whole = network_files.load_networks(str(run(tmp_path / "whole", 0.016)))["G_ema"]
    run(tmp_path / "parts", 0.008)
    path = run(tmp_path / "parts", 0.016, resume_run=True)
    G = network_files.load_networks(str(path))["G_ema"]
    assert type(G).__name__ == "SpadeGenerator"
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in G.state_dict().items())
    line = [f"--network={path}", "--seeds=1", "--resample-block=0,1", "--variants=1", f"--outdir={tmp_path / 'out'}"]
    result = CliRunner().invoke(generate.main, line)
    assert result.exit_code == 0 and (tmp_path / "out" / "seed0001-v01.png").exists(), result.output
    scores = metric_main.calc_metric("ssn_distortion4", G=G, device=torch.device("cpu")).results
    assert scores["ssn_distortion4"] > 0
    again = setup_training_loop_kwargs(data=data, cfg="spade", gpus=0, metrics=[], resume=str(path))[1]
    assert again.G_kwargs.class_name == "ssn_plugin.spade.SpadeGenerator"


def test_it_starts_from_no_other_network(tmp_path):
    data, path = str(write_images(tmp_path / "d.zip", 4)), tmp_path / "source.pkl"
    network_export.save_networks(snapshot(generator(resolution=16), discriminator(resolution=16)), path)
    with pytest.raises(UserError, match="--resume must name a network of --cfg=spade .*, got a Generator"):
        arguments(data, resume=str(path))


def test_it_computes_in_full_precision(tmp_path):
    args = arguments(str(write_images(tmp_path / "d.zip", 4)))
    assert args.G_kwargs.synthesis_kwargs.num_fp16_res == 0
