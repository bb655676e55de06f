"""What does a guarded app's owner hold, whichever the framework?"""

from __future__ import annotations

import inspect
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from mlguard.app.drivers import adrive, drive
from mlguard.app.own_routes import OwnRoute, own_routes
from mlguard.app.running import Running
from mlguard.app.service import Service
from mlguard.auth import revocation
from mlguard.errors import InvalidSettings, Refused
from mlguard.guard import Refusal, RefusalBody, Steps
from mlguard.guard.limits import Declared, limiting, owed
from mlguard.logs import LOGGER
from mlguard.messages import Inference
from mlguard.routes.coverage import Coverage
from mlguard.routes.limit_options import Options, check_options
from mlguard.routes.placement import check_metrics_path, check_routes
from mlguard.routes.route import Route
from mlguard.routes.scopes import checked_scopes, demanding
from mlguard.routes.surroundings import Around
from mlguard.settings import MetricsSettings, Settings

App = TypeVar("App")
C = TypeVar("C", bound=Callable[[Inference], int])
F = TypeVar("F", bound=Callable[..., Any])
L = TypeVar("L", bound=Callable[[Any], Any])
W = TypeVar("W", bound=Callable[[Refusal], Mapping[str, Any] | bytes])


Source = str | os.PathLike[str] | Mapping[str, Any] | Settings
_instead: ContextVar[Source | None] = ContextVar("mlguard_settings_instead", default=None)


@contextmanager
def settings_instead(source: Source | None) -> Iterator[None]:
    """Have guards that are made meanwhile take these settings in place of those that apps name.

    For whoever looks at an app whose settings are not there yet; None leaves all as it is.
    """
    token = _instead.set(source)
    try:
        yield
    finally:
        _instead.reset(token)


