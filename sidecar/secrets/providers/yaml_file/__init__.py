"""Secrets in one YAML file, for development: `document` reads it, `editing` changes it, `store` keeps it on disk."""

from sidecar.secrets.providers.yaml_file.provider import YamlFile

__all__ = ["YamlFile"]
