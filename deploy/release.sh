#!/usr/bin/env bash
# Build the release archive of the checked-out commit, which user data downloads and deploy/install.sh installs.
#   release.sh TARGET_DIR          transcriptd-VERSION.tar.gz, its SBOM transcriptd-VERSION.cdx.json, and SHA256SUMS of both;
#                                  all reproducible byte for byte
#   release.sh TARGET_DIR --wheels includes all wheels of deploy/requirements.lock for this platform, for closed networks
# PYTHON must have hatchling and cyclonedx-python-lib, and pip for --wheels; `make release` ensures this. Prints the
# archive's path and SHA-256.
set -euo pipefail
umask 022

here=$(cd "$(dirname "$0")/.." && pwd)
target=${1:?release.sh TARGET_DIR [--wheels]}
python=${PYTHON:-$here/.venv/bin/python}
mkdir -p "$target"
target=$(cd "$target" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Only committed files, so that the commit identifies the release.
mkdir "$work/tree"
git -C "$here" archive HEAD | tar -x -C "$work/tree"
SOURCE_DATE_EPOCH=$(git -C "$here" log -1 --format=%ct)
export SOURCE_DATE_EPOCH
(cd "$work/tree" && "$python" -m hatchling build --target wheel --directory "$work/wheel" > /dev/null)
wheel=$(basename "$work"/wheel/transcriptd-*.whl)
name=transcriptd-$(cut -d- -f2 <<< "$wheel")

mkdir "$work/$name"
cp -r "$work/tree/deploy" "$work/tree/LICENSE" "$work/tree/CHANGELOG.md" "$work/wheel/$wheel" "$work/$name/"
if [ "${2:-}" = --wheels ]; then
  "$python" -m pip download --quiet --require-hashes --only-binary :all: --no-deps --no-cache-dir \
    --requirement "$work/tree/deploy/requirements.lock" --dest "$work/$name/wheelhouse"
fi
tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$work" -cf - "$name" \
  | gzip --no-name > "$target/$name.tar.gz"
(cd "$work/tree" && "$python" -m deploy.sbom "$target/$name.tar.gz" deploy/requirements.lock > "$target/$name.cdx.json")
(cd "$target" && sha256sum "$name.tar.gz" "$name.cdx.json" > SHA256SUMS)
echo "$target/$name.tar.gz"
sha256sum "$target/$name.tar.gz" | cut -d' ' -f1
