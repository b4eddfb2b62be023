"""What the wheel holds; everything else about the package stands in pyproject.toml.

The host's packages and scripts (`training`, `train.py`, ...) go below `ssn_plugin/_host`: as top-level packages of
site-packages, names as common as `metrics` and `training` would collide with other people's. `ssn_plugin/__init__.py`
puts that folder on Python's path. In the checkout the files stay where users of StyleGAN2-ADA look for them.
"""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HOST = "ssn_plugin._host"
own = find_packages(include=["ssn_plugin", "ssn_plugin.*"])
host = find_packages(include=[f"{name}{part}" for name in ("dnnlib", "metrics", "torch_utils", "training")
                              for part in ("", ".*")])


class BuildWithoutSetup(build_py):
    """The scripts of the host, without this one, which lies beside them."""

    def find_package_modules(self, package, package_dir):
        return [module for module in super().find_package_modules(package, package_dir) if module[1] != "setup"]


setup(
    cmdclass=dict(build_py=BuildWithoutSetup),
    packages=[*own, HOST, f"{HOST}.models", *(f"{HOST}.{name}" for name in host)],
    package_dir={
        HOST: ".",  # the scripts
        f"{HOST}.models": "models",
        **{f"{HOST}.{name}": name.replace(".", "/") for name in host},
    },
    package_data={
        "ssn_plugin.editor": ["static/*"], "ssn_plugin.exporting": ["page/*"], f"{HOST}.models": ["*.pkl", "*.md"],
    },
    include_package_data=False,  # it would take all files of the checkout for data of its scripts
)
