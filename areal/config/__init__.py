"""The settings of a run, and functions that read them."""

from areal.config.loading import (
    dump_config,
    load_config,
    merged_settings,
    override_config,
    parse_config,
    settings_on,
)
from areal.config.origins import Layer, dump_with_origins, merged
from areal.config.settings import STARTER, Config, LearnerConfig

__all__ = [
    "STARTER",
    "Config",
    "Layer",
    "LearnerConfig",
    "dump_config",
    "dump_with_origins",
    "load_config",
    "merged",
    "merged_settings",
    "override_config",
    "parse_config",
    "settings_on",
]
