"""What can an operator set, by which environment variable, and what holds when nothing is set?"""

import hashlib
import os
import tempfile
from pathlib import Path
from urllib.parse import quote

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

_LONGEST_SOCKET = 103  # bytes of a unix socket's path: Linux takes 107, macOS 103


class Settings(BaseSettings):
    """Read from variables named as the field, in capitals behind HEADSCOPE_; arguments go before them."""

    model_config = SettingsConfigDict(env_prefix="HEADSCOPE_", frozen=True)

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
    bulk_workers: int = Field(
        default=1,
        ge=0,
        le=64,
        description="How many workers for studies `headscope serve` starts beside the one for people.",
    )

    @property
    def studies(self) -> Path:
        """The folder with one folder a study."""
        return self.data / "studies"

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
