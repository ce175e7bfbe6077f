#!/usr/bin/env bash
# Checks this module, its example and ../image with what is there, and says what it could not check.
#   TF_CHECK  a command that takes a module's folder and --test, in the place of terraform init, validate and test:
#             for machines that cannot fetch hashicorp/aws
#   CHECKOV   the checkov to run (default: checkov on the PATH)
# Exit status: 0 nothing failed, 1 something did.
set -euo pipefail
cd "$(dirname "$0")"

missed() { echo "not checked: $1"; }

terraform_checks() {
  if [ -n "${TF_CHECK:-}" ]; then
    $TF_CHECK . --test
    $TF_CHECK examples/complete
    $TF_CHECK ../image --test
    return
  fi
  if ! command -v terraform > /dev/null; then
    missed 'fmt, validate, test: terraform is not on the PATH'
    return
  fi
  terraform fmt -check -recursive -diff . ../image
  TF_DATA_DIR=$(mktemp -d)
  export TF_DATA_DIR
  trap 'rm -rf "$TF_DATA_DIR" {.,examples/complete,../image}/.terraform.lock.hcl' EXIT
  if ! terraform init -no-color -backend=false -input=false > "$TF_DATA_DIR/init.log" 2>&1; then
    if grep -qE 'could not query provider registry|Failed to query available provider packages|could not connect to' "$TF_DATA_DIR/init.log"; then
      missed 'validate, test: hashicorp/aws cannot be fetched here; TF_CHECK may name a command that can do without'
      return
    fi
    cat "$TF_DATA_DIR/init.log"
    exit 1
  fi
  terraform validate -no-color
  terraform test -no-color
  terraform -chdir=examples/complete init -no-color -backend=false -input=false > /dev/null
  terraform -chdir=examples/complete validate -no-color
  terraform -chdir=../image init -no-color -backend=false -input=false > /dev/null
  terraform -chdir=../image validate -no-color
  terraform -chdir=../image test -no-color
}

security_checks() {
  local checkov=${CHECKOV:-checkov}
  if ! command -v "$checkov" > /dev/null; then
    missed "security: checkov is not on the PATH (pipx install checkov, or CHECKOV=…)"
    return
  fi
  # Its guidelines come from the network and only add links: without them the checks are the same.
  LOG_LEVEL=CRITICAL "$checkov" --directory .. --framework terraform --compact --quiet --download-external-modules false
}

terraform_checks
security_checks
