"""A real Prometheus on loopback with the rules of deploy/monitoring, and a client for its queries."""

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench.waiting import PATIENCE_SECONDS, wait_for

MONITORING = Path(__file__).parents[3] / "deploy" / "monitoring"


class QueryRefused(Exception):
    """Prometheus rejected the query or returned a warning."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a query result: its labels and its points as (Unix time, value)."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


@dataclass
class Prometheus:
    url: str
    folder: Path
    scrape_seconds: float
    targets: list[dict[str, Any]] = field(default_factory=list)

    def watch(self, port: int, **labels: str) -> None:
        """Add a scrape target with the labels that deploy/monitoring/prometheus.yml would set."""
        self.targets.append({"targets": [f"127.0.0.1:{port}"], "labels": labels})
        self._tell()

    def forget(self, instance: str) -> None:
        """Stop scraping the target, as for a terminated instance."""
        self.targets = [target for target in self.targets if target["labels"]["instance"] != instance]
        self._tell()

    def _tell(self) -> None:
        written = self.folder / "targets.new"
        written.write_text(json.dumps(self.targets))
        written.rename(self.folder / "targets.json")

    def query(self, expression: str, at: float | None = None) -> list[Series]:
        """Run an instant query at the given Unix time, or now. Raises QueryRefused."""
        found = self._get("query", query=expression, **({} if at is None else {"time": at}))
        return [Series(each["metric"], [_point(each["value"])]) for each in found["result"]]

    def query_range(self, expression: str, start: float, end: float, step_seconds: float) -> list[Series]:
        """Run a range query. Raises QueryRefused."""
        found = self._get("query_range", query=expression, start=start, end=end, step=step_seconds)
        return [Series(each["metric"], [_point(value) for value in each["values"]]) for each in found["result"]]

    def label_values(self, series: str, label: str) -> list[str]:
        """Return the values of the label in the matching series. Raises QueryRefused."""
        found: list[str] = self._get(f"label/{label}/values", **{"match[]": series})
        return found

    def wait_until(self, expression: str, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until the query returns a result. Raises TimeoutError."""
        wait_for(lambda: bool(self.query(expression)), expression, timeout_seconds)

    def _get(self, path: str, **parameters: Any) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise QueryRefused(f"{parameters}: {error.read().decode()}") from error
        if answer["status"] != "success" or answer.get("warnings") or answer.get("infos"):
            raise QueryRefused(f"{parameters}: {answer}")
        return answer["data"]


def _point(pair: Any) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


@contextmanager
def open_prometheus(program: str, folder: Path, scrape_seconds: int = 1) -> Iterator[Prometheus]:
    """Start Prometheus with the evaluation interval equal to the scrape interval. It uses `folder` exclusively."""
    (folder / "targets.json").write_text("[]")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(_config(folder, scrape_seconds)))
    log = folder / "prometheus.log"
    command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with log.open("w") as out:
        process = subprocess.Popen([*command, "--web.listen-address=127.0.0.1:0"], stdout=out, stderr=subprocess.STDOUT)
    try:
        address: list[str] = []

        def listens() -> bool:
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            text = log.read_text()
            address[:] = re.findall(r'msg="Listening on" address=(\S+)', text)
            return bool(address) and "Server is ready to receive web requests" in text

        wait_for(listens, "Prometheus listens")
        yield Prometheus(f"http://{address[0]}", folder, scrape_seconds)
    finally:
        process.terminate()
        process.wait()


def _config(folder: Path, scrape_seconds: int) -> dict[str, Any]:
    """Return the real configuration and rules with shorter intervals, targets from a file instead of EC2, and no
    Alertmanager."""
    config: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    interval = f"{scrape_seconds}s"
    config["global"] = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
    del config["alerting"]
    (scrape,) = config["scrape_configs"]
    discovery = {"files": [str(folder / "targets.json")], "refresh_interval": "1s"}
    config["scrape_configs"] = [{"job_name": scrape["job_name"], "file_sd_configs": [discovery]}]
    faster = []
    for name in config["rule_files"]:
        rules = (MONITORING / name).read_text().replace("interval: 1m", f"interval: {interval}")
        # A sample of the cost covers the time between two evaluations, which is a minute in the original rules.
        rules = rules.replace("[1h]) / 60\n", f"[1h]) * {scrape_seconds} / 3600\n")
        faster.append(folder / Path(name).name)
        faster[-1].write_text(rules)
    config["rule_files"] = [str(path) for path in faster]
    return config
