"""Everything below deploy/ renders, and fits the schemas of Kubernetes and of the operators."""

from __future__ import annotations

import copy

import pytest

from tests.deploy.manifests import DEPLOY, TARGETS, Object, parse, render
from tests.deploy.schemas import InvalidObject, validate


@pytest.mark.parametrize("target", TARGETS)
def test_every_object_fits_its_schema(target: str) -> None:
    for each in render(target):
        validate(each)


def test_the_namespace_fits_its_schema() -> None:
    [namespace] = parse((DEPLOY / "namespace.yaml").read_text())
    validate(namespace)


def test_every_file_below_deploy_is_part_of_what_is_rendered() -> None:
    listed = {DEPLOY / "namespace.yaml"}
    for path in DEPLOY.rglob("kustomization.yaml"):
        listed.add(path)
        [content] = parse(path.read_text())
        named = [*content.get("resources", ()), *(patch.get("path") for patch in content.get("patches", ()))]
        named += [file for each in content.get("configMapGenerator", ()) for file in each.get("envs", ())]
        listed |= {(path.parent / name).resolve() for name in named if name}
    assert {path for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".env")} - listed == set()


def test_an_unknown_field_is_an_error_in_every_kind() -> None:
    kinds: dict[str, Object] = {each["kind"]: each for target in TARGETS for each in render(target)}
    assert len(kinds) > 15
    for each in kinds.values():
        wrong = copy.deepcopy(dict(each))
        wrong.get("spec", wrong)["unknown"] = 1
        with pytest.raises(InvalidObject):
            validate(wrong)
