"""`transcriptd jobs`: list the jobs in the bucket of results, newest first. Queued jobs are not there yet.

S3 lists keys in alphabetical order, with the time of each object's last change. So the keys are read first, and then the
status of the newest jobs only.
"""

import json
import time
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError
from rich.table import Table

from daemon.cli.command import EXIT_OK, age, contract_settings, err, open_s3, out, printable, read_object, results_place
from daemon.schema.job_status import STATUS_NAME, JobStatus
from daemon.schema.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_KEYS = 1_000_000  # a thousand calls, in at most some minutes
READS_AT_ONCE = 16


class Found(NamedTuple):
    """A job in the listing. `has_status` is false for a job that was finished by a release without status.json."""

    changed_at: datetime
    prefix: str  # `<prefix><job_id>/`
    has_status: bool


def list_jobs(arguments: Namespace) -> int:
    bucket, prefix = results_place(arguments)
    s3 = open_s3(contract_settings())
    found, keys = find_jobs(s3, bucket, prefix, time.time() - arguments.since)
    statuses = _read(s3, bucket, sorted(found, reverse=True))
    chosen = list(
        islice((each for each in statuses if not arguments.failed or each["state"] == "failed"), arguments.limit)
    )
    if arguments.json:
        for each in chosen:
            print(json.dumps(each))
    elif chosen:
        out.print(_table(chosen))
    more = f"; the first {MAX_KEYS} keys were read, name a longer --output-prefix" if keys >= MAX_KEYS else ""
    full = f"; --limit {arguments.limit} reached" if len(chosen) == arguments.limit else ""
    err.print(f"{len(chosen)} listed of {len(found)} changed in the last {age(arguments.since)}{full}{more}")
    return EXIT_OK


def find_jobs(s3: "S3Client", bucket: str, prefix: str, since: float) -> tuple[list[Found], int]:
    """Return the jobs that have changed since then (Unix time), and the number of keys read."""
    found: dict[str, Found] = {}
    keys = 0
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            keys += 1
            place, _, name = item["Key"].rpartition("/")
            if name not in (STATUS_NAME, MANIFEST_NAME) or item["LastModified"].timestamp() < since:
                continue
            place += "/"
            earlier = found.get(place)
            if earlier is None or name == STATUS_NAME:
                found[place] = Found(item["LastModified"], place, name == STATUS_NAME)
        if keys >= MAX_KEYS:
            break
    return list(found.values()), keys


def _read(s3: "S3Client", bucket: str, found: list[Found]) -> Iterator[dict[str, Any]]:
    """Yield the jobs' statuses in order, reading a few ahead."""
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        for start in range(0, len(found), READS_AT_ONCE):
            batch = found[start : start + READS_AT_ONCE]
            yield from filter(None, pool.map(lambda each: _status(s3, bucket, each), batch))


def _status(s3: "S3Client", bucket: str, found: Found) -> dict[str, Any] | None:
    """Return the status with the job's place; None if it was removed or is something else."""
    place = f"s3://{bucket}/{found.prefix}"
    if not found.has_status:
        job_id = found.prefix.rstrip("/").rpartition("/")[2]
        at = found.changed_at.isoformat()
        return {"job_id": job_id, "state": "completed", "updated_at": at, "overall_fraction": 1.0, "place": place}
    body = read_object(s3, bucket, found.prefix + STATUS_NAME)
    try:
        return JobStatus.model_validate_json(body).model_dump() | {"place": place} if body else None
    except ValidationError:
        return None


def _table(jobs: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("STATE", "JOB", "AGE", "DONE", "ATTEMPT", "WORKER", "ERROR"):
        table.add_column(name, no_wrap=name not in ("JOB", "ERROR"), overflow="fold")
    now = time.time()
    for each in jobs:
        error = each.get("error")
        row = [
            each["state"],
            each["job_id"],
            age(now - datetime.fromisoformat(each["updated_at"]).timestamp()),
            f"{each['overall_fraction']:.0%}",
            str(each.get("attempt", "–")),
            each.get("worker_id", "–"),
            f"{error['code']}: {' '.join(error['message'].split())}" if error else "",
        ]
        table.add_row(*(printable(cell) for cell in row))
    return table
