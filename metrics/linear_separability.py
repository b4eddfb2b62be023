"""Linear separability of latent space (Karras et al. 2019, arXiv:1812.04948, section 4.2).

How well does a hyperplane in latent space predict an attribute that a classifier sees in the image? Letters: N samples,
Z numbers per latent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import scipy.optimize
import torch
import torch.nn.functional as F

import dnnlib
from dnnlib.util import UserError

from . import detectors, metric_utils, sampling

MAX_RESOLUTION = 256   # images are averaged down to this before classification


def fit_linear_svm(
    x: np.ndarray,         # [N, Z]
    positive: np.ndarray,  # [N] bool
    cost: float = 1.0,
) -> np.ndarray:           # [Z + 1]  normal of the hyperplane, then its offset
    """Support vector machine with squared hinge loss: min |v|^2 / 2 + cost * sum max(0, 1 - y v.(x, 1))^2."""
    x1 = np.concatenate([x, np.ones([len(x), 1], dtype=x.dtype)], axis=1)
    y = np.where(positive, 1.0, -1.0)

    def loss_and_gradient(v: np.ndarray) -> tuple[float, np.ndarray]:
        slack = np.maximum(1 - y * (x1 @ v), 0)
        return 0.5 * v @ v + cost * slack @ slack, v - 2 * cost * (x1.T @ (slack * y))

    result = scipy.optimize.minimize(loss_and_gradient, np.zeros(x1.shape[1]), jac=True, method="L-BFGS-B",
                                     options=dict(maxiter=1000))
    return result.x


def conditional_entropy(predicted: np.ndarray, actual: np.ndarray) -> float:
    """H(actual | predicted) of two sets of yes/no answers `[N]`, in nats."""
    entropy = 0.0
    for x in (False, True):
        given = actual[predicted == x]
        for p in ((given.mean(), 1 - given.mean()) if len(given) else ()):
            if p > 0:
                entropy -= len(given) / len(actual) * p * np.log(p)
    return float(entropy)


def separability_entropy(latents: np.ndarray, logits: np.ndarray, num_keep: int) -> float:
    """What is left to know about an attribute, given the side of the best hyperplane: H(Y | X).

    latents: [N, Z].  logits: [N]; positive where the classifier sees the attribute. Only the `num_keep` most confident
    samples count.
    """
    keep = np.argsort(-np.abs(logits), kind="stable")[:num_keep]
    actual = logits[keep] > 0
    x = latents[keep].astype(np.float64)
    if actual.all() or not actual.any():
        return 0.0   # an attribute that never changes needs no predicting
    plane = fit_linear_svm(x, actual)
    return conditional_entropy(x @ plane[:-1] + plane[-1] > 0, actual)


def load_classifier(path: str, device: torch.device) -> torch.nn.Module:
    return detectors.load(path, device)


def run_classifier(classifier: torch.nn.Module, path: str, img: torch.Tensor) -> torch.Tensor:
    """Logits `[N]` of images `[N, 3, H, W]` in 0..255."""
    logits = classifier(img)
    if not isinstance(logits, torch.Tensor) or logits.numel() != len(img):
        shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(f"classifier {path} must return one logit per image, got {shape} for {len(img)} images")
    return logits.reshape(-1).float()


def compute_ls(
    opts: metric_utils.MetricOptions,
    num_samples: int,
    classifier_files: Sequence[str],
    batch_size: int = 8,
) -> dict[str, float]:   # keys z and w
    """exp(sum over attributes of H(Y | X)) in the space of z and of w; 1 is perfect. NaN on ranks other than 0."""
    if not classifier_files:
        raise UserError("linear separability needs attribute classifiers: TorchScript files, given by --classifiers")
    if num_samples < 4:
        raise UserError(f"linear separability needs at least 4 samples, got {num_samples}")
    opts.provenance.update(
        num_generated=num_samples, rounding="none", resize=f"area average above {MAX_RESOLUTION} pixels",
        classifiers={os.path.basename(path): dnnlib.util.hash_file(path) for path in classifier_files})
    latents, logits = collect_samples(opts, num_samples, classifier_files, opts.batch_size or batch_size)
    if opts.rank != 0:
        return dict.fromkeys(latents, float("nan"))
    return {
        space: float(np.exp(sum(separability_entropy(x, column, num_samples // 2) for column in logits.T)))
        for space, x in latents.items()}


@torch.no_grad()
def collect_samples(
    opts: metric_utils.MetricOptions, num_samples: int, classifier_files: Sequence[str], batch_size: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Latents by space, `[N, Z]` each, and the logits of all classifiers `[N, classifiers]`."""
    classifiers = [(load_classifier(path, opts.device), path) for path in classifier_files]
    label_fn, num_labels = metric_utils.label_source(opts)
    G = metric_utils.frozen_generator(opts)
    stats = {key: metric_utils.FeatureStats(capture_all=True, max_items=num_samples) for key in ("z", "w", "logits")}
    progress = opts.progress.sub(tag="classified images", num_items=num_samples)
    share = -(-num_samples // opts.num_gpus)
    for start in range(0, share, batch_size):
        numbers = [i * opts.num_gpus + opts.rank for i in range(start, min(start + batch_size, share))]
        z, labels = sampling.draw_latents(G.z_dim, opts.seed or 0, numbers, num_labels)
        c = torch.zeros([len(numbers), 0])
        if label_fn is not None:
            c = torch.from_numpy(np.stack([label_fn(label) for label in labels]))
        ws = G.mapping(z.to(opts.device), c.to(opts.device))
        gens = [sampling.item_generator(opts.seed or 0, sampling.STREAM_NOISE, i, opts.device) for i in numbers]
        noise = sampling.draw_noise(G.synthesis, gens, opts.device)
        img = sampling.to_three_channels((sampling.call_with_noise(G.synthesis, noise, ws=ws) + 1) * 127.5)
        if max(img.shape[2:]) > MAX_RESOLUTION:
            img = F.avg_pool2d(img, max(img.shape[2:]) // MAX_RESOLUTION)
        outputs = [run_classifier(classifier, path, img) for classifier, path in classifiers]
        for key, values in (("z", z.to(opts.device)), ("w", ws[:, 0]), ("logits", torch.stack(outputs, dim=1))):
            stats[key].append_torch(values, opts.num_gpus, opts.rank)
        progress.update(stats["z"].num_items)
    return {key: stats[key].get_all() for key in ("z", "w")}, stats["logits"].get_all()
