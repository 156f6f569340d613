"""From the settings to the limits."""

from __future__ import annotations

import pytest

from hive.permissions import Role
from hive.rate_limits import MULTIPLIERS, PER_MINUTE, Charge, Kind, default_policies, share_of
from server.bootstrap.rate_limits import make_rate_limits
from server.rate_limits import RateLimits, Unlimited
from server.settings import Settings, SettingsError, load_settings
from tests.contract.running import Credentials


def policies_of(**settings: str) -> dict[str, int]:
    """The limit of each policy under these settings."""
    given = load_settings({f"AGENTZERO_{name}": value for name, value in settings.items()})
    limits = make_rate_limits(given, None)
    assert isinstance(limits, RateLimits)
    return {name: policy.limit for name, policy in limits.policies.by_name.items()}


def test_each_setting_is_the_limit_of_its_name() -> None:
    """All of them, and the defaults are those of the design."""
    assert policies_of() == dict(PER_MINUTE)
    for number, name in enumerate(PER_MINUTE, start=1):
        setting = f"RATE_LIMIT_{name.upper().replace('-', '_')}"
        assert policies_of(**{setting: str(number)}) == {**PER_MINUTE, name: number}


@pytest.mark.parametrize("value", ["0", "-1", "1000001", "many"])
def test_a_limit_that_is_none_is_refused(value: str) -> None:
    """The variable is named."""
    with pytest.raises(SettingsError, match="AGENTZERO_RATE_LIMIT_HEAVY"):
        load_settings({"AGENTZERO_RATE_LIMIT_HEAVY": value})


async def test_switched_off_nothing_is_charged() -> None:
    """And whoever authenticates is whoever did."""
    limits = make_rate_limits(Settings(rate_limit_enabled=False), None)
    assert isinstance(limits, Unlimited)
    authenticate = Credentials().authenticate
    assert limits.guard(authenticate) == authenticate


def test_every_role_has_a_multiplier_and_nobody_is_left_with_nothing() -> None:
    """Half of one is one; so is a thousandth, where nodes share."""
    assert MULTIPLIERS.keys() == set(Role)
    policies = default_policies({"heavy": 1})
    assert policies["heavy"].times(MULTIPLIERS[Role.VIEWER]).limit == 1
    assert policies["agent"].kind is Kind.BUCKET
    (charge,) = share_of([Charge(policies["read"], "read:a")], 1_000)
    assert charge.policy.limit == 1
