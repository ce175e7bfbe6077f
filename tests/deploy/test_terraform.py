"""deploy/terraform: documented, consistent with the daemon, and passing its own tests where terraform can run them."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from daemon.config import Settings, variable
from tests.support.deploy.module import IMAGE, MODULE, blocks, default, inputs_table, optional_number, outputs_table
from tests.support.deploy.rendering import render_user_data
from tests.support.programs import require_program

DAEMON = Path(__file__).parents[2] / "daemon"

# Each AWS call of the daemon and the permissions it needs.
PERMISSIONS = {
    "receive_message": {"sqs:ReceiveMessage"},
    "delete_message": {"sqs:DeleteMessage"},
    "change_message_visibility": {"sqs:ChangeMessageVisibility"},
    "send_message": {"sqs:SendMessage"},
    "put_events": {"events:PutEvents"},
    "get_queue_attributes": {"sqs:GetQueueAttributes"},
    "get_object": {"s3:GetObject", "s3:GetObjectVersion"},
    "head_object": {"s3:GetObject", "s3:GetObjectVersion"},
    "put_object": {"s3:PutObject", "s3:PutObjectTagging", "s3:PutObjectAcl"},
    "delete_objects": {"s3:DeleteObject"},
    "head_bucket": {"s3:ListBucket"},
    "list_objects_v2": {"s3:ListBucket"},
    "complete_lifecycle_action": {"autoscaling:CompleteLifecycleAction"},
    "record_lifecycle_action_heartbeat": {"autoscaling:RecordLifecycleActionHeartbeat"},
    "terminate_instance_in_auto_scaling_group": {"autoscaling:TerminateInstanceInAutoScalingGroup"},
    "set_instance_health": {"autoscaling:SetInstanceHealth"},
    "describe_auto_scaling_groups": {"autoscaling:DescribeAutoScalingGroups"},
    "describe_auto_scaling_instances": {"autoscaling:DescribeAutoScalingInstances"},
}


MODULES = pytest.mark.parametrize("module", [MODULE, IMAGE], ids=["fleet", "image"])


@MODULES
def test_every_variable_and_output_is_documented(module: Path) -> None:
    for name, body in blocks("variable", module).items():
        assert body["description"], name
        assert body["type"], name
        assert body["type"] == "bool" or body["validation"], f"{name}: every variable but a bool needs a validation"
    for name, body in blocks("output", module).items():
        assert body["description"], name


@MODULES
def test_readme_lists_all_variables_and_outputs(module: Path) -> None:
    readme = (module / "README.md").read_text()
    for table in (inputs_table(module), outputs_table(module)):
        assert table in readme, f"{module.name}/README.md is out of date; it should have:\n\n{table}"


def test_each_alarm_is_explained() -> None:
    text = (MODULE / "alarms.tf").read_text()
    alarms = re.findall(r'(?m)^    "?([a-z-]+)(?:\$\{.*)? = \{$', text[: text.index("resource ")])
    explained = re.findall(r"(?m)^\| `([a-z-]+)` \|", (MODULE.parents[1] / "docs" / "deploy.md").read_text())
    assert len(alarms) > 5
    assert explained == alarms


def test_settings_of_instances_are_settings_of_the_daemon() -> None:
    known = {variable(name) for name in Settings.model_fields}
    text = "".join(path.read_text() for path in (*MODULE.glob("*.tf"), *MODULE.glob("examples/*/*.tf")))
    written = set(re.findall(r"\b(TRANSCRIPTD_[A-Z][A-Z0-9_]*[A-Z0-9]|WEBHOOK_[A-Z]+)\b", text))
    assert written - known == set()
    assert "TRANSCRIPTD_QUEUE_URL" in written


def test_deadlines_are_consistent_with_the_daemon() -> None:
    fields = Settings.model_fields
    assert optional_number("deadlines", "visibility") == fields["visibility_timeout_seconds"].default
    assert optional_number("deadlines", "heartbeat") == fields["heartbeat_seconds"].default
    assert optional_number("deadlines", "drain") == fields["drain_timeout_seconds"].default
    assert optional_number("deadlines", "launch_hook") > fields["runner_start_timeout_seconds"].default


def test_instances_accept_their_installed_models() -> None:
    text = (MODULE / "compute.tf").read_text()
    assert f'default_model = "{Settings.model_fields["model"].default}"' in text
    assert 'TRANSCRIPTD_MODELS = lookup(var.environment, "TRANSCRIPTD_MODEL", local.default_model)' in text


def test_interruptions_do_not_use_up_the_receives() -> None:
    fields = Settings.model_fields
    assert default("max_receive_count") > fields["max_attempts"].default + fields["max_crashed_deliveries"].default


def test_role_allows_exactly_the_calls_of_the_daemon() -> None:
    called = set()
    for text in (path.read_text() for path in DAEMON.rglob("*.py")):
        if "aioboto3" in text or "types_aiobotocore" in text:
            called |= set(re.findall(r'_client\.(?:get_paginator\("(\w+)"\)|(\w+)\()', text))
    needed: set[str] = set()
    for name in {"".join(pair) for pair in called} - {"get_paginator"}:
        assert name in PERMISSIONS, f"add the permission for {name} here and in deploy/terraform/iam.tf"
        needed |= PERMISSIONS[name]
    allowed = set(re.findall(r'"((?:sqs|s3|events|autoscaling):\w+)"', (MODULE / "iam.tf").read_text()))
    assert needed <= allowed
    # The boot script and the idle termination need the other Auto Scaling permissions.
    assert {name for name in allowed - needed if not name.startswith("autoscaling:")} == set()


@pytest.fixture(scope="module")
def user_data() -> str:
    """Render the boot script for an instance."""
    require_program("terraform")
    arguments = {
        "region": "eu-central-1",
        "group_name": "transcriptd",
        "launch_hook": "transcriptd-launch",
        "stop_timeout_seconds": 360,
        "release_uri": "s3://releases/transcriptd/0.1.0.tar.gz",
        "release_sha256": "a" * 64,
        "models_from": "s3://models/transcriptd",
        "profiles": '[calls]\nprefix = "calls/"\noptions.hotwords = "$HOME `id`"\n',
        "secrets": {"WEBHOOK_SECRET": "arn:aws:ssm:eu-central-1:123456789012:parameter/webhook"},
        "settings": {"WEBHOOK_URL": 'https://app.example.com/$HOME/`id`/\\"'},
    }
    template = json.dumps(str(MODULE / "templates" / "user-data.sh.tftpl"))
    done = subprocess.run(
        ["terraform", "console"],
        input=f"base64encode(templatefile({template}, {json.dumps(arguments)}))\n",
        capture_output=True,
        text=True,
        cwd=MODULE.parent,  # a folder without .tf files: the console then needs no provider
        check=True,
    )
    encoded = done.stdout.strip().strip('"')
    return subprocess.run(["base64", "-d"], input=encoded, capture_output=True, text=True, check=True).stdout


def test_boot_script_is_valid_bash(user_data: str) -> None:
    subprocess.run(["bash", "-n"], input=user_data, text=True, check=True)
    subprocess.run([Path(sys.executable).parent / "shellcheck", "-"], input=user_data, text=True, check=True)
    assert 'bash "$installer" --source "$source_dir"' in user_data


def test_the_boot_script_writes_settings_as_they_are(user_data: str, tmp_path: Path) -> None:
    """The shell expands nothing in the settings; a secret is read on the instance and written as it is to a file that only root
    may read."""
    target = tmp_path / "transcriptd.env"
    secret = tmp_path / "credentials" / "WEBHOOK_SECRET"
    begin, end = user_data.index("install -d -m 755 /etc/transcriptd\n"), user_data.index("# --- Release ---")
    script = user_data[begin:end].replace("/etc/transcriptd", str(tmp_path))
    script = "aws() { printf 'whsec_a\"b\\\\c\\n'; }\n" + script
    subprocess.run(["bash", "-euo", "pipefail"], input=script, text=True, check=True)
    assert target.read_text().splitlines() == ['WEBHOOK_URL="https://app.example.com/$HOME/`id`/\\""']
    assert secret.read_text() == 'whsec_a"b\\c\n'
    assert [path.stat().st_mode & 0o777 for path in (target, secret.parent, secret)] == [0o600, 0o700, 0o600]
    profiles = tmp_path / "profiles.toml"
    assert tomllib.loads(profiles.read_text())["calls"] == {"prefix": "calls/", "options": {"hotwords": "$HOME `id`"}}
    assert profiles.stat().st_mode & 0o777 == 0o644  # for the user of the daemon


REFUSED = {
    "the hub without a way to it": (
        'create_vpc_endpoints = true\n  route_table_ids = ["rtb-0123456789abcdef0"]',
        'models_from = "hub" needs internet access',
    ),
    "the hub with no egress": ("egress_cidr_blocks = []", 'models_from = "hub" needs internet access'),
    "the hub that is forbidden": ('environment = { HF_HUB_OFFLINE = "1" }', "contradict each other"),
    "a gated pipeline without a token": (
        'environment = { TRANSCRIPTD_DIARIZATION_MODEL = "pyannote/speaker-diarization-community-1" }',
        "add HF_TOKEN to secrets",
    ),
    "webhooks without a secret": (
        'environment = { WEBHOOK_URL = "https://app.example.com/hooks" }',
        "require WEBHOOK_SECRET in secrets",
    ),
    "webhooks in the clear": (
        'environment = { WEBHOOK_URL = "http://app.example.com/hooks" }\n'
        '  secrets = { WEBHOOK_SECRET = "arn:aws:ssm:eu-central-1:123456789012:parameter/webhook" }',
        "WEBHOOK_URL must be https",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=list(REFUSED))
def test_unusable_settings_are_rejected_at_plan_time(arguments: str, message: str, tmp_path: Path) -> None:
    """The module's own validations, also where no provider can be fetched to run deploy/terraform/tests."""
    call = f"""module "transcriptd" {{
  source = "../.."

  vpc_id         = "vpc-0123456789abcdef0"
  subnet_ids     = ["subnet-0123456789abcdef0"]
  release_bucket = "releases"
  release_key    = "transcriptd/0.1.0.tar.gz"
  release_sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  {arguments}
}}
"""
    urls = dict.fromkeys(("jobs", "jobs-dlq", "outbox", "outbox-dlq"), "https://sqs.example.com/queue")
    with pytest.raises(AssertionError) as refused:
        render_user_data(call, urls, tmp_path)
    assert message in " ".join(re.sub(r"[│╷╵]", " ", str(refused.value)).split())


def test_the_module_passes_its_checks() -> None:
    """Run `make tf-check`, as far as possible on this machine."""
    if not os.environ.get("TF_CHECK"):
        require_program("terraform")
    done = subprocess.run([MODULE / "check.sh"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    if missed := [line for line in done.stdout.splitlines() if line.startswith("not checked: validate")]:
        pytest.skip(missed[0])
