"""training.config and training.plugins: from options to the arguments of the training loop."""

import dataclasses
import json
import re
import sys

import click
import numpy as np
import PIL.Image
import pytest

import dnnlib
import train
from training import config, launch, plugins
from training.config import CfgExtension, TrainOptions, UserError, auto_spec, setup_training_loop_kwargs
from training.run import cfgs
from training.run.option_table import options_of


def write_images(folder, count=6, size=(16, 16), labels=False):
    folder.mkdir()
    rng = np.random.RandomState(0)
    names = [f"img{i}.png" for i in range(count)]
    for name in names:
        PIL.Image.fromarray(rng.randint(256, size=(size[1], size[0], 3), dtype=np.uint8)).save(folder / name)
    if labels:
        (folder / "dataset.json").write_text(json.dumps({"labels": [[name, i % 2] for i, name in enumerate(names)]}))
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six images of 16x16 pixels without labels, named `photos`."""
    return write_images(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "labelled", labels=True)


def refusal(**options) -> str:
    with pytest.raises(UserError) as caught:
        setup_training_loop_kwargs(**options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("options", "message"), [
    (dict(gpus=3), "--gpus must be a power of two, or 0 for the CPU, got 3"),
    (dict(gpus=-1), "--gpus must be a power of two, or 0 for the CPU, got -1"),
    (dict(snap=0), "--snap must be at least 1, got 0"),
    (dict(seed=-1), "--seed must be between 0 and 4294967295, got -1"),
    (dict(seed=2**31, gpus=2), "--seed must be between 0 and 2147483647, got 2147483648"),
    (dict(tick=0.0), "--tick must be more than 0, got 0.0"),
    (dict(ema_kimg=-1.0), "--ema-kimg must be at least 0, got -1.0"),
    (dict(gamma=-1.0), "--gamma must be at least 0, got -1.0"),
    (dict(gamma=float("nan")), "--gamma must be at least 0, got nan"),
    (dict(kimg=0), "--kimg must be at least 1, got 0"),
    (dict(batch=3, gpus=2), "--batch must be a multiple of --gpus=2, got 3"),
    (dict(subset=0), "--subset must be at least 1, got 0"),
    (dict(workers=0), "--workers must be at least 1, got 0"),
    (dict(freezed=-1), "--freezed must be at least 0, got -1"),
    (dict(cfg="huge"), "--cfg must be one of auto, stylegan2, paper256, paper512, paper1024, cifar, ssn, "
                      "ssn-plus, ssn-baseline, spade, progan, msggan, stylegan, stylegan2-b, stylegan2-c, "
                      "stylegan2-d, stylegan2-e, stylegan2-f, got huge"),
    (dict(aug="some"), "--aug must be one of noaug, ada, fixed, got some"),
    (dict(aug="fixed"), "--p is required with --aug=fixed, got none"),
    (dict(aug="fixed", p=1.5), "--p must be between 0 and 1, got 1.5"),
    (dict(p=0.5), "--p can only be given with --aug=fixed, got --aug=ada"),
    (dict(target=1.2), "--target must be between 0 and 1, got 1.2"),
    (dict(aug="noaug", target=0.5), "--target can only be given with --aug=ada, got --aug=noaug"),
    (dict(aug="noaug", augpipe="bgc"), "--augpipe cannot be given with --aug=noaug, got bgc"),
    (dict(augpipe="all"), "--augpipe must be one of blit, geom, color, filter, noise, cutout, bg, bgc, bgcf, bgcfn, "
                          "bgcfnc, got all"),
])
def test_a_refusal_names_option_rule_and_value_before_the_data_set_is_opened(options, message):
    assert refusal(data="no/such/folder", **options) == message


def test_an_unknown_metric_is_refused_with_the_known_ones(data):
    assert refusal(data=data, metrics=["fid50k_full", "nope"]).endswith("got nope")


def test_missing_data_is_refused():
    assert refusal() == "--data is required: a folder or zip of images"
    assert refusal(data="no/such.zip").startswith("--data: ")


def test_images_of_impossible_sizes_are_refused(tmp_path):
    odd, uneven = write_images(tmp_path / "odd", size=(12, 12)), write_images(tmp_path / "uneven", size=(30, 16))
    rule = "the side of square images must be a power of two"
    assert refusal(data=odd) == f"--data: {odd}: {rule}, got 12x12; 16x16 is near and possible"
    assert refusal(data=uneven).endswith("got 30x16; 32x16 is near and possible")
    for size in [(4, 4), (8, 4)]:
        tiny = write_images(tmp_path / f"tiny{size[0]}", size=size)
        rule = "--data must hold images of at least 8 pixels along each side"
        assert refusal(data=tiny) == f"{rule}, got {size[0]}x{size[1]}"


def test_filters_of_small_images_are_refused(tmp_path):
    small = write_images(tmp_path / "small", size=(16, 16))
    assert refusal(data=small, augpipe="bgcf") == "--augpipe filters images of more than 21 pixels only, got bgcf"


def test_a_subset_beyond_the_data_set_is_refused(data):
    assert refusal(data=data, subset=7) == f"--subset must be at most the 6 images of {data}, got 7"


def test_cond_without_labels_is_refused(data):
    assert refusal(data=data, cond=True) == f"--cond needs labels in dataset.json, got none in {data}"


def test_a_batch_that_the_minibatch_deviation_cannot_split_is_refused(data):
    assert refusal(data=data, batch=6) == (
        "--batch must give every GPU at most 4 images or a multiple of 4 (minibatch standard deviation), got 6 per GPU"
    )
    setup_training_loop_kwargs(data=data, batch=3)


def test_an_option_unknown_to_train_py_is_a_programming_error(data):
    with pytest.raises(TypeError):
        setup_training_loop_kwargs(data=data, bacth=3)


@pytest.mark.parametrize(("resolution", "gpus", "batch", "mbstd", "fmaps", "lr", "gamma", "ema_kimg"), [
    (32, 1, 32, 4, 0.5, 0.0025, 0.0064, 10),
    (32, 8, 64, 4, 0.5, 0.0025, 0.0032, 20),
    (256, 1, 16, 4, 0.5, 0.0025, 0.8192, 5),
    (512, 1, 8, 4, 1, 0.0025, 6.5536, 2.5),
    (1024, 1, 4, 4, 1, 0.002, 52.4288, 1.25),
    (1024, 64, 64, 1, 1, 0.002, 3.2768, 20),
])
def test_auto_follows_resolution_and_gpus(resolution, gpus, batch, mbstd, fmaps, lr, gamma, ema_kimg):
    spec = auto_spec(resolution, gpus)
    assert (spec.batch, spec.mbstd, spec.fmaps, spec.lr) == (batch, mbstd, fmaps, lr)
    assert spec.gamma == pytest.approx(gamma)
    assert spec.ema_kimg == pytest.approx(ema_kimg)
    assert spec.ref_gpus == gpus


@pytest.mark.parametrize("cfg", ["auto", *config.CFG_TABLE, "ssn"])
def test_every_cfg_gives_a_tree_that_can_be_saved_as_json(data, cfg):
    desc, args = setup_training_loop_kwargs(data=data, cfg=cfg)
    assert desc.startswith("photos-" + cfg)
    assert json.loads(json.dumps(args)) == args


def test_the_name_of_a_run_lists_the_given_options_in_a_fixed_order(labelled):
    options = dict(
        freezed=2, resume="ffhq256", augpipe="blit", p=0.25, aug="fixed", batch=8, kimg=5, gamma=0.5, mirror=True,
        subset=4, cond=True, gpus=2, snap=3, metrics=[], seed=1, fp32=True, nhwc=True, nobench=True, allow_tf32=True,
        workers=2, tick=1.0,
    )
    desc, _args = setup_training_loop_kwargs(data=labelled, **options)
    assert desc == (
        "labelled-cond-subset4-mirror-auto2-gamma0.5-kimg5-batch8-fixed-p0.25-blit-resumeffhq256-freezed2"
    )


def test_options_overrule_the_cfg(data):
    _desc, args = setup_training_loop_kwargs(data=data, cfg="paper256", gamma=3.0, kimg=7, batch=16, gpus=4)
    assert (args.loss_kwargs.r1_gamma, args.total_kimg, args.batch_size, args.batch_gpu) == (3.0, 7, 16, 4)


def test_fewer_gpus_than_the_cfg_was_made_for_accumulate_over_rounds(data):
    _desc, args = setup_training_loop_kwargs(data=data, cfg="stylegan2")
    assert (args.batch_size, args.batch_gpu, args.num_gpus) == (32, 4, 1)


def test_the_cpu_counts_as_one_process_and_is_named_only_when_asked_for(data):
    desc, args = setup_training_loop_kwargs(data=data, gpus=0)
    assert (desc, args.num_gpus, args.device) == ("photos-auto1", 1, "cpu")
    assert "device" not in setup_training_loop_kwargs(data=data)[1]


def test_a_tick_length_appears_only_when_given(data):
    assert setup_training_loop_kwargs(data=data, tick=0.5)[1].kimg_per_tick == 0.5
    assert "kimg_per_tick" not in setup_training_loop_kwargs(data=data)[1]


def test_the_half_life_of_the_moving_average_can_be_chosen(data):
    desc, args = setup_training_loop_kwargs(data=data, batch=64, ema_kimg=20.0)
    assert (args.ema_kimg, args.ema_rampup, desc) == (20, 0.05, "photos-auto1-batch64-ema20")


def test_graphs_appear_only_when_asked_for(data):
    assert setup_training_loop_kwargs(data=data, cuda_graphs=True)[1].cuda_graphs is True
    assert "cuda_graphs" not in setup_training_loop_kwargs(data=data, cuda_graphs=False)[1]


def test_compiling_appears_only_when_asked_for_and_may_change_while_a_run_is_under_way(data):
    desc, args = setup_training_loop_kwargs(data=data, compile=True)
    assert (desc, args.compile) == ("photos-auto1", True)
    assert "compile" not in setup_training_loop_kwargs(data=data, compile=False)[1]
    assert config.change_run_settings(args).compile is True
    without = config.change_run_settings(args, compile=False)
    assert "compile" not in without and config.change_run_settings(without, compile=True).compile is True


@pytest.mark.parametrize("other", ["cuda_graphs", "checkpoint_activations"])
def test_what_is_compiled_is_neither_captured_nor_computed_again(data, other):
    message = f"--compile cannot be given with --{other.replace('_', '-')}, got both"
    assert refusal(data=data, compile=True, **{other: True}) == message
    begun = setup_training_loop_kwargs(data=data, **{other: True})[1]
    with pytest.raises(UserError, match=message):
        config.change_run_settings(begun, compile=True)


def test_max_size_counts_images_before_mirroring(data):
    _desc, args = setup_training_loop_kwargs(data=data, mirror=True)
    assert (args.training_set_kwargs.max_size, args.training_set_kwargs.xflip) == (6, True)


def test_a_plugin_adds_a_cfg_with_options_of_its_own(data, monkeypatch):
    monkeypatch.setattr(cfgs, "_extensions", dict(cfgs._extensions))

    def spec(resolution, gpus, device):
        return dataclasses.replace(auto_spec(resolution, gpus), batch=16, kimg=resolution)

    def edit(args, options, device):
        if options["hats"] is not None and options["hats"] < 0:
            raise ValueError("--hats must be at least 0, got -1")
        args.loss_kwargs.hats = options["hats"]
        return args, [f"hats{options['hats']}"]

    option = click.Option(["--hats"], type=int)
    config.register_cfg(CfgExtension("party", [option], spec, edit))
    assert "party" in config.cfg_names()
    assert config.extension_options()["hats"] is option
    desc, args = setup_training_loop_kwargs(data=data, cfg="party", hats=3, batch=8)
    assert desc == "photos-party-hats3-batch8"
    assert (args.loss_kwargs.hats, args.total_kimg, args.batch_size) == (3, 16, 8)
    assert refusal(data=data, hats=3) == "--hats can only be given with --cfg=party, got --cfg=auto"
    assert refusal(data=data, cfg="party", hats=-1) == "--hats must be at least 0, got -1"


def test_a_plugin_cannot_take_the_name_of_a_built_in_cfg():
    with pytest.raises(ValueError, match="cannot replace the built-in cfg auto"):
        config.register_cfg(CfgExtension("auto", [], lambda *_: auto_spec(32, 1), lambda *_: (dnnlib.EasyDict(), [])))


def test_absent_plugins_are_passed_over(monkeypatch):
    monkeypatch.setattr(plugins, "PLUGINS", ("plugin_that_nobody_wrote",))
    plugins.import_plugins()


@pytest.mark.parametrize(("source", "error"), [
    ("import module_that_is_missing", ModuleNotFoundError),
    ("from training.config import name_that_is_missing", ImportError),
    ("1 / 0", ZeroDivisionError),
])
def test_a_plugin_that_is_there_and_broken_shows_its_own_error(tmp_path, monkeypatch, source, error):
    (tmp_path / "broken_plugin").mkdir()
    (tmp_path / "broken_plugin" / "config.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "PLUGINS", ("broken_plugin",))
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    with pytest.raises(error):
        plugins.import_plugins()
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)


def test_importing_plugins_again_changes_nothing():
    before = config.cfg_names()
    plugins.import_plugins()
    assert config.cfg_names() == before
    assert before.count("ssn") == 1


def test_train_offers_the_functions_that_plugins_wrap():
    assert train.setup_training_loop_kwargs is setup_training_loop_kwargs
    assert train.UserError is UserError
    assert issubclass(UserError, ValueError)


def test_every_host_option_exists_on_the_command_line():
    on_command_line = {param.name for param in train.main.params}
    assert set(options_of(TrainOptions)) <= on_command_line
    assert set(config.extension_options()) <= on_command_line


# Defaults that --help words otherwise, as they would be typed; those that a cfg decides are not among them.
DEFAULTS_IN_WORDS = dict(gpus="1", keep_best=None, log="none", data=None, keep=None, subset=None, p=None,
                         resume="noresume", trust_pickle=None)


@pytest.mark.parametrize("option", [param for param in train.main.params if param.name in options_of(TrainOptions)],
                         ids=lambda option: option.name)
def test_the_default_that_help_shows_is_the_one_in_use(data, option):
    shown = re.search(r"\[default: ([^;\]]*)", option.help)
    text = DEFAULTS_IN_WORDS.get(option.name, shown[1] if shown else None)
    if text is None or text.startswith("from cfg"):
        return
    plain, given = (setup_training_loop_kwargs(data=data, **kwargs)[1]
                    for kwargs in [{}, {option.name: option.type.convert(text, option, None)}])
    flat = launch.flatten(given)
    changed = {name for name, value in launch.flatten(plain).items() if flat.pop(name) != value}
    assert changed == set()
    assert {name: flat[name] for name in flat} == {
        "tick": dict(kimg_per_tick=4), "freezed": {"D_kwargs.block_kwargs.freeze_layers": 0},
        "g_arch": {"G_kwargs.synthesis_kwargs.architecture": "skip"}, "d_arch": {"D_kwargs.architecture": "resnet"},
        "gan_loss": {"loss_kwargs.adversarial": "logistic"},
    }.get(option.name, {})  # written down although they are the defaults of the loop or the network


def differing(got, want, path=""):
    """Paths at which two trees differ."""
    if not (isinstance(got, dict) and isinstance(want, dict)):
        return [] if got == want or got == pytest.approx(want, rel=1e-12) else [path]
    missing = [f"{path}.{key}" for key in set(got) ^ set(want)]
    return missing + [d for key in set(got) & set(want) for d in differing(got[key], want[key], f"{path}.{key}")]


def test_trees_equal_those_of_the_reference_host(shared, tmp_path, monkeypatch):
    cases = json.loads((shared / "golden" / "cli_train_options.json").read_text())["ok"]
    monkeypatch.chdir(tmp_path)

    class Images:
        """Stands for `data.zip` of a case, so that no image is written."""

        name, has_labels = "data", True

        def __init__(self, path, use_labels):
            self.img_resolution = case["resolution"]
            self.image_shape = [3, case["resolution"], case["resolution"]]

        def __len__(self):
            return case["count"]

        def close(self):
            pass

    monkeypatch.setattr("training.dataset.ImageFolderDataset", Images)
    for case in cases:
        desc, args = setup_training_loop_kwargs(data="data.zip", **case["options"])
        assert (desc, differing(args, case["args"])) == (case["desc"], []), case["options"]
