"""The commands below ``lowbit debug``: which layer hurts accuracy, and which pass is at fault."""

import typer

debug = typer.Typer(no_args_is_help=True, help="Find the layer that hurts accuracy, or the pass that is at fault.")
