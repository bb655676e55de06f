"""Does drifted traffic reach a person? Real workers, Prometheus and Alertmanager."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from tests.apps import iris
from tests.servers import (
    ROOT,
    Webhook,
    alertmanager,
    find,
    gunicorn,
    prometheus,
    uvicorn,
    wait_until,
)

FOLDER = ROOT / "examples" / "observability"
RULES = FOLDER / "alerts.yml"
WINDOW = 200
# Exemplars need traces; nobody has to receive them.
TRACING = '[tracing]\nendpoint = "http://127.0.0.1:9"\n'


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """What the flowers looked like in training."""
    return iris.save_reference(tmp_path_factory.mktemp("reference") / "reference.parquet")


def shipped(name):
    return yaml.safe_load((FOLDER / name).read_text())


def scraping(service, alerting):
    """The shipped configuration, faster and with addresses of this computer."""
    config = shipped("prometheus.yml")
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [host(service)]
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [host(alerting)]
    return config


def notifying(webhook):
    """The shipped configuration, faster and with the address of the test's webhook."""
    config = shipped("alertmanager.yml")
    config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    config["receivers"][0]["webhook_configs"][0]["url"] = webhook.url
    return config


def host(server):
    return server.url.removeprefix("http://")


def value(service, name):
    """Return the value of the only sample of that name, None where there is none."""
    lines = service.ask("/metrics").text.splitlines()
    found = [line for line in lines if re.match(rf"{name}[ {{]", line)]
    return float(found[0].rpartition(" ")[2]) if found else None


def send_window(service, *, seed, shift=0.0):
    """Send one window of rows, each in a request of its own, which several workers answer."""
    headers = iris.bearer()

    def send(row):
        return service.ask("/predict", body={"instances": [row]}, headers=headers).status

    with ThreadPoolExecutor(4) as callers:
        statuses = set(callers.map(send, iris.rows(WINDOW, seed=seed, shift=shift).tolist()))
    assert statuses == {200}


def rules_at_once(folder):
    """The shipped rules, without the minutes for which what they say must be true."""
    path = folder / "alerts.yml"
    path.write_text(re.sub(r"for: \w+", "for: 0s", RULES.read_text()))
    return path


def query(server, path):
    return server.ask(f"/api/v1/{path}").json()["data"]


def rows_seen(metrics):
    found = query(metrics, "query?query=mlguard_inference_rows_total")["result"]
    return [float(series["value"][1]) for series in found]


@pytest.mark.parametrize(
    ("serve", "app"),
    [
        pytest.param(uvicorn, "tests.apps.fastapi_app:app", id="fastapi-uvicorn"),
        pytest.param(gunicorn, "tests.apps.flask_app:app", id="flask-gunicorn"),
    ],
)
def test_drift_in_several_workers_is_one_alert_at_the_webhook(serve, app, reference, tmp_path):
    """Drifted rows fire the shipped rule; Alertmanager tells the model, feature and severity."""
    find("prometheus")
    drift = f"[drift]\nwindow = {WINDOW}\n"
    settings = iris.write_settings(tmp_path, drift, TRACING, model=f'reference = "{reference}"')
    with (
        serve(app, cwd=tmp_path, workers=4, env=iris.environment(settings)) as service,
        Webhook() as webhook,
        alertmanager(notifying(webhook), cwd=tmp_path) as alerting,
        prometheus(scraping(service, alerting), cwd=tmp_path, rules=[RULES]) as metrics,
    ):
        check(service, webhook, metrics)


@pytest.mark.parametrize(
    ("serve", "app"),
    [
        pytest.param(uvicorn, "tests.apps.fastapi_app:app", id="fastapi-uvicorn"),
        pytest.param(gunicorn, "tests.apps.flask_app:app", id="flask-gunicorn"),
    ],
)
def test_a_service_that_fails_half_of_its_requests_pages_somebody(serve, app, tmp_path):
    """Its objective's allowance burns; the same service without failures alerts nobody."""
    find("prometheus")
    settings = iris.write_settings(tmp_path)
    with (
        serve(app, cwd=tmp_path, workers=2, env=iris.environment(settings)) as service,
        Webhook() as webhook,
        alertmanager(notifying(webhook), cwd=tmp_path) as alerting,
        prometheus(
            scraping(service, alerting), cwd=tmp_path, rules=[rules_at_once(tmp_path)]
        ) as metrics,
    ):
        send_window(service, seed=1)
        wait_until(lambda: rows_seen(metrics) == [WINDOW], "Prometheus has every row")
        wait_until(
            lambda: query(metrics, "query?query=mlguard:failed:budget")["result"],
            "the rules are evaluated",
        )
        assert webhook.alerts() == []

        def fail_some():
            for rows in ([[1.0]], iris.rows(1, seed=2).tolist()) * 5:
                service.ask("/predict", body={"instances": rows}, headers=iris.bearer())
            return webhook.alerts("MlguardRequestsFail")

        (alert,) = wait_until(fail_some, "the webhook hears of the failures")
        assert alert["labels"]["severity"] == "critical"
        assert alert["annotations"]["runbook_url"] == "docs/alerts.md#mlguardrequestsfail"


def check(service, webhook, metrics):
    def drifted():
        return value(service, "mlguard_drift_detected")

    # evidently takes its time to be imported.
    wait_until(
        lambda: value(service, "mlguard_drift_worker_up") == 1, "the drift worker is up", within=180
    )

    send_window(service, seed=1)
    wait_until(lambda: drifted() is not None, "a window was checked")
    assert drifted() == 0
    assert webhook.alerts("MlguardDriftDetected") == []

    sent = time.time()
    send_window(service, seed=2, shift=2.0)
    send_window(service, seed=3, shift=2.0)
    wait_until(lambda: drifted() == 1, "the drift is detected")
    alert = wait_until(
        lambda: webhook.alerts("MlguardDriftDetected"), "the webhook hears of the drift"
    )[0]
    assert alert["status"] == "firing"
    assert alert["annotations"]["summary"].endswith("have drifted: petal_length")
    assert f"petal_length of {host(service)}: score " in alert["annotations"]["description"]
    assert alert["annotations"]["report_url"] == f"{service.url}/drift?model=iris"
    assert alert["labels"] == {
        "alertname": "MlguardDriftDetected",
        "job": "mlguard",
        "model": "iris",
        "version": "3",
        "severity": "warning",
    }

    # All workers' rows are in one number, once Prometheus has scraped the last of them.
    wait_until(
        lambda: rows_seen(metrics) == [3 * WINDOW], "Prometheus has every row of all workers"
    )
    path = "query_exemplars?query=mlguard_inference_duration_seconds_bucket"
    path = f"{path}&start={sent - 60}&end={time.time() + 60}"
    stored = wait_until(lambda: query(metrics, path), "exemplars are stored")
    traces = [kept["labels"]["trace_id"] for series in stored for kept in series["exemplars"]]
    assert all(re.fullmatch("[0-9a-f]{32}", trace) for trace in traces)
