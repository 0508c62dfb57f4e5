"""Keys and tenants as the API describes them."""

from __future__ import annotations

from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from services.api.schemas.pages import Page
from services.api.schemas.submissions import Text, Whole
from shared.domain.scopes import Scope

MAX_LIFETIME_S = 10 * 365 * 86_400
MAX_OVERLAP_S = 30 * 86_400
MAX_LIMIT = 2**31 - 1
"""Largest limit of a tenant: a column holds it."""


def _named(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "Input should not be blank")
    return text


KeyName = Annotated[Text, Field(max_length=80), AfterValidator(_named)]
TenantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Limit = Annotated[Whole, Field(ge=1, le=MAX_LIMIT)]


class ApiKey(BaseModel):
    """A key, without the part of it that is secret."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID = Field(description="Id of the key.")
    name: str = Field(description="Name of the key, for people.")
    prefix: str = Field(description="Begin of the key after `trim_`, by which a person recognises it.")
    scopes: list[Scope] = Field(description="What the key allows.")
    created_at: AwareDatetime = Field(description="Time at which it was created.")
    expires_at: AwareDatetime | None = Field(description="Time from which it is refused; null if it does not expire.")
    last_used_at: AwareDatetime | None = Field(
        description="Time of its last use, exact to about a minute; null if it was never used."
    )
    revoked_at: AwareDatetime | None = Field(description="Time at which it was revoked; null if it was not.")
    replaces: UUID | None = Field(description="Id of the key whose rotation made it; null if none did.")


class NewApiKey(ApiKey):
    """A key that was just created. Only this response has the key itself."""

    key: str = Field(description="The key. It cannot be read again.")


class KeyPage(Page[ApiKey]):
    """One page of keys."""


class KeyRequest(BaseModel):
    """Key to create."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: KeyName = Field(description="Name of the key, for people.")
    scopes: set[Scope] = Field(min_length=1, description="What the key allows; no scope includes another one.")
    expires_in_s: float | None = Field(
        None, gt=0, le=MAX_LIFETIME_S, description="Seconds until the key expires; null if it does not."
    )


class RotationRequest(BaseModel):
    """Rotation of a key: a new key takes its place."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    overlap_s: float = Field(
        86_400, ge=0, le=MAX_OVERLAP_S, description="Seconds for which the old key remains valid beside the new one."
    )


class _Limits(BaseModel):
    requests_per_minute: Limit | None = Field(
        None, description="Maximum number of requests in a minute; null is the deployment's limit, if it has one."
    )
    max_queued: Limit | None = Field(
        None, description="Maximum number of queued problems; null is the deployment's limit, if it has one."
    )
    max_running: Limit | None = Field(
        None,
        description="Maximum number of problems that run at the same time; null is the deployment's limit, if it has "
        "one.",
    )


class Tenant(_Limits):
    """An account, to which problems, batches and keys belong."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID = Field(description="Id of the tenant.")
    name: str = Field(description="Name of the tenant.")
    created_at: AwareDatetime = Field(description="Time at which it was created.")


class TenantPage(Page[Tenant]):
    """One page of tenants."""


class TenantRequest(_Limits):
    """Tenant to create."""

    model_config = ConfigDict(extra="forbid")

    name: TenantName = Field(description="Name of the tenant; unique.")


class TenantChange(_Limits):
    """Changes to a tenant. Fields that are omitted stay as they are."""

    model_config = ConfigDict(extra="forbid")

    name: TenantName | None = Field(None, description="New name of the tenant; unique.")

    @model_validator(mode="after")
    def _keep_name(self) -> Self:
        if "name" in self.model_fields_set and self.name is None:
            raise PydanticCustomError("no_name", "A tenant needs a name; omit `name` to keep it")
        return self

    @property
    def changes(self) -> dict[str, Any]:
        """The fields that the request names."""
        return self.model_dump(exclude_unset=True)
