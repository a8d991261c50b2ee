"""`toolexec image`: the images that guests in containers run in."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from runtimes._docker_options import DEFAULT_IMAGE, DockerOptions
from sandbox._exit import complete
from sandbox._render import Screen

app = typer.Typer(help="Images for guests in containers.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def image() -> None:
    """Images for guests in containers."""


@app.command()
def build(
    *,
    base: Annotated[
        str, typer.Option(metavar="IMAGE", help="What to build on: any Linux image with Python 3.11 or newer.")
    ] = "python:3.13-slim",
    tag: Annotated[str, typer.Option(metavar="NAME", help="What to call it.")] = DEFAULT_IMAGE,
    wheels: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Take libraries from here, not from the package index.")
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="URL", help="The daemon. [default: $DOCKER_HOST]")] = None,
) -> None:
    """Put the guest's agent into an image, for backend docker.

    What else is in the image is there for snippets: packages, bash, Node. The build has no network; a base image that
    the daemon does not have must be pulled, or imported, first.
    """
    from runtimes.image.build import build_image  # noqa: PLC0415 - only needed here

    building = asyncio.to_thread(build_image, base, DockerOptions(image=tag, host=host), wheels=wheels, say=_say)
    languages = complete(building, Screen(), json_output=False)
    typer.echo(f"{tag} runs {', '.join(languages)}")


def _say(progress: str) -> None:
    typer.echo(progress, err=True)
