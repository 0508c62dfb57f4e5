"""Validates objects against the schemas of Kubernetes and of the operators; an unknown field is an error."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

from tests.deploy.manifests import Object

OLDEST, NEWEST = "1.30", "1.37"
"""Versions of Kubernetes that the manifests are for. The oldest is the first with `sleep` before a container stops."""

MODELS = {
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
}
"""Modules with a model of each kind. They are large, and imported when they are needed."""

OURS = Path(__file__).with_name("operators.yaml")


class InvalidObject(Exception):
    """An object does not fit its schema."""


def validate(each: Object) -> None:
    """Validate one object.

    Raises:
        InvalidObject: It has a wrong, missing or unknown field, or there is no schema of its kind.
    """
    version = each["apiVersion"]
    try:
        if version in MODELS:
            _validate_model(each, importlib.import_module(MODELS[version]))
        elif f"{version}/{each['kind']}" in _ours():
            _validate_ours(each, f"{version}/{each['kind']}")
        else:
            for kubernetes in (OLDEST, NEWEST):
                kubernetes_validate.validate(each, kubernetes, strict=True)
    except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.ValidationError, ValueError) as error:
        raise InvalidObject(f"{each['kind']} {each['metadata']['name']}: {error}") from error


def _validate_model(each: Object, models: Any) -> None:
    """Parse with a model, which drops what it does not know, and compare."""
    parsed = getattr(models, each["kind"]).model_validate(each)
    if parsed.model_dump(mode="json", by_alias=True, exclude_unset=True) != each:
        raise InvalidObject(f"{each['kind']} {each['metadata']['name']} has an unknown field")


def _validate_ours(each: Object, name: str) -> None:
    if unknown := set(each) - {"apiVersion", "kind", "metadata", "spec"}:
        raise InvalidObject(f"{each['kind']} {each['metadata']['name']} has the unknown fields {unknown}")
    schema = {"$defs": _ours()["$defs"], **_ours()[name]}
    for error in Draft202012Validator(schema).iter_errors(each["spec"]):
        raise InvalidObject(f"{each['kind']} {each['metadata']['name']}: {error.json_path}: {error.message}")


@functools.cache
def _ours() -> dict[str, Any]:
    schemas = yaml.safe_load(OURS.read_text())
    for name, schema in schemas.items():
        if name != "$defs":
            Draft202012Validator.check_schema(schema)
    return schemas  # type: ignore[no-any-return]
