"""The settings of a run, and how they are read."""

from areal.config.loading import (
    dump_config,
    load_config,
    merged_settings,
    override_config,
    parse_config,
    parse_options,
    settings_on,
)
from areal.config.settings import STARTER, Config, LearnerConfig

__all__ = [
    "STARTER",
    "Config",
    "LearnerConfig",
    "dump_config",
    "load_config",
    "merged_settings",
    "override_config",
    "parse_config",
    "parse_options",
    "settings_on",
]
