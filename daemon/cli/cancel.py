"""`transcriptd cancel`: request the cancellation of a job with an object next to its results."""

import json
import time
from argparse import Namespace

from daemon.cli.command import EXIT_OK, ToolError, contract_settings, err, open_s3, printable, read_object
from daemon.cli.watch import WatchedJob, job_place, read_status, watch_command
from daemon.schema.job_status import CANCEL_NAME
from daemon.schema.manifest import MANIFEST_NAME


def cancel(arguments: Namespace) -> int:
    bucket, prefix = job_place(arguments)
    settings = contract_settings()
    s3 = open_s3(settings)
    if read_object(s3, bucket, prefix + MANIFEST_NAME) is not None:
        raise ToolError(f"job {arguments.job_id} is finished; its results are at s3://{bucket}/{prefix}")
    body = json.dumps({"requested_at": round(time.time())}).encode()
    s3.put_object(
        Bucket=bucket,
        Key=prefix + CANCEL_NAME,
        Body=body,
        ContentType="application/json",
        **settings.write_parameters,
    )
    err.print(
        printable(
            f"cancellation of {arguments.job_id} requested: a running job ends within seconds, a waiting one when a daemon "
            "receives its message"
        )
    )
    status = read_status(s3, bucket, prefix)
    if status is not None and status.state in ("failed", "cancelled"):
        err.print(f"the job is {status.state}: the request is for its next message")
    err.print(f"to see its end, run: {watch_command(WatchedJob(arguments.job_id, bucket, prefix))}")
    return EXIT_OK
