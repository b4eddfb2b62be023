"""Which real images a network is compared with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dnnlib.util import UserError

DATASET_CLASS = "training.dataset.ImageFolderDataset"


def choose_dataset(
    G: Any,
    trained_on: Mapping[str, Any] | None,   # `training_set_kwargs` of the network's file
    data: str | None,                       # folder or zip; None: those that the network was trained on
    mirror: bool | None,                    # add mirrored images; None: as in training
    trust_pickle: bool = False,             # call whatever class the file names
) -> dict[str, Any]:
    """Options of the data set to compare with; empty if none is known, which some metrics do without."""
    if data is not None:
        kwargs: dict[str, Any] = dict(class_name=DATASET_CLASS, path=data)
        if not os.path.exists(data):
            raise UserError(f"data set {data} does not exist")
    elif trained_on:
        kwargs = dict(trained_on)
        if kwargs.get("class_name") != DATASET_CLASS and not trust_pickle:   # the name is called with arguments at hand
            raise UserError(f"the network file asks for the data set class {kwargs.get('class_name')}: name the data "
                            f"with --data, or allow the class with --trust-pickle")
    else:
        return {}
    kwargs.update(resolution=G.img_resolution, use_labels=G.c_dim != 0)
    if mirror is not None:
        kwargs["xflip"] = mirror
    return kwargs