class GuardedApp(Generic[App]):
    """The part of MLGuard that both adapters share.

    Args:
        app: The app; None to name it later with `init_app`.
        settings: A path, a mapping or Settings.

    Raises:
        InvalidSettings: Names each mistake; a model route that the app lacks is told at its start.
    """

    def __init__(
        self,
        app: App | None = None,
        settings: Source = "mlguard.toml",
    ) -> None:
        self._settings = settings
        self._service: Service | None = None
        self._refusal_body: RefusalBody | None = None
        if app is not None:
            self.init_app(app)

    def init_app(self, app: App) -> None:
        """Guard the app, whatever was added to it before and will be added later."""
        if self._service is not None:
            raise InvalidSettings("an MLGuard guards one app: make another for another app")
        self._app = app
        if (instead := _instead.get()) is not None:
            self._settings = instead
        self._service = self._install(app)
        self._service.guard.parts.refusal_body = self._refusal_body
        # At once, where it is known by now: servers of WSGI apps have no start to fail.
        check_metrics_path(self._service.settings, self.routes(), self.around())
        for route in own_routes(self._service):
            self._add(app, route)

    def look_at(self, app: App) -> None:
        """Know an app without guarding it, to tell its routes and its documents."""
        self._app = app

    def _install(self, app: App) -> Service:
        """Put the guard around and into the app.

        Raises:
            TypeError: It is an app of another framework.
        """
        raise NotImplementedError

    def _add(self, app: App, route: OwnRoute) -> None:
        """Have the app answer a route of the kit's own."""
        raise NotImplementedError

    def routes(self) -> Iterable[Route]:
        """List every route of the app, mounted apps included."""
        raise NotImplementedError

    def documents(self) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """Describe the app by OpenAPI documents, each with the prefix of its paths.

        None where its framework writes none.
        """
        return ()

    def around(self) -> Iterable[Around]:
        """List what answers by itself around the guard, or measures for itself inside it."""
        raise NotImplementedError

    def _request(self) -> Any:
        """Show the request that is being handled, as the framework does."""
        raise NotImplementedError

    def _method(self) -> str:
        """Tell its method."""
        raise NotImplementedError

    @property
    def _metrics_path(self) -> str:
        """Where metrics are read, or will be by default where nothing is guarded yet."""
        settings = self._service.settings.metrics if self._service else MetricsSettings()
        return settings.path

    @property
    def service(self) -> Service:
        """What runs beside the requests."""
        if self._service is None:
            raise InvalidSettings("no app is guarded yet: call init_app(app) first")
        return self._service

    def inference(self, model: str, inputs: Any = None, *, rows: Any = None) -> Running:
        """Guard one run of a model: `async with` in async code, `with` in sync code.

        Args:
            model: A model of the settings.
            inputs: The rows, or how many they are: a list, a DataFrame, a Series, an array or a
                tensor along its first axis (as many values as there are features are one row), a
                dict of columns that are equally long; one record: another dict, a pydantic model,
                a dataclass, a text, bytes, an image.
            rows: How many rows the inputs are, where that is not what they look like.

        Raises:
            UnknownModel: The settings have no such model.
            TypeError: Nothing that rows are seen in, and no `rows`.
            Refused: On entering, where the quota does not admit it; becomes the answer.
            BlockingCall: On entering with `with` where an event loop runs.
        """
        if inputs is None:
            inputs, rows = rows, None
        return Running(self.service.guard.inference(model, inputs, rows))

    def counts(self, unit: str) -> Callable[[C], C]:
        """Have a unit of `quotas.units` counted by a function of the call.

        It is asked twice: before the model runs, for what is reserved, and when it has answered,
        with `seconds` and `predictions` set, for what it took; the larger of both is charged.

        Example:
            @guard.counts("tokens")
            def tokens(call: Inference) -> int:
                return sum(len(text.split()) for text in call.inputs)

        Raises:
            InvalidSettings: No quota has that unit.
        """

        def register(count: C) -> C:
            self.service.guard.counts(unit, count)
            return count

        return register

    def identify(self, login: L) -> L:
        """Have a function of the app tell who calls: a session, a proxy's header, keys of its own.

        It is asked where a request brings no credential that the settings know. It is given the
        framework's request, and returns the caller's name, an `Identity`, or None for nobody; it
        may be async on FastAPI. Where it fails, the answer is a 503, and the log says why. Needs
        `auth.own_login = true`.

        Example:
            @guard.identify
            def who(request):
                return request.session.get("user")

        Raises:
            InvalidSettings: The settings do not say that the app has a login of its own.
        """
        if inspect.iscoroutinefunction(login):

            async def aask() -> Any:
                return await login(self._request())

            self.service.guard.identify(aask)
        else:
            self.service.guard.identify(lambda: login(self._request()))
        return login

    @property
    def from_trusted_proxy(self) -> bool:
        """Whether the request at hand comes straight from one of `service.trusted_proxies`.

        Only then may a header, as that of a client's certificate, say who calls.
        """
        return self.service.guard.is_from_trusted_proxy

    def refusal_body(
        self, function: W | None = None, /, *, media_type: str = "application/json"
    ) -> Any:
        """Have a function of the app write the bodies of refusals; status and headers stay ours.

        Where it fails, or returns neither a mapping nor bytes, the problem document is sent.

        Example:
            @guard.refusal_body
            def body(refusal: Refusal) -> dict[str, Any]:
                return {"error": {"message": refusal.title, "code": refusal.code}}

        Args:
            function: Takes a `Refusal`, returns a mapping, which becomes JSON, or bytes.
            media_type: Of the bodies.

        Raises:
            TypeError: The function is async, or none.
            ValueError: No media type.
        """

        def register(function: W) -> W:
            self._refusal_body = RefusalBody(function, media_type)
            if self._service is not None:
                self._service.guard.parts.refusal_body = self._refusal_body
            return function

        return register if function is None else register(function)

    def requires(self, *scopes: str) -> Callable[[F], F]:
        """Demand scopes of the callers of one route, beyond those of the settings.

        The decorator stands below the framework's own: `@app.post(...)`, then this one.

        Raises:
            ValueError: No scope, or one that no token can hold.
        """
        demanded = checked_scopes(scopes)
        return lambda handler: demanding(handler, demanded, self._demand)

    def limit(
        self,
        limit_value: str | Callable[..., str],
        *others: Any,
        cost: int | Callable[..., int] = 1,
        per_method: bool = False,
        methods: Iterable[str] | None = None,
        exempt_when: Callable[..., bool] | None = None,
        error_message: str | Callable[[], str] | None = None,
        **options: Any,
    ) -> Callable[[F], F]:
        """Limit how often each caller may ask one route: slowapi's words, and flask-limiter's.

        A decorator below the framework's own; on FastAPI also `Depends(guard.limit(...))`. Each
        route counts for itself, for the caller, on a public route for the client's network; all
        windows are charged or none. What the framework's limiter hands to functions is handed to
        them here: on FastAPI the request or the caller's name, where they take one.

        Args:
            limit_value: Rates like "5/minute;100/hour", or a function that tells them.
            *others: Nothing.
            cost: What a request costs, or a function that tells it.
            per_method: Whether each method counts for itself.
            methods: For which methods it holds; HEAD is a GET.
            exempt_when: A function that says when it does not hold.
            error_message: What a refused client is told, or a function, of nothing, that says it.
            **options: Nothing.

        Raises:
            TypeError: What those limiters have and this has not; the message says what to use
                instead.
            ValueError: Rates that cannot be parsed, or counted.
        """
        checked = check_options(
            limit_value,
            others,
            options,
            cost=cost,
            per_method=per_method,
            methods=methods,
            exempt_when=exempt_when,
            error_message=error_message,
        )
        return self._limitation(self._declare(checked))

    def _declare(self, options: Options) -> Declared:
        """Have the framework's limiter read what was given."""
        raise NotImplementedError

    def _limitation(self, declared: Declared) -> Callable[[F], F]:
        return lambda handler: limiting(handler, declared, self._charge, self._acharge)

    def _charge(self, declared: Declared, handler: object) -> None:
        if (steps := self._owed(declared, handler)) and (deny := drive(steps)):
            raise Refused(deny)

    async def _acharge(self, declared: Declared, handler: object) -> None:
        if (steps := self._owed(declared, handler)) and (deny := await adrive(steps)):
            raise Refused(deny)

    def _owed(self, declared: Declared, handler: object) -> Steps | None:
        guard = self._service.guard if self._service else None
        return owed(guard, declared, self._request, self._method, handler)

    def _demand(self, scopes: frozenset[str]) -> None:
        self.service.guard.demand(scopes)

    def revoke(
        self,
        *,
        token: str | None = None,
        jti: str | None = None,
        subject: str | None = None,
        issuer: str | None = None,
        before: float | None = None,
    ) -> None:
        """Refuse a token, or all tokens that a subject holds, from now on.

        Here at once, in this host's other workers within a second, on other hosts where the
        settings name a store; where `service.host_file` is false in this process only. Returns at
        once on an event loop; elsewhere it blocks until it is written down.
        `mlguard.auth.revocation` says what the arguments mean.

        Raises:
            ValueError: Not exactly one of token, jti and subject, or an issuer that is not known.
            RevocationsFull: There is no room for more.
            OSError: Outside of a worker: it cannot be kept.
            InvalidSettings: Authentication is off.
        """
        auth = self.service.settings.auth
        authenticator = self.service.guard.parts.authenticator
        if auth is None or authenticator is None:
            raise InvalidSettings("revoke needs [auth]", source=self.service.settings.source)
        self.service.revoke(
            revocation(
                auth,
                token=token,
                jti=jti,
                subject=subject,
                issuer=issuer,
                before=before,
                now=time.time(),
                rings=authenticator.rings,
            )
        )

    def feedback(self, call_id: str, truths: Any) -> bool:
        """Tell the truths of a call, one of each row that it asked, to measure the model by.

        Returns at once, on an event loop too: what becomes of them is counted in
        `mlguard_feedback_labels_total`.

        Args:
            call_id: What the answer's MLGuard-Call-ID said, or `id` of the handler's inference.
            truths: Classes or numbers; None for a row whose truth is not known. Of a call of one
                row, the truth itself.

        Returns:
            False where too many wait already.

        Raises:
            InvalidSettings: The settings have no [feedback].
            TypeError: The call's name is no text.
        """
        if self.service.feedback is None:
            raise InvalidSettings("feedback needs [feedback]", source=self.service.settings.source)
        self.service.start()  # outside of a worker, nothing would hand it on
        return self.service.feedback.label(call_id, truths)

    @property
    def started(self) -> bool:
        """Whether this process has started what runs beside the requests."""
        return self.service.started

    def start(self) -> None:
        """Check the settings against the app, and start what runs beside the requests.

        Raises:
            InvalidSettings: A model's route is not there.
        """
        self.check()
        if self.service.guard.parts.observes:
            LOGGER.warning("service.mode is observe: nothing is refused, only counted and told")
        coverage = Coverage(self.service.settings, self.routes(), self.around())
        for line in coverage.remarks():
            LOGGER.warning("%s", line)
        if LOGGER.isEnabledFor(logging.DEBUG):
            for line in coverage.lines():
                LOGGER.debug("%s", line)
        self.service.start()

    def check(self) -> None:
        """Hold the settings against the app's routes.

        Raises:
            InvalidSettings: A model's route is not there.
        """
        routes = list(self.routes())
        guard = self.service.guard
        auth = self.service.settings.auth
        if auth and auth.own_login and guard.parts.login is None:
            raise InvalidSettings(
                "auth.own_login: no function tells who is logged in; give one to guard.identify",
                source=self.service.settings.source,
            )
        check_routes(self.service.settings, routes, guard.parts.counting, self.around())
        for route in routes:
            for text in route.missed:
                said = "guard.limit(%r) does not hold on %s: put it below the route's decorator"
                LOGGER.warning(said, text, route.template)


def check_app(app: object, names: Iterable[str], framework: str) -> None:
    """Find out whether an app is of a framework, by what the guard needs of it.

    Raises:
        TypeError: It is not.
    """
    if all(hasattr(app, name) for name in names):
        return
    kind = f"{type(app).__module__}.{type(app).__qualname__}"
    hint = "give MLGuard the app itself, not what is put around it"
    if type(app).__module__.partition(".")[0] in ("fastapi", "flask", "starlette"):
        hint = f"use {'mlguard_flask' if framework == 'FastAPI' else 'mlguard_fastapi'}"
    raise TypeError(f"this MLGuard guards {framework} apps, and this is a {kind}: {hint}")


def guarded_app_of(app: Any) -> GuardedApp[Any] | None:
    """Find the guard of a WSGI app, under its middleware, which holds the next one as `app`.

    What dispatches beside the app is not passed: it would run before anybody decides.
    """
    while app is not None and not hasattr(app, "mounts"):
        extensions = getattr(getattr(app, "__self__", app), "extensions", None)
        front = extensions.get("mlguard") if isinstance(extensions, Mapping) else None
        if isinstance(front, GuardedApp):
            return front
        app = getattr(app, "app", None)
    return None
