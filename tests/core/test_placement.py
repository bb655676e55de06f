"""What do the settings say of a route, and do they hold of the app?"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from mlguard.errors import InvalidSettings
from mlguard.routes.coverage import Coverage
from mlguard.routes.placement import Placement, Places, check_routes
from mlguard.routes.route import Route
from mlguard.routes.surroundings import Around, answering, layers_to
from mlguard.settings import Settings, load

AUTH = {
    "issuer": "https://login.example.com/",
    "audience": "iris-api",
    "algorithms": ["RS256"],
}
MODEL = {"name": "iris", "routes": ["/predict", "eu.example.org/ask"], "inputs": "instances"}
ADMIN = "admin.example.org"


def settings(
    *, public: Any = (), exempt: Any = (), models: Any = (MODEL,), **tables: Any
) -> Settings:
    quotas = {"requests": ["9/day"], "exempt": {"routes": list(exempt)}}
    auth = {**AUTH, "public": list(public)}
    return load({"models": list(models), "auth": auth, "quotas": quotas, **tables}, named=())


def route(template: str, host: str = "", handler: Any = None, **options: Any) -> Route:
    return Route(("POST",), template, host=host, handler=handler, **options)


def problems(told: Settings, *routes: Route, around: Any = (), counting: Any = ()) -> list[str]:
    """Say what the operator is told."""
    with pytest.raises(InvalidSettings) as caught:
        check_routes(told, routes, counting, around)
    return list(caught.value.problems)


class TestRoute:
    def test_is_its_host_and_template(self) -> None:
        """Routes of one template on two hosts are two; the handler makes none of them another."""
        assert route("/x", ADMIN) != route("/x")
        assert route("/x", handler=len) == route("/x", handler=max)
        assert "handler" not in repr(route("/x", handler=len))

    @pytest.mark.parametrize(
        ("host", "name", "shown"),
        [("", "*/x", "/x"), (ADMIN, f"{ADMIN}/x", f"{ADMIN}/x"), ("<sub>", "<sub>/x", "<sub>/x")],
        ids=["any", "host", "subdomain"],
    )
    def test_names(self, host: str, name: str, shown: str) -> None:
        """A route is shown without a host where it asks for none, and named "*" where it must."""
        assert (route("/x", host).name, route("/x", host).shown) == (name, shown)


class TestPlaces:
    @pytest.mark.parametrize(
        ("host", "template", "expected"),
        [
            ("", "/predict", Placement(("iris",), is_public=False, is_exempt=False)),
            ("us.example.org", "/predict", Placement(("iris",), is_public=False, is_exempt=False)),
            ("eu.example.org", "/ask", Placement(("iris",), is_public=False, is_exempt=False)),
            ("", "/ask", Placement((), is_public=False, is_exempt=False)),
            ("", "/status", Placement((), is_public=True, is_exempt=False)),
            (ADMIN, "/status", Placement((), is_public=False, is_exempt=True)),
            ("", "", Placement((), is_public=False, is_exempt=False)),
        ],
        ids=["template", "its only host", "host", "no host", "any host", "admin", "no route"],
    )
    def test_of(self, host: str, template: str, expected: Placement) -> None:
        """A name with a host holds there alone, "*" where no host is asked for, one without all."""
        places = Places(settings(public=["*/status"], exempt=[f"{ADMIN}/status"]))

        assert places.of(host, template) == expected
        assert places.of(host, template) is places.of(host, template)

    @pytest.mark.parametrize(
        ("host", "template", "is_public"),
        [
            ("", "/ui", True),
            ("", "/ui/", True),
            ("", "/ui/page", True),
            ("", "/ui/{path:path}", True),
            ("", "/ui/deep/<name>", True),
            ("", "/uix", False),
            ("", "/ui-admin/page", False),
            ("", "/UI/page", False),
            ("", "//ui/page", False),
            ("", "/api/ui/page", False),
            ("", "/{any:path}", False),
            ("", "", False),
            ("", "/ui/predict", False),
            (ADMIN, "/console/page", True),
            ("", "/console/page", False),
        ],
    )
    def test_below(self, host: str, template: str, *, is_public: bool) -> None:
        """What is public below a path ends with a segment, and holds no model's route."""
        models = [{"name": "iris", "route": "/ui/predict", "inputs": "x"}]
        places = Places(settings(public=["/ui/*", f"{ADMIN}/console/*"], models=models))

        assert places.of(host, template).is_public is is_public

    def test_models_below(self) -> None:
        """A model's route is public where it is named itself."""
        models = [{"name": "iris", "route": "/ui/predict", "inputs": "x"}]
        places = Places(settings(public=["/ui/*", "/ui/predict"], models=models))

        assert places.of("", "/ui/predict").is_public

    def test_exempt_below(self) -> None:
        """What no quota counts may be all that is below a path."""
        places = Places(settings(exempt=["/static/*"]))

        assert places.of("", "/static/{path:path}").is_exempt
        assert not places.of("", "/statics").is_exempt

    def test_bounded(self) -> None:
        """However many templates a framework makes up, so many are remembered."""
        places = Places(settings())
        for number in range(5000):
            places.of("", f"/x/{number}")

        assert places.of.cache_info().currsize == 4096
        assert places.of("", "/x/4999") == Placement((), is_public=False, is_exempt=False)

    def test_nothing_is_named(self) -> None:
        """Without tables nothing is public or exempt by name."""
        expected = Placement((), is_public=False, is_exempt=False)

        assert Places(load({}, environ={})).of("", "/x") == expected


