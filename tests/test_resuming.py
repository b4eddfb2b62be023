"""training.run.resuming: what a run takes from the networks of a file, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_run import loop_kwargs, write_zip

from dnnlib import EasyDict
from dnnlib.util import UserError
from training import launch
from training.network_files import save_network_snapshot
from training.networks import Discriminator, Generator
from training.run.resuming import resume_networks


def networks(seed=0, c_dim=0, resolution=8, num_layers=2, mapping=None, **synthesis):
    """G, D and G_ema of a run, of a few channels."""
    torch.manual_seed(seed)
    mapping_kwargs = dict(num_layers=num_layers, **(mapping or {}))
    G = Generator(4, c_dim, 8, resolution, 3, mapping_kwargs=mapping_kwargs,
                  synthesis_kwargs=dict(channel_max=8, **synthesis))
    D = Discriminator(c_dim, resolution, 3, channel_max=8, mapping_kwargs=dict(num_layers=1))
    return {"G": G, "D": D, "G_ema": copy.deepcopy(G)}


def saved(tmp_path, **options):
    """Networks in a file. Returns its path and the networks."""
    path, kept = str(tmp_path / "old.pkl"), networks(1, **options)
    save_network_snapshot(dict(kept, training_set_kwargs=None, augment_pipe=None), path)
    return path, kept


def state(network):
    return network.state_dict()


def test_each_network_is_copied_from_its_namesake(tmp_path):
    path, kept = saved(tmp_path)
    run = networks()
    resume_networks(path, run)
    for key, network in run.items():
        assert state(network).keys() == state(kept[key]).keys()
        assert all(torch.equal(value, state(kept[key])[name]) for name, value in state(network).items())


@pytest.mark.parametrize(("options", "message"), [
    (dict(num_layers=8), "only the file has G.mapping.fc2.bias and 23 more differences; its mapping network has 8 "
                         "layers, as with --cfg=stylegan2|paper256|paper512|paper1024, not 2"),
    (dict(resolution=16), "; --data must hold images of 16x16 and 3 channels, it has 8x8 and 3"),
    (dict(mapping=dict(activation="relu")), "G.mapping.fc0 has activation relu in the file and lrelu here"),
    (dict(mapping=dict(lr_multiplier=1)), "G.mapping.fc0 has learning rate 1 in the file and 0.01 here"),
    (dict(mapping=dict(layer_features=6)), "G.mapping.fc0.bias has shape [6] in the file and [8] here"),
    (dict(resample_filter=[1, 1]), "has shape [2, 2] in the file and [4, 4] here"),
])
def test_a_network_that_fits_in_part_is_refused_unless_that_is_asked_for(tmp_path, options, message):
    path, kept = saved(tmp_path, **options)
    run = networks()
    before = {key: copy.deepcopy(state(network)) for key, network in run.items()}
    with pytest.raises(UserError) as caught:
        resume_networks(path, run)
    text = str(caught.value)
    assert text.startswith("old.pkl does not fit this run: ") and text.endswith("; --resume-partial takes what fits")
    assert message in text and "\n" not in text
    assert all(torch.equal(value, before[key][name]) for key in run for name, value in state(run[key]).items())

    said: list[str] = []
    resume_networks(path, run, partial=True, say=said.append)
    assert said[0].startswith(f"Took from {path} what fits; ")
    assert torch.equal(state(run["D"])["b8.conv0.weight"], state(kept["D"])["b8.conv0.weight"])


def test_what_a_file_lacks_keeps_its_values(tmp_path):
    path, _ = saved(tmp_path)
    run = networks()
    run["G"].mapping.extra = torch.nn.Parameter(torch.ones([2]))
    with pytest.raises(UserError, match="does not fit this run: the file lacks G.mapping.extra; --resume-partial"):
        resume_networks(path, run)
    resume_networks(path, run, partial=True, say=lambda line: None)
    assert run["G"].mapping.extra.tolist() == [1, 1]


@pytest.mark.parametrize(("there", "here"), [(0, 3), (3, 0), (3, 5)])
def test_between_other_labels_everything_is_kept_but_the_parts_that_see_them(tmp_path, there, here):
    path, kept = saved(tmp_path, c_dim=there)
    run, said = networks(c_dim=here), []
    fresh = {key: copy.deepcopy(state(network)) for key, network in run.items()}
    resume_networks(path, run, say=said.append)
    assert said[0] == "The labels are others, so these parts start anew:"
    named = {line.strip() for line in said[1:]}
    assert {name for name in named if name.startswith("D.mapping")} == (
        {f"D.mapping.{name}" for name in ["embed.weight", "embed.bias", "fc0.weight", "fc0.bias"]}
        if there == 0 else {"D.mapping.embed.weight"} if here > 0 else set())
    for key, network in run.items():
        for name, value in state(network).items():
            if f"{key}.{name}" not in named:
                assert torch.equal(value, state(kept[key])[name]), name
            elif name != "mapping.fc0.weight" or key == "D":
                assert torch.equal(value, fresh[key][name]), name


def test_the_latent_acts_as_before_where_labels_go(tmp_path):
    path, kept = saved(tmp_path, c_dim=3)
    run = networks()
    resume_networks(path, run, say=lambda line: None)
    layer, former = run["G"].mapping.fc0, kept["G"].mapping.fc0
    torch.testing.assert_close(layer.weight * layer.weight_gain, former.weight[:, :4] * former.weight_gain)


def test_a_run_that_cannot_start_from_its_file_leaves_no_folder(tmp_path):
    path, _ = saved(tmp_path, num_layers=3)
    write_zip(tmp_path / "data.zip")
    args = EasyDict(loop_kwargs(tmp_path / "unused", tmp_path / "data.zip"), metrics=[], resume_pkl=path)
    with pytest.raises(UserError, match="old.pkl does not fit this run"):
        launch.new_run("name", args, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="none.pkl is not an existing file"):
        resume_networks(str(tmp_path / "none.pkl"), networks())
