"""Every setting of the worker, read once from the environment and `.env`, checked, and passed on as values.

Names are flat (`DATABASE_URL`, not `LIKENESS_DATABASE_URL`), because they are what Supabase and pod hosts
call them. `.env.example` is made from this class by `env_example`.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

import platformdirs
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker.errors import SettingsError
from worker.storage.object_store import StoreConfig

LogFormat = Literal["auto", "console", "json"]
Bucket = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,62}$")]


class Settings(BaseSettings):
    """Use `Settings.load()`: it refuses what is missing or malformed. The secrets stay out of `repr`."""

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
        "On Supabase, take the session pooler (port 5432).",
        examples=["postgresql://likeness_pod:PASSWORD@db.example.com:5432/postgres"],
    )
    database_listen_url: SecretStr | None = Field(
        default=None,
        description="A connection that keeps sessions, for a DATABASE_URL that is a transaction-mode pooler "
        "(port 6543).",
        examples=["postgresql://likeness_pod:PASSWORD@db.example.com:5432/postgres"],
    )

    # The object store: S3 access keys
    s3_endpoint_url: str | None = Field(
        default=None,
        description="Any S3. Supabase: Project Settings, Storage, S3 connection.",
        examples=["https://PROJECT_REF.storage.supabase.co/storage/v1/s3"],
    )
    s3_region: str | None = Field(
        default=None,
        description="The store's region; Supabase refuses every request signed for another.",
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
        description="The project's address, also read from NEXT_PUBLIC_SUPABASE_URL. Needs S3_REGION too.",
        examples=["https://PROJECT_REF.supabase.co"],
    )
    supabase_anon_key: SecretStr | None = Field(
        default=None, description="The legacy anon key, a JWT.", examples=["ANON_KEY"]
    )
    supabase_service_role_key: SecretStr | None = Field(
        default=None, description="The legacy service_role key, a JWT.", examples=["SERVICE_ROLE_KEY"]
    )

    # Buckets
    bucket_uploads: Bucket = Field(default="uploads", description="Photos and pictures.", examples=["uploads"])
    bucket_models: Bucket = Field(
        default="model_artifacts", description="LoRAs and base models.", examples=["model_artifacts"]
    )

    # This pod
    models_dir: Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("likeness") / "models",
        description="Where base models lie. The default is in the user's cache folder.",
        examples=["/workspace/models"],
    )
    models_max_gb: float | None = Field(
        default=None,
        gt=0,
        description="How large MODELS_DIR may be: for a model that comes, those used longest ago are removed.",
        examples=["200"],
    )
    work_dir: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()) / f"likeness-{os.getuid()}",
        description="Where personal files lie while they are used: a local disk that no other machine shares.",
        examples=["/local/likeness"],
    )
    worker_kinds: Annotated[frozenset[str], NoDecode] = Field(
        default=frozenset(),
        description="Kinds of jobs this pod takes, separated by commas. The default is all it can do.",
        examples=["training,generation"],
    )
    worker_name: str = Field(
        default_factory=socket.gethostname,
        min_length=1,
        max_length=100,
        description="What `worker status` calls this pod. The default is the host's name.",
        examples=["pod-1"],
    )
    log_format: LogFormat = Field(
        default="auto",
        description="console, json, or auto: console on a terminal, else json.",
        examples=["auto"],
    )

    # Commands alone
    hf_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        description="For `worker models pull` alone: a read token of an account that accepted a gated base's terms. "
        "Also read from HUGGING_FACE_HUB_TOKEN.",
        examples=["hf_TOKEN"],
    )

    # Times, in seconds
    max_affinity_wait_s: float = Field(
        default=60.0,
        ge=0,
        allow_inf_nan=False,
        validation_alias="MAX_AFFINITY_WAIT",
        description="A job that has waited longer goes before jobs of the base model that is loaded.",
        examples=["60"],
    )
    checkpoint_every_s: float = Field(
        default=120.0,
        gt=0,
        allow_inf_nan=False,
        validation_alias="CHECKPOINT_EVERY",
        description="How much of a training a lost pod can cost.",
        examples=["120"],
    )

    @classmethod
    def load(cls, *, storage: bool = True, database: bool = True) -> Settings:
        """Read and check everything. Commands that need no storage or no database say so.

        Raises SettingsError with one line a problem: the variable, what is wrong with it (never its value),
        an example.
        """
        settings, problems = cls.examine(storage=storage, database=database)
        if problems:
            # Not `from` what pydantic raised: its traceback would show the values.
            raise SettingsError("\n".join(problems))
        return settings

    @classmethod
    def examine(cls, *, storage: bool = True, database: bool = True) -> tuple[Settings, list[str]]:
        """The settings, and a line for each that is missing or malformed; what is malformed has its default."""
        unread = []
        try:
            settings, malformed = cls._read(".env")
        except (OSError, UnicodeDecodeError) as error:
            why = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"cannot be read ({error.strerror})"
            unread = [f".env {why}: save it as UTF-8, readable for user {os.getuid()}, or take it out of this folder"]
            settings, malformed = cls._read(None)
        missing = {}
        if database and not settings.database_url.get_secret_value():
            missing["database_url"] = _problem("database_url", "is missing")
        if storage:
            missing |= settings._store_problems()
        return settings, unread + list((missing | malformed).values())

    @classmethod
    def _read(cls, env_file: str | None) -> tuple[Settings, dict[str, str]]:
        """The settings, and by field a line for each that is malformed, and has its default."""
        source: dict[str, Any] = {"_env_file": env_file}
        try:
            return cls(**source), {}
        except ValidationError as error:
            malformed = _problems(error)
            return cls(**source, **{_keyword(name): _default(name) for name in malformed}), malformed

    @property
    def listen_url(self) -> SecretStr:
        """Where to LISTEN: DATABASE_LISTEN_URL, else DATABASE_URL."""
        return self.database_listen_url or self.database_url

    @property
    def store_config(self) -> StoreConfig:
        """How to reach the object store. Raises SettingsError when something for that is missing."""
        problems = self._store_problems()
        if problems:
            raise SettingsError("\n".join(problems.values()))
        # Servers that have no regions take the one that every tool sends.
        address, region = self._store_address() or "", self.s3_region or "us-east-1"
        if self._with_legacy_keys():
            return StoreConfig(
                endpoint_url=address,
                region=region,
                access_key_id=_project_ref(self.supabase_url) or "",
                secret_access_key=_plain(self.supabase_anon_key),
                session_token=_plain(self.supabase_service_role_key),
            )
        return StoreConfig(
            endpoint_url=address,
            region=region,
            access_key_id=self.s3_access_key_id or "",
            secret_access_key=_plain(self.s3_secret_access_key),
        )

    def _store_address(self) -> str | None:
        """The S3 endpoint: as given, else the Supabase project's own."""
        if self.s3_endpoint_url or self.supabase_url is None:
            return self.s3_endpoint_url
        ref = _project_ref(self.supabase_url)
        # Supabase's storage host takes large files faster than the project's address does.
        origin = f"https://{ref}.storage.supabase.co" if ref else self.supabase_url
        return f"{origin}/storage/v1/s3"

    def _with_legacy_keys(self) -> bool:
        """Whether to sign in with Supabase's JWTs. S3 access keys go first; other servers know no JWTs."""
        own_keys = self.s3_access_key_id or self.s3_secret_access_key
        return not own_keys and _project_ref(self.supabase_url) is not None

    def _store_problems(self) -> dict[str, str]:
        """By field, what is missing to reach the object store, a line each."""
        problems = {}
        address = self._store_address()
        if address is None:
            problems["s3_endpoint_url"] = _problem("s3_endpoint_url", "is missing")
        elif _is_supabase(address) and self.s3_region is None:
            problems["s3_region"] = _problem("s3_region", "is missing; it must be the Supabase project's own")
        if self._with_legacy_keys():
            return problems | self._legacy_key_problems()
        needed = ("s3_access_key_id", "s3_secret_access_key")
        return problems | {name: _problem(name, "is missing") for name in needed if getattr(self, name) is None}

    def _legacy_key_problems(self) -> dict[str, str]:
        problems = {}
        for name in ("supabase_anon_key", "supabase_service_role_key"):
            key = _plain(getattr(self, name))
            if not key:
                problems[name] = _problem(name, "is missing")
            elif not re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", key):
                problems[name] = (
                    f"{variable(name)} is no JWT, and S3 takes no other: make S3 access keys in Supabase "
                    "(Project Settings, Storage); for example S3_ACCESS_KEY_ID=ACCESS_KEY_ID"
                )
        return problems

    @field_validator("database_url", "database_listen_url")
    @classmethod
    def _postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value:  # its absence is for `load` to tell
            _check_postgres_url(value.get_secret_value())
        return value

    @field_validator("s3_endpoint_url", "supabase_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = _split(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("is no http or https address")
        _check_host(parts.hostname)
        if parts.username or parts.password or parts.query:
            raise ValueError("must hold no credentials and no query")
        return value.rstrip("/")

    @field_validator("models_dir", "work_dir")
    @classmethod
    def _home(cls, value: Path) -> Path:
        return value.expanduser()

    @field_validator("worker_kinds", mode="before")
    @classmethod
    def _kinds(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        kinds = frozenset(kind.strip() for kind in value.split(",") if kind.strip())
        if not all(re.fullmatch(r"[a-z][a-z0-9_]*", kind) for kind in kinds):
            raise ValueError("is no list of job kinds separated by commas")
        return kinds


HEADINGS = {
    "database_url": "The database",
    "s3_endpoint_url": "The object store, with S3 access keys",
    "supabase_url": "The object store, with Supabase's legacy keys instead",
    "bucket_uploads": "Buckets",
    "models_dir": "This pod",
    "hf_token": "For commands alone",
    "max_affinity_wait_s": "Times, in seconds",
}
"""The first field of each group, and what the group is called."""

NEEDED = {
    "database_url": "needed",
    "s3_endpoint_url": "needed",
    "s3_region": "needed on Supabase, else `us-east-1`",
    "s3_access_key_id": "needed",
    "s3_secret_access_key": "needed",
}
"""Fields that an installation with S3 access keys on Supabase cannot do without, and how far others can."""


def env_example() -> str:
    """The text of `.env.example`: every setting with its description and an example."""
    lines = [
        "# Settings of the worker: copy this file to `.env`, or set them in the environment, which wins.",
        "# What stands behind a `#` is optional. Made from worker/settings.py by `env_example`.",
    ]
    for name, setting in Settings.model_fields.items():
        if name in HEADINGS:
            lines += ["", f"# --- {HEADINGS[name]} ---"]
        lines += ["", f"# {setting.description}"]
        lines.append(f"{'' if name in NEEDED else '#'}{variable(name)}={example(setting)}")
    return "\n".join(lines) + "\n"


def variable(name: str) -> str:
    """The environment variable of a field."""
    alias = Settings.model_fields[name].validation_alias
    if isinstance(alias, AliasChoices):
        alias = alias.choices[0]
    return alias if isinstance(alias, str) else name.upper()


def _keyword(name: str) -> str:
    """What a field is called where the class is called: by its alias, if it has one."""
    return name if Settings.model_fields[name].validation_alias is None else variable(name)


def _default(name: str) -> Any:
    return Settings.model_fields[name].get_default(call_default_factory=True)


def example(setting: FieldInfo) -> str:
    """What a value of the setting looks like."""
    return str((setting.examples or [""])[0])


def _problem(name: str, what: str) -> str:
    return f"{variable(name)} {what}; for example {variable(name)}={example(Settings.model_fields[name])}"


def _problems(error: ValidationError) -> dict[str, str]:
    """By field, one line for each that pydantic refused."""
    fields = {variable(name).lower(): name for name in Settings.model_fields}
    fields |= {"next_public_supabase_url": "supabase_url", "hugging_face_hub_token": "hf_token"}
    lines = {}
    for entry in error.errors(include_url=False, include_context=False, include_input=False):
        name = fields[str(entry["loc"][0]).lower()]
        ours = entry["type"] == "value_error"
        what = entry["msg"].removeprefix("Value error, ") if ours else f"is refused: {entry['msg']}"
        lines[name] = _problem(name, what)
    return lines


def _check_postgres_url(value: str) -> None:
    if "[YOUR-PASSWORD]" in value:
        raise ValueError("still holds [YOUR-PASSWORD], brackets and all, in the password's place")
    parts = _split(value)
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError("is no Postgres address, which starts with postgresql://")
    read = _read_as_meant(value, parts)
    if read is None:
        raise ValueError(
            "cannot be read: characters like % @ : / # in a password must be percent-encoded, "
            "and only options of libpq may follow the ?"
        )
    for host in str(read.get("host") or "").split(","):
        if not host.startswith(("/", "@")):  # folders of sockets
            _check_host(host)


def _read_as_meant(value: str, parts: SplitResult) -> dict[str, Any] | None:
    """An address as libpq reads it; None where it cannot, or takes part of a password for something else."""
    from psycopg import ProgrammingError  # here: most that reads settings for no database needs no libpq
    from psycopg.conninfo import conninfo_to_dict

    # It ends the password at the first @ or /, and its errors tell what it found behind. After a ? that ends an address
    # with its host, options may hold an @.
    credentials_end = "@" in parts.netloc
    before_options = value.partition("?")[0] if credentials_end or not parts.netloc else value
    if before_options.count("@") > credentials_end:
        return None
    try:
        # Several hosts are for libpq alone to read.
        _ = "," in parts.netloc or parts.port
        return conninfo_to_dict(value)
    except (ValueError, ProgrammingError):
        return None


def _check_host(host: str) -> None:
    try:
        host.encode("idna")  # as a resolver will: no label is empty or has more than 63 letters
    except UnicodeError:
        raise ValueError("names a host that cannot exist") from None


def _split(value: str) -> SplitResult:
    try:
        return urlsplit(value)
    except ValueError:
        # Not `from error`: its text repeats the address, password and all.
        raise ValueError("cannot be read as an address") from None


def _is_supabase(address: str) -> bool:
    return (urlsplit(address).hostname or "").endswith(".supabase.co")


def _project_ref(address: str | None) -> str | None:
    """`abc` of https://abc.supabase.co; None for any other server."""
    if address is None or not _is_supabase(address):
        return None
    return (urlsplit(address).hostname or "").split(".")[0]


def _plain(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()