class TestCheck:
    @pytest.mark.parametrize(
        ("name", "said"),
        [
            (
                "/iu/*",
                "auth.public = '/iu/*': the app has no route below it; did you mean '/ui/*'?",
            ),
            (
                "/ui/*",
                (
                    "auth.public = '/ui/*': the app has routes below it on several hosts; "
                    f"write '*/ui/*' or '{ADMIN}/ui/*', where * asks for no host"
                ),
            ),
        ],
    )
    def test_below(self, name: str, said: str) -> None:
        """A path below which nothing is, or something on two hosts, is a mistake."""
        told = settings(public=[name], models=[])

        assert problems(told, route("/ui/x"), route("/ui/y", ADMIN)) == [said]

    THERE = (route("/predict"), route("/ask", "eu.example.org"))

    def test_all_there(self) -> None:
        """Names that one route answers are well, with the host or without."""
        told = settings(public=[f"{ADMIN}/status", "/other"], exempt=["*/status"])
        others = (route("/status"), route("/status", ADMIN), route("/other", ADMIN))

        check_routes(told, [*self.THERE, *others])

    @pytest.mark.parametrize(
        ("tables", "where"),
        [
            ({"public": ["/status"]}, "auth.public = '/status'"),
            ({"exempt": ["/status"]}, "quotas.exempt.routes = '/status'"),
            (
                {"models": [{"name": "iris", "route": "/status", "inputs": "x"}]},
                "models[iris].route = '/status'",
            ),
            (
                {"models": [{"name": "iris", "routes": ["/status"], "inputs": "x"}]},
                "models[iris].routes = '/status'",
            ),
        ],
        ids=["public", "exempt", "route", "routes"],
    )
    def test_on_several_hosts(self, tables: Any, where: str) -> None:
        """A name that several hosts answer stops the start, which says how to write each."""
        found = problems(
            settings(**{"models": (), **tables}), route("/status"), route("/status", ADMIN)
        )

        assert found == [
            (
                f"{where}: the app has it on several hosts; write '*/status' or '{ADMIN}/status', "
                "where * asks for no host"
            )
        ]

    def test_on_named_hosts_only(self) -> None:
        """Where each route asks for a host, no "*" is explained."""
        told = settings(models=(), public=["/status"])

        (said,) = problems(told, route("/status", "a.example.org"), route("/status", ADMIN))

        assert said.endswith(f"write 'a.example.org/status' or '{ADMIN}/status'")

    def test_several_methods_are_one_route(self) -> None:
        """A template that is listed once for each method is no two hosts."""
        told = settings(models=(), public=["/x"])

        check_routes(told, [Route(("GET",), "/x"), Route(("POST",), "/x")])

    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            (f"{ADMIN}/statsu", f"{ADMIN}/status"),
            ("admin.example.com/status", f"{ADMIN}/status"),
            ("/othr", "/other"),
            ("*/predict.", "/predict"),
        ],
        ids=["template", "host", "path", "any host"],
    )
    def test_not_there(self, name: str, nearest: str) -> None:
        """A host that no route asks for is as wrong as a path that none has."""
        others = (route("/status"), route("/status", ADMIN), route("/other"))

        (said,) = problems(settings(public=[name]), *self.THERE, *others)

        assert (
            said == f"auth.public = {name!r}: the app has no such route; did you mean {nearest!r}?"
        )

    def test_not_on_that_host(self) -> None:
        """Where a template is there, on another host, that is what is told."""
        (said,) = problems(settings(public=["*/ask"]), *self.THERE)

        assert said.endswith("no such route; valid: eu.example.org/ask")

    def test_unguarded_routes_do_not_count(self) -> None:
        """What stands around the guard is no route that could be named."""
        assert problems(settings(models=(), public=["/x"]), route("/x", is_guarded=False))

    def test_two_models_on_one_route(self) -> None:
        """One route that two models name in two ways is found."""
        other = {"name": "other", "route": "eu.example.org/predict", "inputs": "x"}
        models = [{**MODEL, "routes": ["/predict"]}, other]

        (said,) = problems(settings(models=models), route("/predict", "eu.example.org"))

        assert said == (
            "models[other].route = 'eu.example.org/predict': is the route of models[iris] too, "
            "which names it otherwise"
        )

    def test_units(self) -> None:
        """A unit that no function counts is told."""
        quotas = {"units": {"tokens": ["9/day"], "pages": ["9/day"]}}
        told = settings(models=(), quotas=quotas)

        (said,) = problems(told, counting=["tokens"])

        assert said.startswith("quotas.units.pages: no function counts it")

    def test_metrics_path(self) -> None:
        """A route where metrics are read is taken, on whatever host; the exporter is named."""
        handler = type("F", (), {"__module__": "prometheus_flask_exporter"})()

        (plain,) = problems(settings(models=()), route("/metrics", ADMIN))
        (said,) = problems(settings(models=()), route("/metrics", handler=handler))

        where = "metrics.path = '/metrics': is already a route of the app"
        assert plain == f"{where}; choose another"
        assert said == f"{where}, made by prometheus_flask_exporter; choose another"

    @pytest.mark.parametrize(
        ("layer", "answers"),
        [
            (Around("m.Exporter", "/metrics"), True),
            (Around("m.Exporter", "/metrics", is_inside=True), True),
            (Around("m.Everything", "/"), True),
            (Around("m.Other", "/metrics/other"), False),
            (Around("m.Other", "/metric"), False),
            (Around("m.Unknown", None), False),
        ],
        ids=["around", "inside", "all", "below", "beside", "unknown"],
    )
    def test_metrics_answered_by_a_layer(self, layer: Around, answers: bool) -> None:
        """A middleware that answers there would hide the page, or be hidden by it."""
        if answers:
            (said,) = problems(settings(models=()), around=[layer])
            assert said == (
                f"metrics.path = '/metrics': {layer.name} answers there too; choose another"
            )
        else:
            check_routes(settings(models=()), [], (), [layer])


