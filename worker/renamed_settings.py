"""Settings with a new name. The old name is read for one release, with a warning."""

from __future__ import annotations

from pydantic import AliasChoices
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource

from worker.setting_values import clean_source

OLD_NAMES = {
    "MAX_AFFINITY_WAIT_SECONDS": "MAX_AFFINITY_WAIT",
    "CHECKPOINT_EVERY_SECONDS": "CHECKPOINT_EVERY",
}


def either_name(name: str) -> AliasChoices:
    """Return the names by which a renamed setting is read."""
    return AliasChoices(name, OLD_NAMES[name])


def check_old_names(settings: type[BaseSettings], env_file: str | None) -> tuple[list[str], list[str]]:
    """Return a warning for each old name in use, and a problem for each whose new name has another value."""
    sources = DotEnvSettingsSource(settings, env_file=env_file), EnvSettingsSource(settings)
    for source in sources:
        clean_source(source)
    given = {name: value for source in sources for name, value in source.env_vars.items()}  # by names in lower case
    warnings, problems = [], []
    for name, old_name in OLD_NAMES.items():
        old_value, value = given.get(old_name.lower()), given.get(name.lower())
        if old_value and value and old_value != value:
            problems.append(f"{old_name} and {name} have different values; remove {old_name}, which is the old name")
        elif old_value:
            warnings.append(f"{old_name} was renamed {name}; the next release does not read the old name")
    return warnings, problems
