"""What can an operator set, by which environment variable, and what holds when nothing is set?"""

import hashlib
import os
import tempfile
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_LONGEST_SOCKET = 103  # bytes of a unix socket's path: Linux takes 107, macOS 103


class Settings(BaseSettings):
    """Read from variables named as the field, in capitals behind HEADSCOPE_; arguments go before them."""

    model_config = SettingsConfigDict(env_prefix="HEADSCOPE_", env_ignore_empty=True, frozen=True)

    data: Path = Field(
        default=Path("data"),
        description="The data folder: `studies/`, `images/` (pictures) and `models/` (checkpoints).",
    )
    host: str = Field(
        default="127.0.0.1",
        description="The address that the web server listens on; the default serves this machine only.",
    )
    port: int = Field(default=8050, ge=1, le=65535, description="The port that the web server listens on.")
    attention_limit_gb: float = Field(
        default=20.0,
        ge=0,
        description="Attention is stored up to this size, in GB (10⁹ bytes) before compression; above it, it "
        "is rebuilt from the residual stream when it is read.",
    )
    threads: int = Field(default=8, ge=1, description="How many requests the web server answers at a time.")
    broker: str | None = Field(
        default=None,
        description="URL of the Redis that rings for work, as `redis://host:6379/0`; without it, `headscope serve` "
        "starts one of its own, and the workers too.",
    )
    ledger: str | None = Field(
        default=None,
        description="URL of the database of jobs, as `postgresql+psycopg://user@host/name`; without it, "
        "`headscope.db` in the data folder.",
    )
    bucket: str | None = Field(
        default=None,
        description="Where published studies are exchanged with other machines, as `s3://lab/headscope`: workers push "
        "there what they computed, and what is new there is pulled. The variables `AWS_ENDPOINT_URL`, "
        "`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_REGION` say how it is reached.",
    )
    bulk_workers: int = Field(
        default=1,
        ge=0,
        le=64,
        description="How many workers for studies `headscope serve` starts beside the one for people.",
    )
    secret: SecretStr | None = Field(
        default=None,
        description="What sign-ins are signed with: 32 or more random characters, the same for every process of the "
        "web server. Needed as soon as people sign in; `headscope init` makes one.",
    )
    sign_in: bool | None = Field(
        default=None,
        description="Whether people sign in; unset: unless the host is this machine only. Other hosts always ask.",
    )
    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Names by which browsers may call the server, with commas between them, as `headscope.lab.org`; "
        "beside them the host, and this machine's own `localhost`. A request by another name is refused.",
    )
    proxies: int = Field(
        default=0,
        ge=0,
        le=8,
        description="How many proxies of the lab stand before the server: so many are believed what they say of the "
        "address and the https of whom they pass on.",
    )
    trusted_header: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9-]+$",
        description="Header in which the lab's own proxy gives the name of whom it let in, as `X-Remote-User`; then "
        "nobody signs in here. The proxy must take it from what browsers send.",
    )
    upload_limit_mb: int = Field(
        default=2000, ge=1, description="The largest archive that is taken, in MB (10⁶ bytes)."
    )
    upload_quota_gb: float = Field(
        default=20.0, ge=0, description="What one person's uploads may hold in all, in GB (10⁹ bytes)."
    )
    derived_quota_gb: float = Field(
        default=5.0,
        ge=0,
        description="What the results that people asked for, such as prunings, may take on the disk in all, in GB (10⁹ "
        "bytes); those that were not used for longest are dropped, and computed again when they are asked for.",
    )
    jobs_per_user: int = Field(
        default=100, ge=1, description="How many jobs of one person may wait or run at a time; more are refused."
    )

    picture_hours: float = Field(
        default=24.0,
        gt=0,
        description="How long the private study is kept of a picture that a person dropped on the page, in hours.",
    )

    @field_validator("hosts", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        return tuple(given.replace(",", " ").lower().split()) if isinstance(given, str) else given

    @property
    def is_open(self) -> bool:
        """Whether nobody signs in: whoever reaches the server may do everything, and only this machine does."""
        return not self.sign_in and not self.trusted_header and is_loopback(self.host)

    @property
    def uploads(self) -> Path:
        """The folder with one folder an upload."""
        return self.data / "uploads"

    @property
    def pictures(self) -> Path:
        """The folder with one folder a picture that a person dropped on the page, until its study is there."""
        return self.uploads / "pictures"

    @property
    def studies(self) -> Path:
        """The folder with one folder a study."""
        return self.data / "studies"

    @property
    def derived_uses(self) -> Path:
        """The folder that says when each result that people asked for was last used."""
        return self.data / "derived-uses"

    @property
    def images(self) -> Path:
        """The folder with the lab's pictures, which are only read."""
        return self.data / "images"

    @property
    def models(self) -> Path:
        """The folder with the lab's checkpoints, which are only read."""
        return self.data / "models"

    @property
    def logs(self) -> Path:
        """The folder with what the embedded mode's processes say."""
        return self.data / "logs"

    @property
    def broker_folder(self) -> Path:
        """The folder with the embedded broker's data."""
        return self.data / "broker"

    @property
    def broker_socket(self) -> Path:
        """The embedded broker's socket: beside its data, or below the system's temporary folder if that is too long."""
        beside = self.broker_folder.resolve() / "broker.sock"
        if len(os.fsencode(beside)) <= _LONGEST_SOCKET:
            return beside
        known = hashlib.sha256(os.fsencode(self.data.resolve())).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"headscope-{os.getuid()}-{known}" / "broker.sock"

    @property
    def broker_url(self) -> str:
        """Where to ring for work, as Celery takes it."""
        return self.broker or f"redis+socket://{quote(str(self.broker_socket))}?virtual_host=0"

    @property
    def ledger_url(self) -> str:
        """Where jobs are kept, as SQLAlchemy takes it."""
        return self.ledger or f"sqlite:///{quote(str(self.data.resolve() / 'headscope.db'))}"


def is_loopback(host: str) -> bool:
    """Whether an address or name is one by which a machine calls itself."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
