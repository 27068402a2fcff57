"""What the operator can set: `Settings`, and where each value comes from.

Knows our flags, our environment variables, our own file and kube-proxy's `KubeProxyConfiguration`;
reads neither environment nor disk: `load` is handed both. `settings` holds the values and their
meaning, `values` reads one value from text, `files` reads the two kinds of file by the YAML of
`yaml_text`, and `load` puts them together: flag before environment variable before file before
default, each field by itself.
"""

from __future__ import annotations

from ipvsproxy.config.load import Resolved, Source, effective, load
from ipvsproxy.config.settings import (
    DetectLocalMode,
    IptablesBackend,
    LogFormat,
    NodePortAddresses,
    NoLocalEndpoints,
    Settings,
    WatchNodes,
)
from ipvsproxy.config.values import ConfigurationError

__all__ = [
    "ConfigurationError",
    "DetectLocalMode",
    "IptablesBackend",
    "LogFormat",
    "NoLocalEndpoints",
    "NodePortAddresses",
    "Resolved",
    "Settings",
    "Source",
    "WatchNodes",
    "effective",
    "load",
]
