"""Builds what a training run needs from its keyword arguments."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

import dnnlib
from dnnlib.util import UserError
from torch_utils import devices, misc
from torch_utils.ops import conv2d_gradfix, grid_sample_gradfix
from training.dataset import Dataset
from training.plugins import import_plugins
from training.run.compiled import compile_networks
from training.run.cuda_graphs import GraphedLoss
from training.run.recomputation import resolution_blocks
from training.run.run_options import RunOptions
from training.run.step import AdaController, TrainingState, make_phases


def choose_device(device: torch.device | str | None, rank: int) -> torch.device:
    """The given device; otherwise the GPU with the number of the rank, or the CPU where there is no GPU."""
    chosen = devices.choose_device(device, index=rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return chosen


def configure_torch(random_seed: int, cudnn_benchmark: bool, allow_tf32: bool) -> None:
    """Set the process-wide switches and seeds."""
    torch.backends.cudnn.benchmark = cudnn_benchmark
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    torch.backends.cudnn.allow_tf32 = allow_tf32
    conv2d_gradfix.enabled = True
    grid_sample_gradfix.enabled = True
    np.random.seed(random_seed % 2**32)
    torch.manual_seed(random_seed)


def load_metrics(metrics: Sequence[str], rank: int) -> None:
    """Check the names of metrics, and let the first process fetch the detectors that they need.

    Raises OSError, which says where a file belongs, if a detector cannot be had.
    """
    if not metrics:
        return
    import_plugins()  # they bring metrics of their own
    from metrics import metric_main  # takes seconds, which a run without metrics saves

    for metric in metrics:
        if not metric_main.is_valid_metric(metric):
            raise UserError(f"metric must be one of {', '.join(metric_main.list_valid_metrics())}, got {metric}")
        if rank == 0:
            metric_main.fetch_detector(metric)


def load_training_set(training_set_kwargs: Mapping[str, Any], verbose: bool) -> Dataset:
    """The data set; its size and shapes are printed if `verbose`."""
    training_set = dnnlib.util.construct_class_by_name(**training_set_kwargs)
    if verbose:
        print(f"Training set: {len(training_set)} images of shape {training_set.image_shape}, "
              f"labels of shape {training_set.label_shape}")
        if training_set.left_out:
            print(f"  left out: {training_set.left_out}")
    return training_set


def build_networks(
    training_set: Dataset, G_kwargs: Mapping[str, Any], D_kwargs: Mapping[str, Any], device: torch.device
) -> tuple[Any, Any, Any]:
    """Generator and discriminator in training mode, and a copy of the generator in eval mode; gradients are off."""
    common: dict[str, Any] = dict(
        c_dim=training_set.label_dim, img_resolution=training_set.img_resolution,
        img_channels=training_set.num_channels)
    try:
        G, D = (
            dnnlib.util.construct_class_by_name(**kwargs, **common).train().requires_grad_(False).to(device)
            for kwargs in (G_kwargs, D_kwargs)
        )
    except ValueError as err:  # networks refuse what they cannot be, but know nothing of users
        raise UserError(str(err)) from err
    return G, D, copy.deepcopy(G).eval()


def build_augment_pipe(
    augment_kwargs: Mapping[str, Any] | None, augment_p: float, ada_target: float | None, device: torch.device
) -> Any:
    """The augmentation with strength `augment_p`; None where it would never do anything."""
    if augment_kwargs is None or (augment_p == 0 and ada_target is None):
        return None
    pipe = dnnlib.util.construct_class_by_name(**augment_kwargs).train().requires_grad_(False).to(device)
    pipe.p.fill_(augment_p)
    return pipe


def make_state(options: RunOptions, training_set: Dataset, device: torch.device) -> TrainingState:
    """Networks, loss, optimizers and augmentation before the first step."""
    G, D, G_ema = build_networks(training_set, options.G_kwargs, options.D_kwargs, device)
    augment_pipe = build_augment_pipe(options.augment_kwargs, options.augment_p, options.ada_target, device)
    ada = None
    if augment_pipe is not None and options.ada_target is not None:
        ada = AdaController(
            augment_pipe, options.ada_target, options.batch_size, options.ada_interval, options.ada_kimg)
    called: dict[str, Any] = dict(G_mapping=G.mapping, G_synthesis=G.synthesis, D=D)
    if options.compile:
        called = compile_networks(called, device, verbose=options.rank == 0)
    loss = dnnlib.util.construct_class_by_name(
        device=device, **called, augment_pipe=augment_pipe, **options.loss_kwargs)
    phases = make_phases(
        G, D, options.G_opt_kwargs, options.D_opt_kwargs, options.G_reg_interval, options.D_reg_interval, device)
    graphs = None
    if options.cuda_graphs:
        loss.draws_on_device = True  # on the CPU as well: a run that carries on there draws in the same way
        if device.type == "cuda":
            graphs = GraphedLoss(loss, [G, D])
            if augment_pipe is not None:
                augment_pipe.full_margins = True
    recomputed = resolution_blocks(G.synthesis, D) if options.checkpoint_activations else []
    return TrainingState(G, D, G_ema, augment_pipe, loss, phases, ada, graphs, recomputed)


@torch.no_grad()
def print_summaries(G: Any, D: Any, batch_size: int, device: torch.device) -> None:
    """Print tables of the layers of both networks, which run once in eval mode and keep their state."""
    modes = G.training, D.training
    z = torch.zeros([batch_size, G.z_dim], device=device)
    c = torch.zeros([batch_size, G.c_dim], device=device)
    img = misc.print_module_summary(G.eval(), [z, c])
    misc.print_module_summary(D.eval(), [img, c])
    G.train(modes[0])
    D.train(modes[1])

