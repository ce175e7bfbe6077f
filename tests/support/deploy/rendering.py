"""Render the Terraform module's user data without a provider: variables and locals are evaluated, resources are not."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.deploy.module import MODULE
from tests.support.programs import require_program

ACCOUNT_ID = "123456789012"
REGION = "eu-central-1"
ARN = "arn:aws:{}:" + f"{REGION}:{ACCOUNT_ID}:{{}}"

RELEASE_SHA256 = "0123456789abcdef" * 4  # stands in for that of an archive

EXAMPLE = MODULE / "examples" / "complete"
EXAMPLE_VARIABLES = {
    "release_bucket": "my-releases",
    "release_key": "transcriptd/0.1.0.tar.gz",
    "release_sha256": RELEASE_SHA256,
    "webhook_secret_arn": ARN.format("secretsmanager", "secret:transcriptd/webhook-AbCdEf"),
    "alarm_email": "on-call@example.com",
}

# Attributes of resources and data sources that a caller passes to the module and that the module's locals read.
CALLER_VALUES: dict[str, object] = {
    "aws_kms_key.this.arn": ARN.format("kms", "key/11111111-2222-3333-4444-555555555555"),
    "aws_vpc.this.id": "vpc-0123456789abcdef0",
    "aws_subnet.private[*].id": ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
    "aws_route_table.private.id": "rtb-0123456789abcdef0",
    "aws_sns_topic.alarms.arn": ARN.format("sns", "transcriptd-alarms"),
}
MODULE_VALUES: dict[str, object] = {
    "data.aws_partition.current.partition": "aws",
    "data.aws_region.current.region": REGION,
    "data.aws_caller_identity.current.account_id": ACCOUNT_ID,
    "data.aws_ssm_parameter.ami[0].insecure_value": "ami-0123456789abcdef0",
}

# A top-level block as `terraform fmt` writes it: it starts in the first column and ends with a brace in the first
# column.
BLOCK = re.compile(r'^(?P<kind>[a-z]+)(?: "[^"\n]+")* \{(?:\}$|\n.*?^\}$)', re.MULTILINE | re.DOTALL)
REFERENCE = re.compile(r"\b(?:data\.)?aws_\w+\.\w+(?:\[[^\]]*\])?(?:\.\w+)*")


def example_call() -> str:
    """Return the module call in examples/complete, with the variables it uses."""
    call = _module_call((EXAMPLE / "main.tf").read_text())
    return call + "\n\n" + (EXAMPLE / "variables.tf").read_text()


def readme_call() -> str:
    """Return the module call in the README's section Usage."""
    usage = (MODULE / "README.md").read_text().partition("\n## Usage\n")[2]
    return _with_digest(_module_call(usage.partition("```hcl\n")[2].partition("\n```")[0]))


def deploy_page_call() -> str:
    """Return the module call in docs/deploy.md, with models from a mirror and its placeholders filled in."""
    page = (MODULE.parents[1] / "docs" / "deploy.md").read_text()
    call = _module_call(page.partition("```hcl\n")[2].partition("\n```")[0])
    return _with_digest(call)


def _with_digest(call: str) -> str:
    """Fill in the digest of the release, which the pages leave to the reader."""
    return re.sub(r'(release_sha256 *= )"…"', rf'\1"{RELEASE_SHA256}"', call)


def render_user_data(call: str, queue_urls: Mapping[str, str], folder: Path) -> str:
    """Apply `call`, a caller's Terraform code, in an empty `folder` and return the user data.

    `queue_urls` are the URLs of the queues by the module's keys, such as `jobs-dlq`. The module's validations run.
    """
    terraform = require_program("terraform")
    module, caller = folder / "module", folder / "caller"
    _copy_module(module, queue_urls)
    caller.mkdir()
    call = re.sub(r'(?m)^  source( *)= "[^"]*"$', rf"  source\1= {json.dumps('../module')}", call)
    output = 'output "user_data" {\n  value = module.transcriptd.user_data\n}\n'
    (caller / "main.tf").write_text(_replace_references(call, CALLER_VALUES) + "\n\n" + output)
    needed = [name for name in EXAMPLE_VARIABLES if f'variable "{name}"' in call]
    variables = [f"-var={name}={EXAMPLE_VARIABLES[name]}" for name in needed]
    _run(terraform, caller, "init", "-backend=false")
    _run(terraform, caller, "apply", "-auto-approve", *variables)
    return _run(terraform, caller, "output", "-raw", "user_data")


def _module_call(text: str) -> str:
    (call,) = (found[0] for found in BLOCK.finditer(text) if found["kind"] == "module")
    return call


def _copy_module(target: Path, queue_urls: Mapping[str, str]) -> None:
    """Copy the module without its resources, data sources, providers and outputs, and add an output for the user
    data."""
    values = {**MODULE_VALUES, **{f'aws_sqs_queue.this["{key}"].id': url for key, url in queue_urls.items()}}
    shutil.copytree(MODULE / "templates", target / "templates")
    for path in MODULE.glob("*.tf"):
        kept = []
        for block in BLOCK.finditer(path.read_text()):
            if block["kind"] == "variable":
                kept.append(block[0])
            elif block["kind"] == "locals":
                # The one reference whose index is not constant.
                known = block[0].replace("aws_sqs_queue.this[key].id", f"{json.dumps(dict(queue_urls))}[key]")
                kept.append(_replace_references(known, values))
        (target / path.name).write_text("\n\n".join(kept) + "\n")
    (target / "user_data.tf").write_text('output "user_data" {\n  value = local.user_data\n}\n')


def _replace_references(text: str, values: Mapping[str, object]) -> str:
    """Replace references by values. Raise KeyError with the reference if `values` lacks it: add a plausible value
    above."""
    return REFERENCE.sub(lambda found: json.dumps(values[found[0]]), text)


def _run(terraform: str, folder: Path, command: str, *arguments: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run(
        [terraform, command, "-no-color", *arguments],
        cwd=folder,
        env={**inherited, "CHECKPOINT_DISABLE": "1", "TF_INPUT": "0"},  # do not check for a newer terraform
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"terraform {command} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
