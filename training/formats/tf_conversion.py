"""Turn TensorFlow StyleGAN2 and StyleGAN2-ADA networks, as found in their pickles, into modules of this code base.

A TensorFlow network arrives as a stub with `version`, `static_kwargs`, `variables` [(name, array), ...] and
`components` {name: stub}. Dense weights are stored transposed, convolutions as HWIO, and kernels that up-sample are
rotated by half a turn, because TensorFlow expresses them as transposed convolutions.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from dnnlib.util import UserError, printable
from training.formats.network_arguments import shown
from training.formats.network_rebuild import MAX_ARGUMENT_INTEGER, SPARE_BYTES, build_module, find_class, plain_data

_Transform = Callable[[np.ndarray], np.ndarray]

# They choose how the network was trained or is called, not what it is.
_IGNORED_KWARGS = ("structure", "randomize_noise", "fused_modconv", "conditioning")
_IGNORED_GENERATOR_KWARGS = (*_IGNORED_KWARGS, "truncation_psi", "truncation_cutoff", "style_mixing_prob")
_MAX_DEPTH = 2          # of components
_MAX_COMPONENTS = 8     # of one network: mapping and synthesis
_MAX_VARIABLES = 4096   # of one network


def convert_tf_generator(tf_G: Any) -> torch.nn.Module:
    """Generator in eval mode without gradients. Raises `UserError` for what StyleGAN2 does not have."""
    kwargs, variables = _generator_kwargs(tf_G), _collect_variables(tf_G)
    if _rename_progressive(variables, "synthesis/ToRGB_lod", kwargs["img_resolution"], "synthesis/{0}x{0}/ToRGB"):
        kwargs["synthesis_kwargs"]["architecture"] = "orig"
    return _convert("Generator", kwargs, variables, _GENERATOR_RULES)


def convert_tf_discriminator(tf_D: Any) -> torch.nn.Module:
    """Discriminator in eval mode without gradients. Raises `UserError` for what StyleGAN2 does not have."""
    kwargs, variables = _discriminator_kwargs(tf_D), _collect_variables(tf_D)
    if _rename_progressive(variables, "FromRGB_lod", kwargs["img_resolution"], "{0}x{0}/FromRGB"):
        kwargs["architecture"] = "orig"
    return _convert("Discriminator", kwargs, variables, _DISCRIMINATOR_RULES)


# Constructor arguments.


class _StaticKwargs:
    """The keyword arguments of a TensorFlow network, each to be taken once."""

    def __init__(self, stub: Any, ignored: tuple[str, ...]):
        version = getattr(stub, "version", None)
        if type(version) is not int or version < 4:
            raise UserError(f"TensorFlow network has version {shown(version)}, 4 (StyleGAN2) or newer is needed")
        arguments = getattr(stub, "static_kwargs", None)
        self.left = plain_data(arguments, "TensorFlow network: arguments", MAX_ARGUMENT_INTEGER)
        if type(self.left) is not dict:
            raise UserError("TensorFlow network has no dict of arguments")
        for name in ignored:
            self.left.pop(name, None)
        resolution = self.left.get("resolution", 1024)
        for name in ("resolution_w", "resolution_h"):
            side = self.left.pop(name, resolution)
            if side != resolution:
                raise UserError(f"TensorFlow network has {name} {shown(side)} and resolution {shown(resolution)}, "
                                 "only square ones are supported")

    def take(self, name: str, default: Any, none: Any = None) -> Any:
        """Value of `name`, which must be of the kind of `default`; `default` if it is absent, `none` if it is None."""
        value = self.left.pop(name, default)
        if None not in (value, default) and isinstance(value, (int, float)) != isinstance(default, (int, float)):
            raise UserError(f"TensorFlow network has a {type(value).__name__} as {name}")
        return none if value is None else value

    def finish(self) -> None:
        if self.left:
            names = printable(", ".join(sorted(self.left)), 300)
            raise UserError(f"TensorFlow network has unknown arguments: {names}")


def _generator_kwargs(stub: Any) -> dict[str, Any]:
    kw = _StaticKwargs(stub, _IGNORED_GENERATOR_KWARGS)
    kwargs = dict(
        z_dim=kw.take("latent_size", 512),
        c_dim=kw.take("label_size", 0),
        w_dim=kw.take("dlatent_size", 512),
        img_resolution=kw.take("resolution", 1024),
        img_channels=kw.take("num_channels", 3),
        mapping_kwargs=dict(
            num_layers=kw.take("mapping_layers", 8),
            embed_features=kw.take("label_fmaps", None),
            layer_features=kw.take("mapping_fmaps", None),
            activation=kw.take("mapping_nonlinearity", "lrelu"),
            lr_multiplier=kw.take("mapping_lrmul", 0.01),
            w_avg_beta=kw.take("w_avg_beta", 0.995, none=1),
        ),
        synthesis_kwargs=dict(
            channel_base=2 * kw.take("fmap_base", 16384, none=16384),
            channel_max=kw.take("fmap_max", 512),
            num_fp16_res=kw.take("num_fp16_res", 0),
            conv_clamp=kw.take("conv_clamp", None),
            architecture=kw.take("architecture", "skip"),
            resample_filter=kw.take("resample_kernel", [1, 3, 3, 1]),
            use_noise=kw.take("use_noise", True),
            activation=kw.take("nonlinearity", "lrelu"),
        ),
    )
    kw.finish()
    return kwargs


def _discriminator_kwargs(stub: Any) -> dict[str, Any]:
    kw = _StaticKwargs(stub, _IGNORED_KWARGS)
    map_features, activation = kw.take("mapping_fmaps", None), kw.take("nonlinearity", "lrelu")
    kwargs = dict(
        c_dim=kw.take("label_size", 0),
        img_resolution=kw.take("resolution", 1024),
        img_channels=kw.take("num_channels", 3),
        architecture=kw.take("architecture", "resnet"),
        channel_base=2 * kw.take("fmap_base", 16384, none=16384),
        channel_max=kw.take("fmap_max", 512),
        num_fp16_res=kw.take("num_fp16_res", 0),
        conv_clamp=kw.take("conv_clamp", None),
        cmap_dim=map_features,
        block_kwargs=dict(
            activation=activation,
            resample_filter=kw.take("resample_kernel", [1, 3, 3, 1]),
            freeze_layers=kw.take("freeze_layers", 0),
        ),
        mapping_kwargs=dict(
            num_layers=kw.take("mapping_layers", 0),
            embed_features=map_features,
            layer_features=map_features,
            activation=activation,
            lr_multiplier=kw.take("mapping_lrmul", 0.1),
        ),
        epilogue_kwargs=dict(
            mbstd_group_size=kw.take("mbstd_group_size", None),
            mbstd_num_channels=kw.take("mbstd_num_features", 1),
            activation=activation,
        ),
    )
    kw.finish()
    return kwargs


# Variables.


def _collect_variables(stub: Any) -> dict[str, np.ndarray]:
    """Full name -> array; the names of components lead, joined by slashes."""
    return dict(_walk_variables(stub, "", 0))


def _walk_variables(stub: Any, prefix: str, depth: int) -> Iterator[tuple[str, np.ndarray]]:
    variables, components = getattr(stub, "variables", None), getattr(stub, "components", None)
    if not isinstance(variables, list) or not isinstance(components, dict):
        raise UserError("TensorFlow network without a list of variables and a dict of components")
    if depth > _MAX_DEPTH or len(components) > _MAX_COMPONENTS or len(variables) > _MAX_VARIABLES:
        raise UserError(f"TensorFlow network with over {_MAX_COMPONENTS} components or {_MAX_VARIABLES} variables")
    for pair in variables:
        name, value = pair if type(pair) in (tuple, list) and len(pair) == 2 else (None, None)
        if not isinstance(name, str) or not isinstance(value, (np.ndarray, np.number, float)):
            raise UserError("TensorFlow network whose variables are not pairs of a name and an array")
        yield f"{prefix}{name}", np.asarray(value)
    for name, component in components.items():
        yield from _walk_variables(component, f"{prefix}{name}/", depth + 1)


def _rename_progressive(variables: dict[str, np.ndarray], start: str, resolution: int, template: str) -> bool:
    """Give RGB layers that are numbered by level of detail (progressive growing) the name of their resolution."""
    found = {name: re.fullmatch(re.escape(start) + r"(\d{1,2})(/\w+)", name) for name in variables}
    for name, match in found.items():
        if match:
            value = variables.pop(name)
            if int(match[1]) == 0:  # the others belong to resolutions that training has grown out of
                variables[template.format(resolution) + match[2]] = value
    return any(found.values())


def _transpose(x: np.ndarray) -> np.ndarray:
    return x.T


def _to_oihw(x: np.ndarray) -> np.ndarray:
    return x.transpose(3, 2, 0, 1)


def _to_oihw_rotated(x: np.ndarray) -> np.ndarray:
    return _to_oihw(x[::-1, ::-1])


def _plus_one(x: np.ndarray) -> np.ndarray:
    return x + 1


# (pattern of TensorFlow names, torch name with the pattern's groups, transform). {0} is a resolution or an index.
_Rule = tuple[str, str, "_Transform | None"]


def _styled_layer(tf_name: str, torch_name: str, weight: _Transform) -> list[_Rule]:
    return [
        (f"{tf_name}/weight", f"{torch_name}.weight", weight),
        (f"{tf_name}/bias", f"{torch_name}.bias", None),
        (f"{tf_name}/noise_strength", f"{torch_name}.noise_strength", None),
        (f"{tf_name}/mod_weight", f"{torch_name}.affine.weight", _transpose),
        (f"{tf_name}/mod_bias", f"{torch_name}.affine.bias", _plus_one),
    ]


def _layer(tf_name: str, torch_name: str, weight: _Transform) -> list[_Rule]:
    return [(f"{tf_name}/weight", f"{torch_name}.weight", weight), (f"{tf_name}/bias", f"{torch_name}.bias", None)]


_R = r"(\d+)x\d+"
_GENERATOR_RULES = [
    ("dlatent_avg", "mapping.w_avg", None),
    *_layer("mapping/LabelEmbed", "mapping.embed", _transpose),
    *_layer(r"mapping/Dense(\d+)", "mapping.fc{0}", _transpose),
    ("synthesis/4x4/Const/const", "synthesis.b4.const", lambda x: x[0]),
    *_styled_layer("synthesis/4x4/Conv", "synthesis.b4.conv1", _to_oihw),
    *_styled_layer(f"synthesis/{_R}/Conv0_up", "synthesis.b{0}.conv0", _to_oihw_rotated),
    *_styled_layer(f"synthesis/{_R}/Conv1", "synthesis.b{0}.conv1", _to_oihw),
    *_styled_layer(f"synthesis/{_R}/ToRGB", "synthesis.b{0}.torgb", _to_oihw),
    (f"synthesis/{_R}/Skip/weight", "synthesis.b{0}.skip.weight", _to_oihw_rotated),
]
_DISCRIMINATOR_RULES = [
    *_layer("LabelEmbed", "mapping.embed", _transpose),
    *_layer(r"Mapping(\d+)", "mapping.fc{0}", _transpose),
    *_layer(f"{_R}/FromRGB", "b{0}.fromrgb", _to_oihw),
    *_layer(f"{_R}/Conv0", "b{0}.conv0", _to_oihw),
    *_layer(f"{_R}/Conv1_down", "b{0}.conv1", _to_oihw),
    (f"{_R}/Skip/weight", "b{0}.skip.weight", _to_oihw),
    *_layer("4x4/Conv", "b4.conv", _to_oihw),
    *_layer("4x4/Dense0", "b4.fc", _transpose),
    *_layer("Output", "b4.out", _transpose),
]


def _to_torch(name: str, value: np.ndarray, rules: list[_Rule]) -> tuple[str, np.ndarray] | None:
    """Torch name and value of one variable, or None if no rule knows it."""
    noise = re.fullmatch(r"synthesis/noise(\d{1,2})", name)
    if noise:  # 0 is the one layer of 4x4, then two per resolution
        k = int(noise[1])
        return f"synthesis.b{2 ** ((k + 5) // 2)}.conv{1 - k % 2}.noise_const", value[0, 0]
    for pattern, template, transform in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return template.format(*match.groups()), transform(value) if transform else value
    return None


def _convert(
    class_name: str, kwargs: dict[str, Any], variables: Mapping[str, np.ndarray], rules: list[_Rule]
) -> torch.nn.Module:
    what = f"TensorFlow {class_name.lower()}"
    distinct = {id(value): value.nbytes for value in variables.values()}
    if sum(value.nbytes for value in variables.values()) > sum(distinct.values()) + SPARE_BYTES:
        raise UserError(f"{what}: its variables are larger than what the file holds for them")
    tensors, unknown = {}, []
    for name, value in variables.items():
        try:
            converted = _to_torch(name, value, rules)
        except (IndexError, ValueError):
            raise UserError(f"{what}: {printable(name)} has the unexpected shape {list(value.shape)}") from None
        if converted:
            tensors[converted[0]] = torch.from_numpy(np.array(converted[1], dtype=np.float32, order="C"))
        elif name.split("/")[-1] != "lod":  # progress of progressive growing
            unknown.append(printable(name))
    if unknown:
        warnings.warn(f"{what}: variables without a counterpart are left out: {', '.join(unknown[:8])}", stacklevel=3)
    module = build_module(find_class(class_name), (), kwargs, tensors, what, keep_suffix="resample_filter")
    return module.eval().requires_grad_(False)
