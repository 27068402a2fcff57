"""What the operator can set: `Settings`, and where each value comes from.

Knows our flags, our environment variables, our own file and kube-proxy's `KubeProxyConfiguration`;
reads neither environment nor disk: `load` is handed both. `settings` holds the values and their
meaning, `values` reads one value from text, `fields` says how each field is read and called.
`files` reads the two kinds of file by the YAML of `yaml_text`, `kube_proxy` knows what kube-proxy's
means, `contents` is what they give. `load` puts them together: flag before environment variable
before file before default, each field by itself. `writing` writes settings as a file, `changes` has
what a running agent takes of new ones.

`files` and `writing` are asked for by name, and imported where there is a file: YAML is twenty
modules that a start without one does not need.
"""

from __future__ import annotations

from ipvsproxy.config.changes import Change, taken
from ipvsproxy.config.fields import name_in_file
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
    "Change",
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
    "name_in_file",
    "taken",
]
