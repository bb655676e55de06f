"""Whose account does the operator mean?"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from mlguard.auth import api_keys, logins
from mlguard.cli.token.options import add_issuer, add_settings, issuer_named
from mlguard.clients import Proxies
from mlguard.errors import InvalidSettings, MLGuardError
from mlguard.ledger import Limit
from mlguard.quotas import Rules
from mlguard.quotas.quota import accounts
from mlguard.settings import Auth, Issuer, Quotas, Settings, load, nearest


@dataclass(frozen=True, slots=True)
class Whose:
    """An account, and what the settings say of it.

    Attributes:
        settings: Of the service.
        quotas: Their part that is about quotas.
        issuer: Who vouches for the caller; "" where a client's network pays.
        tenant: The caller's, "" without one.
        principal: The caller or the client's network, "" where the tenant's account is meant.
        plan: The caller's plan, None where the operator names none.
    """

    settings: Settings
    quotas: Quotas
    issuer: str
    tenant: str
    principal: str
    plan: str | None

    @property
    def tag(self) -> str:
        """What the account shares with others that one debit touches."""
        return accounts(self._key).tag

    @property
    def account(self) -> str:
        """The account's name in a store."""
        found = accounts(self._key)
        return found.own if self.principal else found.tenant

    @property
    def said(self) -> str:
        """Who that is, in words."""
        who = repr(self.principal) if self.principal else "all callers together"
        tenant = f" of the tenant {self.tenant!r}" if self.tenant else ""
        return f"{who}{tenant}{f' of {self.issuer}' if self.issuer else ''}"

    @property
    def is_plan_open(self) -> bool:
        """Whether it depends on a plan that is not known what holds for the account."""
        return bool(self.issuer and self.principal and self.quotas.plans) and self.plan is None

    def limits(self, model: str | None, plan: str | None = None) -> tuple[Limit, ...]:
        """List what the settings say of the account where a model is asked, or None."""
        terms = Rules(self.quotas).terms(plan or self.plan, model)
        return terms.own if self.principal else terms.tenant

    @property
    def _key(self) -> tuple[str, str, str]:
        return self.issuer, self.tenant, self.principal


def add_whose(parser: Any) -> None:
    """Add what says whose account is meant to a parser."""
    parser.add_argument(
        "principal",
        nargs="?",
        metavar="PRINCIPAL",
        help="the caller's subject; where authentication is off, the client's address; "
        "nothing where --tenant alone is meant",
    )
    parser.add_argument("--tenant", help="the caller's, or alone: what all its callers share")
    parser.add_argument(
        "--client",
        action="store_true",
        help="PRINCIPAL is a client's address, as on public routes",
    )
    parser.add_argument("--plan", help="the caller's plan, which only its token tells")
    add_issuer(parser, "needed where there are several")
    add_settings(parser)


def whose(options: argparse.Namespace) -> Whose:
    """Find out whose account is meant.

    Raises:
        MLGuardError: The settings have mistakes, or what the shell says fits them not.
    """
    settings = load(options.settings, named=())  # no secret of the service is needed
    quotas = settings.quotas
    if quotas is None:
        raise InvalidSettings("nothing is counted without [quotas]", source=settings.source)
    if options.plan is not None and options.plan not in quotas.plans:
        raise MLGuardError(f"no plan is {options.plan!r}; {nearest(options.plan, quotas.plans)}")
    if settings.auth is None or options.client:
        network = _network(options)
        return Whose(settings, quotas, "", "", network, None)
    if not options.principal and not options.tenant:
        raise MLGuardError("say whose: PRINCIPAL, the subject of a caller, or --tenant")
    name, tenant = _voucher(settings.auth, options.issuer, options.tenant)
    if not options.principal and quotas.tenant is None:
        raise MLGuardError("tenants share nothing without [quotas.tenant]: name a PRINCIPAL")
    return Whose(settings, quotas, name, tenant, options.principal or "", options.plan)


def _network(options: argparse.Namespace) -> str:
    """Name a client as the service does: an IPv6 address by its /64."""
    for name in ("tenant", "issuer", "plan"):
        if getattr(options, name) is not None:
            raise MLGuardError(f"--{name} is of callers with a token, and a client has none")
    if not options.principal:
        raise MLGuardError("say whose: PRINCIPAL, the address of a client")
    network = Proxies().client(options.principal.removesuffix("/64"), ())
    if not network:
        raise MLGuardError(
            f"PRINCIPAL must be the address of a client, which pays without a token; "
            f"{options.principal!r} is none"
        )
    return network


def _voucher(auth: Auth, name: str | None, tenant: str | None) -> tuple[str, str]:
    """Tell who vouches for the caller, and the caller's tenant."""
    others = [api_keys.VOUCHER] if auth.api_keys else []
    others += [logins.VOUCHER] if auth.own_login else []
    if name is None and len(auth.issuers) + len(others) > 1:
        known = ", ".join([*(i.name or i.issuer for i in auth.issuers), *others])
        raise MLGuardError(f"say whose caller with --issuer: {known}")
    if name in others or (not auth.issuers and name is None):
        return name or others[0], tenant or ""
    issuer = auth.issuers[0] if name is None else issuer_named(auth, name)
    return issuer.issuer, _tenant(issuer, tenant)


def _tenant(issuer: Issuer, tenant: str | None) -> str:
    if issuer.tenant_claim and not tenant:
        raise MLGuardError(
            f"say --tenant: tokens of {issuer.issuer} name one in {issuer.tenant_claim!r}, "
            "and callers of two tenants are two"
        )
    if tenant and not issuer.tenant_claim:
        raise MLGuardError(
            f"--tenant does not fit: no `tenant_claim` tells tenants of {issuer.issuer} apart"
        )
    return tenant or ""
