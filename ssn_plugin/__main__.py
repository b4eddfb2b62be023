"""`python -m ssn_plugin`: the plugin's commands, inside any StyleGAN2-ADA checkout."""

from ssn_plugin.cli import main

if __name__ == "__main__":
    main(prog_name="python -m ssn_plugin")
