"""What went wrong between us and a Docker daemon, as one of our errors. Needs the Docker SDK."""

from docker.errors import APIError, ImageNotFound, NotFound
from requests.exceptions import Timeout

from gateway.errors import BackendUnavailable, SandboxError, SandboxLost
from runtimes._docker_options import KIND

START = "Start it (`systemctl start docker`, or `dockerd &`), or name another by the option `host` or $DOCKER_HOST"

NO_RUNTIME = ("the daemon does not have this runtime: {said}", "Add it to `runtimes` in /etc/docker/daemon.json")
REFUSALS = (
    ("no space left on device", "the daemon's disk is full", "Free some: `docker system df`, `docker system prune`"),
    ("unknown runtime", *NO_RUNTIME),
    ("invalid runtime", *NO_RUNTIME),
    (
        "bind source path does not exist",
        "the daemon does not see this host's files: {said}",
        "Run this beside the daemon, with the same file system, or name the daemon as a remote one (tcp://)",
    ),
    (
        "executable file not found",
        "the image cannot run the guest's agent: {said}",
        "Build it with `toolexec image build`",
    ),
)
"""Parts of what a daemon says, what they mean, and what to do. The first that fits counts."""


def translated(error: Exception, image: str, get_image: str) -> SandboxError:
    """`get_image` is how to come by `image` when it is not there.

    BackendUnavailable for what the operator must mend, SandboxLost for what may have passed when tried again."""
    match error:
        case ImageNotFound():
            return BackendUnavailable(KIND, f"image {image!r} is not there", get_image)
        case NotFound():
            return SandboxLost(f"the daemon does not know it any more: {said(error)}")
        case APIError():
            return _refused(error)
        case Timeout():
            return SandboxLost("the daemon did not answer in time")
        case _:
            return _unreachable(error)


def said(error: Exception) -> str:
    """In one line, what the daemon or the library said."""
    text = error.explanation if isinstance(error, APIError) else str(error)
    return " ".join(str(text or error).split())[:300]


def _refused(error: APIError) -> SandboxError:
    text = said(error)
    for part, reason, fix in REFUSALS:
        if part in text.lower():
            return BackendUnavailable(KIND, reason.format(said=text), fix)
    if error.is_server_error():
        return SandboxLost(f"the daemon failed: {text}")
    return BackendUnavailable(KIND, f"the daemon refused: {text}", "Mend what it names; `toolexec doctor` tries again")


def _unreachable(error: Exception) -> SandboxError:
    text = said(error)
    if "Permission denied" in text:
        return BackendUnavailable(
            KIND,
            "its socket may not be opened by this user",
            "Add the user to group `docker`, which makes it as good as root, or run a daemon of its own (rootless)",
        )
    if any(sign in text for sign in ("No such file", "refused", "Name or service", "timed out")):
        return BackendUnavailable(KIND, f"no daemon answers: {text}", START)
    return SandboxLost(f"the connection to the daemon broke: {text}")
