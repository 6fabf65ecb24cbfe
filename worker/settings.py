"""Every setting of the worker, read once from the environment and `.env`, checked, and passed on as values.

Names have no prefix (`DATABASE_URL`, not `LIKENESS_DATABASE_URL`), because Supabase and pod hosts use the same ones.
`env_example` generates `.env.example` from this class.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from worker.addresses import check_http_url, check_postgres_url
from worker.errors import SettingsError
from worker.gpu.tasks.generation import UpscalerBackend
from worker.renamed_settings import check_old_names, either_name
from worker.setting_groups import HEADINGS, NEEDED
from worker.setting_values import LISTS, check_text, checked_region, clean_source, expanded, listed
from worker.storage import credentials
from worker.storage.credentials import StoreSettings
from worker.storage.models_store import ModelsStore
from worker.storage.s3.client import StoreConfig

LogFormat = Literal["auto", "console", "json"]
Bucket = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,62}$")]
Region = Annotated[str, AfterValidator(checked_region)]
Folder = Annotated[Path, AfterValidator(expanded)]
Names = Annotated[frozenset[str], NoDecode]
WITH_SPACES = {"models_dir", "work_dir", "worker_name", "worker_kinds", "fetch_private_hosts"}
"""Fields whose value may contain spaces."""


class Settings(BaseSettings):
    """Use `Settings.load()`, which refuses missing or malformed settings. `repr` does not show secrets."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_file_encoding="utf-8",
        env_ignore_empty=True,  # `NAME=` in a .env means the default
        extra="ignore",  # a .env is shared with the app
        hide_input_in_errors=True,
    )

    # The database
    database_url: SecretStr = Field(
        default=SecretStr(""),
        description="The pod's login (`worker role` prints one; `worker migrate` needs the owner's instead). "
        "On Supabase, use the session pooler (port 5432).",
        examples=["postgresql://likeness_pod:PASSWORD@db.example.com:5432/postgres"],
    )
    database_listen_url: SecretStr | None = Field(
        default=None,
        description="A direct connection or session pooler for LISTEN, if DATABASE_URL is a transaction-mode pooler "
        "(port 6543).",
        examples=["postgresql://likeness_pod:PASSWORD@db.example.com:5432/postgres"],
    )

    # The object store: S3 access keys
    s3_endpoint_url: str | None = Field(
        default=None,
        description="Any S3-compatible store. Supabase: Project Settings, Storage, S3 connection.",
        examples=["https://PROJECT_REF.storage.supabase.co/storage/v1/s3"],
    )
    s3_region: Region | None = Field(
        default=None,
        description="The store's region. Supabase rejects requests signed for another region.",
        examples=["eu-central-1"],
    )
    s3_access_key_id: str | None = Field(default=None, description="The access key's id.", examples=["ACCESS_KEY_ID"])
    s3_secret_access_key: SecretStr | None = Field(
        default=None, description="The access key's secret.", examples=["SECRET_ACCESS_KEY"]
    )

    # The object store: Supabase's legacy keys, instead of S3 access keys
    supabase_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL"),
        description="The project's URL, also read from NEXT_PUBLIC_SUPABASE_URL. S3_REGION is needed too.",
        examples=["https://PROJECT_REF.supabase.co"],
    )
    supabase_anon_key: SecretStr | None = Field(
        default=None, description="The legacy anon key, a JWT.", examples=["ANON_KEY"]
    )
    supabase_service_role_key: SecretStr | None = Field(
        default=None, description="The legacy service_role key, a JWT.", examples=["SERVICE_ROLE_KEY"]
    )

    # Buckets
    bucket_uploads: Bucket = Field(
        default="uploads", description="The bucket for photos and pictures.", examples=["uploads"]
    )
    bucket_models: Bucket = Field(
        default="model_artifacts", description="The bucket for LoRAs and base models.", examples=["model_artifacts"]
    )
    bucket_meshes: Bucket = Field(default="3d-models", description="The bucket for 3D models.", examples=["3d-models"])

    # Base models in a bucket or store of their own
    models_s3_bucket: Bucket | None = Field(
        default=None, description="The bucket for base models. The default is BUCKET_MODELS.", examples=["base-models"]
    )
    models_s3_endpoint_url: str | None = Field(
        default=None, description="Its store. The default is S3_ENDPOINT_URL.", examples=["https://s3.example.com"]
    )
    models_s3_region: Region | None = Field(
        default=None, description="Its region. The default is S3_REGION.", examples=["eu-central-1"]
    )
    models_s3_access_key_id: str | None = Field(
        default=None, description="Its access key's id. The default is S3_ACCESS_KEY_ID.", examples=["ACCESS_KEY_ID"]
    )
    models_s3_secret_access_key: SecretStr | None = Field(
        default=None, description="The secret of MODELS_S3_ACCESS_KEY_ID.", examples=["SECRET_ACCESS_KEY"]
    )

    # This pod
    models_dir: Folder = Field(
        default_factory=lambda: platformdirs.user_cache_path("likeness") / "models",
        description="Where base models are stored. The default is in the user's cache folder.",
        examples=["/workspace/models"],
    )
    models_max_gb: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="The maximum size of MODELS_DIR. Those used least recently are removed to make space for another.",
        examples=["200"],
    )
    work_dir: Folder = Field(
        default_factory=lambda: Path(tempfile.gettempdir()) / f"likeness-{os.getuid()}",
        description="Where personal files are stored while they are used: a local disk that is not shared.",
        examples=["/local/likeness"],
    )
    worker_kinds: Names = Field(
        default=frozenset(),
        description="Kinds of jobs that this pod accepts, separated by commas. The default is all that it can run.",
        examples=["training,generation"],
    )
    fetch_private_hosts: Names = Field(
        default=frozenset(),
        description="Hosts, or HOST:PORT, of URLs in jobs that may be private and use http, separated by commas.",
        examples=["shop.internal,localhost:54321"],
    )
    upscaler: UpscalerBackend = Field(
        default="spandrel",
        description="Which package runs Real-ESRGAN: spandrel, or realesrgan "
        "(`pip install 'likeness-worker[realesrgan]'`).",
        examples=["spandrel"],
    )
    worker_name: str = Field(
        default_factory=socket.gethostname,
        min_length=1,
        max_length=100,
        description="This pod's name in `worker status`. The default is the host's name.",
        examples=["pod-1"],
    )
    log_format: LogFormat = Field(
        default="auto",
        description="console, json, or auto: console on a terminal, else json.",
        examples=["auto"],
    )

    # Commands
    hf_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        description="For `worker models pull`: a read token of an account that accepted a gated base's terms. "
        "Also read from HUGGING_FACE_HUB_TOKEN.",
        examples=["hf_TOKEN"],
    )

    # Times, in seconds
    max_affinity_wait_s: float = Field(
        default=60.0,
        ge=0,
        allow_inf_nan=False,
        validation_alias=either_name("MAX_AFFINITY_WAIT_SECONDS"),
        description="Jobs of the loaded base model go first, until another job has waited this long.",
        examples=["60"],
    )
    checkpoint_every_s: float = Field(
        default=120.0,
        gt=0,
        allow_inf_nan=False,
        validation_alias=either_name("CHECKPOINT_EVERY_SECONDS"),
        description="Time between checkpoints of a training, which resumes from the last one if its pod is lost.",
        examples=["120"],
    )

    _warnings: tuple[str, ...] = ()

    @classmethod
    def load(cls, *, storage: bool = True, database: bool = True) -> Settings:
        """Read and check all settings. `storage` and `database` say whether the command needs them.

        Warns on standard error of old names. Raises SettingsError with one line per problem: the variable, what is
        wrong with it (never its value), an example.
        """
        settings, problems = cls.examine(storage=storage, database=database)
        for warning in settings.warnings:
            sys.stderr.write(f"Warning: {warning}\n")
        if problems:
            # Not `from` the error of pydantic: its traceback would show the values.
            raise SettingsError("\n".join(problems))
        return settings

    @classmethod
    def examine(cls, *, storage: bool = True, database: bool = True) -> tuple[Settings, list[str]]:
        """Return the settings, and a line for each that is missing or malformed; malformed ones have their defaults."""
        problems = []
        env_file: str | None = ".env"
        try:
            settings, malformed = cls._read(env_file)
        except (OSError, UnicodeDecodeError) as error:
            reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"cannot be read ({error.strerror})"
            problems.append(f".env {reason}; save it as UTF-8, readable for user {os.getuid()}, or remove it")
            env_file = None
            settings, malformed = cls._read(env_file)
        warnings, conflicts = check_old_names(cls, env_file)
        settings._warnings = tuple(warnings)
        missing = {}
        if database and not settings.database_url.get_secret_value():
            missing["database_url"] = _problem("database_url", "is missing")
        if storage:
            missing |= settings._store_problems() | settings._models_store_problems()
        return settings, problems + conflicts + list((missing | malformed).values())

    @classmethod
    def _read(cls, env_file: str | None) -> tuple[Settings, dict[str, str]]:
        """Return the settings, and by field a line for each that is malformed and has its default."""
        source: dict[str, Any] = {"_env_file": env_file}
        try:
            return cls(**source), {}
        except ValidationError as error:
            malformed = _problems(error)
            return cls(**source, **{_keyword(name): _default(name) for name in malformed}), malformed

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is accepted now, but not by the next release."""
        return self._warnings

    @property
    def listen_url(self) -> SecretStr:
        """The address for LISTEN: DATABASE_LISTEN_URL, or else DATABASE_URL."""
        return self.database_listen_url or self.database_url

    @property
    def store_config(self) -> StoreConfig:
        """How to reach the object store. Raises SettingsError if a setting for it is missing."""
        _refuse(self._store_problems())
        return credentials.store_config(self)

    @property
    def models_store_config(self) -> StoreConfig:
        """How to reach the store of base models: `store_config` if no MODELS_S3_* is set. Raises SettingsError."""
        _refuse(self._models_store_problems())
        store = ModelsStore(self)
        return replace(credentials.store_config(store), setting_prefix="MODELS_S3" if store.is_own else "S3")

    @property
    def base_models_bucket(self) -> str:
        """The bucket of base models and upscalers, in the store of `models_store_config`."""
        return self.models_s3_bucket or self.bucket_models

    def _store_problems(self) -> dict[str, str]:
        """Return by field a line for each setting that is missing or unusable to reach the object store."""
        return _problems_of(self, {})

    def _models_store_problems(self) -> dict[str, str]:
        """Return the same for the store of base models."""
        store = ModelsStore(self)
        problems = _problems_of(store, store.names)
        if store.is_uploads:
            problems["models_s3_bucket"] = _problem("models_s3_bucket", "is refused: it is BUCKET_UPLOADS")
        return problems

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Clean what the environment and `.env` contain before it is merged: an empty value then counts as not set."""
        for source in (env_settings, dotenv_settings):
            assert isinstance(source, EnvSettingsSource)  # pydantic-settings types it as any source
            clean_source(source)
        return init_settings, env_settings, dotenv_settings

    @field_validator("*", mode="before")
    @classmethod
    def _text(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            check_text(value, spaces=info.field_name in WITH_SPACES)
        return value

    @field_validator(*LISTS, mode="before")
    @classmethod
    def _list(cls, value: Any, info: ValidationInfo) -> Any:
        return listed(value, info.field_name or "")

    @field_validator("database_url", "database_listen_url")
    @classmethod
    def _postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value:  # `examine` reports a missing one
            check_postgres_url(value.get_secret_value())
        return value

    @field_validator("s3_endpoint_url", "models_s3_endpoint_url", "supabase_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        check_http_url(value)
        return value.rstrip("/")


def env_example() -> str:
    """Return the text of `.env.example`: every setting with its description and an example."""
    lines = [
        "# Settings of the worker: copy this file to `.env`, or set them in the environment, which wins.",
        "# Settings behind a `#` are optional. Generated from worker/settings.py by `env_example`.",
    ]
    for name, setting in Settings.model_fields.items():
        if name in HEADINGS:
            lines += ["", f"# --- {HEADINGS[name]} ---"]
        lines += ["", f"# {setting.description}"]
        lines.append(f"{'' if name in NEEDED else '#'}{variable(name)}={example(setting)}")
    return "\n".join(lines) + "\n"


def variable(name: str) -> str:
    """Return the environment variable of a field, by its newest name."""
    return _aliases(name)[0]


def _aliases(name: str) -> list[str]:
    """Return every variable that a field is read from, in the order in which they are tried."""
    alias = Settings.model_fields[name].validation_alias
    if isinstance(alias, AliasChoices):
        return [choice for choice in alias.choices if isinstance(choice, str)]
    return [name.upper()]


def _keyword(name: str) -> str:
    """Return the keyword argument of a field: its alias, if it has one."""
    return name if Settings.model_fields[name].validation_alias is None else variable(name)


def _default(name: str) -> Any:
    return Settings.model_fields[name].get_default(call_default_factory=True)


def example(setting: FieldInfo) -> str:
    """Return an example value of the setting."""
    return str((setting.examples or [""])[0])


def _problem(name: str, phrase: str) -> str:
    """Return a line such as `S3_REGION is missing; for example S3_REGION=eu-central-1`."""
    return f"{variable(name)} {phrase}; for example {variable(name)}={example(Settings.model_fields[name])}"


def _problems_of(store: StoreSettings, names: Mapping[str, str]) -> dict[str, str]:
    """Return by field a line for each setting of a store that is wrong. `names` are those of fields with another."""
    missing = {names.get(name, name): phrase for name, phrase in credentials.missing(store).items()}
    unsupported = credentials.unsupported_keys(store).items()
    problems = {name: _problem(name, phrase) for name, phrase in missing.items()}
    return problems | {name: f"{variable(name)} {phrase}" for name, phrase in unsupported}


def _refuse(problems: dict[str, str]) -> None:
    if problems:
        raise SettingsError("\n".join(problems.values()))


def _problems(error: ValidationError) -> dict[str, str]:
    """Return by field one line for each setting that pydantic rejected."""
    fields = {alias.lower(): name for name in Settings.model_fields for alias in _aliases(name)}
    lines = {}
    for entry in error.errors(include_url=False, include_context=False, include_input=False):
        name = fields[str(entry["loc"][0]).lower()]
        ours = entry["type"] == "value_error"
        phrase = entry["msg"].removeprefix("Value error, ") if ours else f"is invalid: {entry['msg']}"
        lines[name] = _problem(name, phrase)
    return lines