def _predict() -> None: ...


def _other() -> None: ...


@functools.wraps(_predict)
def _decorated() -> None: ...


class TestTwins:
    @pytest.mark.parametrize(
        ("others", "expected"),
        [
            ([route("/v1/predict", handler=_predict)], ["/v1/predict"]),
            ([route("/v1/predict", handler=_decorated)], ["/v1/predict"]),
            ([route("/predict", "v1.example.org", handler=_predict)], []),
            ([route("/v1", ADMIN, handler=_predict)] * 2, [f"{ADMIN}/v1"]),
            ([route("/v1", handler=_other), route("/none"), route("/v2")], []),
            ([route("/ask", "eu.example.org", handler=_predict)], []),
            ([route("/old", handler=_predict, is_guarded=False)], []),
        ],
        ids=["twin", "decorated", "host", "once", "others", "modelled", "unguarded"],
    )
    def test_are_named(self, others: list[Route], expected: list[str]) -> None:
        """A route that shares its handler with a model's, and has no model, is named."""
        found = Coverage(
            settings(), [route("/predict", handler=_predict), *others]
        ).unmodelled_twins()

        assert [said.partition(" ")[0] for said in found] == expected
        assert all("has the handler of /predict, but no model, so" in said for said in found)
        assert all("name it in `models[iris].routes` too" in said for said in found)


