"""What does docker-compose.yml need to know of this machine? Secrets, an owner and folders, written once as .env."""

import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from store.settings import is_loopback

ENV, COMPOSE = ".env", "docker-compose.yml"
SOMEBODY = 10001  # the user of the containers where root begins: nobody else's number on most systems
FOLDERS = ("studies", "images", "models", "uploads")
TLS, CERTIFICATE = Path("deploy/tls"), ("cert.pem", "key.pem")

TEXT = """\
# Written by `headscope init` for docker-compose.yml. It holds secrets: keep it to yourself, and keep a copy.
# What else can be set here is in docs/deploy.md.

# Sign-ins are signed with it; a new one ends them all.
HEADSCOPE_SECRET={secret}
# Between the page, the workers and the queue.
REDIS_PASSWORD={password}

# Who the containers run as, which must be able to write the data folder. Never 0, which is root.
HEADSCOPE_UID={uid}
HEADSCOPE_GID={gid}

# Who reaches the page: this machine alone (127.0.0.1), or everybody (0.0.0.0); and by which names they call it.
HEADSCOPE_ADDRESS={address}
HEADSCOPE_PORT={port}
HEADSCOPE_HOSTS={hosts}

# Folders of this machine: data, pictures, checkpoints, and cert.pem and key.pem for https.
HEADSCOPE_DATA=./data
HEADSCOPE_IMAGES=./data/images
HEADSCOPE_MODELS=./data/models
HEADSCOPE_TLS=./{tls}

# With a GPU.
{gpu}COMPOSE_FILE=docker-compose.yml:docker-compose.gpu.yml
"""


def write_env(folder: Path, hosts: Iterable[str], port: int, *, gpu: bool) -> Path:
    """Write .env, for its owner's eyes only, and make the data folder, in the folder of docker-compose.yml.

    Args:
        hosts: Names by which people on other machines call this one; without any, only this machine is served.
    Raises:
        FileNotFoundError: There is no docker-compose.yml.
        FileExistsError: There is an .env; it is left as it is.
    """
    if not (folder / COMPOSE).is_file():
        raise FileNotFoundError(f"there is no {COMPOSE} in {folder.resolve()}; run this in the folder of Headscope's")
    path, names = folder / ENV, [name.lower() for name in hosts if not is_loopback(name)]
    uid, gid = _owner(os.environ)
    text = TEXT.format(
        secret=secrets.token_urlsafe(48),
        password=secrets.token_urlsafe(32),
        uid=uid,
        gid=gid,
        address="0.0.0.0" if names else "127.0.0.1",
        port=port,
        hosts=",".join(names),
        tls=TLS,
        gpu="" if gpu else "# ",
    )
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
            file.write(text)
    except FileExistsError:
        raise FileExistsError(
            f"{path.resolve()} is there already and stays as it is: its secrets are in use. To begin anew, move it away"
        ) from None
    (folder / "data").mkdir(mode=0o700, exist_ok=True)  # in it is what only its owner may read, as passwords' hashes
    for name in FOLDERS:
        (folder / "data" / name).mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        _give(folder / "data", uid, gid)
        if uid != SOMEBODY:  # whoever called sudo
            _give(path, uid, gid)
    return path


def tls_problem(folder: Path) -> str:
    """Why the proxy could not read the certificate and its key, and what to run; empty if it can, or there are none.

    The containers run as the user of `_owner`, who is not whoever may read everything here.
    """
    uid, gid = _owner(os.environ)
    files = [folder / TLS / name for name in CERTIFICATE]
    if any(os.path.lexists(path) for path in files):
        for path in (folder / TLS, *files):
            at = path.relative_to(folder)
            if path.is_symlink():
                return f"{at} is a link, which leads nowhere in the proxy's container; put the file itself there"
            if not path.exists():
                return f"{at} is not there; https needs {' and '.join(CERTIFICATE)}"
            if not _may_read(path.stat(), uid, gid):
                return f"the proxy runs as user {uid}, who cannot read {at}; run `sudo chown {uid}:{gid} {at}`"
    return ""


def _may_read(found: os.stat_result, uid: int, gid: int) -> bool:
    """Whether a user may read a file, or what lies in a folder."""
    owns = 6 if found.st_uid == uid else 3 if found.st_gid == gid else 0  # of the mode's bits
    return bool(found.st_mode >> owns & (stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else stat.S_IROTH))


def _owner(environ: Mapping[str, str]) -> tuple[int, int]:
    """Who the containers run as: whoever asks, by sudo or not; never root."""
    if os.getuid():
        return os.getuid(), os.getgid()
    uid, gid = int(environ.get("SUDO_UID") or 0), int(environ.get("SUDO_GID") or 0)
    return (uid, gid) if uid and gid else (SOMEBODY, SOMEBODY)


def _give(path: Path, uid: int, gid: int) -> None:
    """Make somebody else the owner of a file, or of a folder with what is in it."""
    os.chown(path, uid, gid, follow_symlinks=False)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            os.chown(Path(folder, name), uid, gid, follow_symlinks=False)
