#!/usr/bin/env bash
# Check this module, its example and ../image with the available tools, and report skipped checks.
#   TF_CHECK  a command that takes a module's folder and --test, and replaces terraform init, validate and test
#             on machines that cannot fetch hashicorp/aws
#   CHECKOV   the checkov to run (default: checkov on the PATH)
# Exit status: 0 if nothing failed, else 1.
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
      missed 'validate, test: hashicorp/aws cannot be fetched; set TF_CHECK to a command that does not need it'
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
  # Guidelines are fetched from the network and only add links; the checks are the same without them.
  LOG_LEVEL=CRITICAL "$checkov" --directory .. --framework terraform --compact --quiet --download-external-modules false
}

terraform_checks
security_checks
