"""What can an operator set, by which environment variable, and what holds when nothing is set?"""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


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