class TestCoverage:
    def test_by_host(self) -> None:
        """What is public, exempt or a model's on one host is not so on another."""
        told = settings(public=["*/status"], exempt=["*/status"])
        here, there, ask = Coverage(
            told, [route("/status"), route("/status", ADMIN), route("/ask", "eu.example.org")]
        ).covered()

        assert (here.access, here.sentences) == ("public", [])
        assert (there.access, there.sentences) == ("token", ["9/day requests"])
        assert (ask.access, ask.models) == ("token", ("iris",))

    @pytest.mark.parametrize(
        ("methods", "asks"),
        [(("POST",), "iris"), (("GET", "HEAD", "POST"), "iris, with a body"), ((), "iris")],
        ids=["POST", "GET and POST", "any"],
    )
    def test_a_get_is_no_inference(self, methods: tuple[str, ...], asks: str) -> None:
        """Of a route that serves GET too, it is said that only a body asks the model."""
        (found,) = Coverage(settings(), [Route(methods, "/predict")]).covered()

        assert found.asks == asks

    def test_other_pages(self) -> None:
        """Another page of metrics is told, but one at the kit's own path, a mistake."""
        handler = type("F", (), {"__module__": "prometheus_client.asgi"})()
        pages = [route("/prom", ADMIN, handler=handler), route("/metrics", handler=handler)]

        assert Coverage(settings(), pages).other_pages() == [
            (
                f"{ADMIN}/prom shows the metrics of prometheus_client; those of mlguard are at "
                "/metrics: scrape both"
            )
        ]

    def test_remarks(self) -> None:
        """The start warns of what is mounted around the guard, of layers, twins and other pages."""
        page = type("F", (), {"__module__": "prometheus_client.asgi"})()
        routes = [
            route("/predict", handler=_predict),
            route("/twin", handler=_predict),
            route("/prom", handler=page),
            route("/old", is_guarded=False),
        ]

        found = Coverage(
            settings(), routes, [Around("m.Mounts", "/old"), Around("m.Unknown", None)]
        ).remarks()

        assert [said.partition(" ")[0] for said in found] == ["what", "m.Unknown", "/twin", "/prom"]
        assert found[0].startswith("what is mounted at /old is not guarded: mount it before")

    def test_ways_around(self) -> None:
        """Layers are told once, but those that are listed as routes, or stand inside."""
        layers = [
            Around("m.Unknown", None),
            Around("m.Unknown", None),
            Around("m.Mounts", "/old"),
            Around("m.Inside", "/metrics", is_inside=True),
            Around("m.Sockets", "/socket.io"),
        ]

        found = Coverage(settings(), [route("/old", is_guarded=False)], layers).ways_around()

        assert found == [
            (
                "m.Unknown stands around the guard, and what it answers by itself is not guarded: "
                "put it there before MLGuard(app, ...), or mount it in the app"
            ),
            (
                "m.Sockets stands around the guard, and what it answers below /socket.io is not "
                "guarded: put it there before MLGuard(app, ...), or mount it in the app"
            ),
        ]


class _Guard:
    def __call__(self) -> None: ...


class _Holds:
    def __init__(self, name: str, inner: Any) -> None:
        setattr(self, name, inner)

    def __call__(self) -> None: ...

    def handle(self) -> None: ...


class _Proxy:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("outside of a request")

    def __call__(self) -> None: ...


def _function(inner: Any) -> Callable[[], Any]:
    return lambda: inner()


class TestLayers:
    @pytest.mark.parametrize(
        ("around", "depth"),
        [
            (lambda g: g, 1),
            (lambda g: _Holds("app", g), 2),
            (lambda g: _Holds("anything", g), 2),
            (lambda g: _Holds("application", _Holds("wsgi_app", g)), 3),
            (_function, 2),
            (lambda g: functools.partial(max, g), 2),
            (lambda g: functools.partial(g), 2),
            (lambda g: _Holds("app", g).handle, 3),
        ],
        ids=["itself", "app", "any name", "two", "closure", "argument", "partial", "method"],
    )
    def test_are_walked(self, around: Any, depth: int) -> None:
        """The guard is found behind objects, functions and methods, however they hold it."""
        guard = _Guard()

        found = layers_to(around(guard), lambda layer: layer is guard)

        assert len(found) == depth
        assert found[-1] is guard

    def test_not_there(self) -> None:
        """A circle ends, a proxy without a request too, and what is not there is not found."""
        circle = _Holds("app", None)
        circle.app = _Holds("app", circle)  # type: ignore[attr-defined]
        circle.proxy = _Proxy()  # type: ignore[attr-defined]

        assert layers_to(circle, lambda layer: isinstance(layer, _Guard)) == []

    def test_what_answers(self) -> None:
        """A layer shows where it answers; one that does not may answer anything."""
        dispatcher = _Holds("mounts", {"/old": _Holds("app", None)})
        page = _Holds("metrics_url", "/metrics")
        shared = _Holds("exports", [("/static", None)])

        sockets = _Holds("engineio_path", "/socket.io/")

        found = list(answering([dispatcher, page, shared, sockets, _Holds("app", None)]))

        prefixes = ["/old", "/metrics", "/static", "/socket.io", None]
        assert [layer.prefix for layer in found] == prefixes
        assert {layer.name for layer in found} == {f"{__name__}._Holds"}
