#!/usr/bin/env bash
# Install transcriptd: user, virtual environment from the hashed lock, unit, model weights. Idempotent: instances run it at
# boot, image builds and manual upgrades run it too. See docs/deploy.md.
set -euo pipefail
umask 022

usage() {
  cat << 'USAGE'
install.sh [--source DIR] [--models FROM] [--python PROGRAM] [--wheelhouse DIR] [--root DIR] [--no-gpu]

  --source DIR      unpacked release (default: the one that contains this script)
  --models FROM     source of model weights: hub, s3://bucket/prefix, cached (already present: only verify),
                    or none: neither fetch nor verify (default: hub)
  --python PROGRAM  Python 3.11, 3.12 or 3.13 (default: the newest of these on the PATH)
  --wheelhouse DIR  install Python packages only from DIR, without network access (default: the release's wheelhouse, if present)
  --root DIR        install into the system tree below DIR, such as a mounted image; starts and checks nothing
  --no-gpu          do not require a GPU and its driver: for image builds and CPU-only machines

Edit /etc/transcriptd/transcriptd.env yourself: the script creates it from the example only if it does not exist.
Then run: systemctl restart transcriptd
USAGE
}

say() { echo "install: $*"; }
die() {
  echo "install: $*" >&2
  exit 1
}

source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
models=hub python='' wheelhouse='' root='' gpu=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --source) source_dir=$(cd "${2:?--source needs a folder}" && pwd) && shift ;;
    --models) models=${2:?--models needs hub, s3://bucket/prefix, cached or none} && shift ;;
    --python) python=${2:?--python needs a program} && shift ;;
    --wheelhouse) wheelhouse=$(cd "${2:?--wheelhouse needs a folder}" && pwd) && shift ;;
    --root) root=$(cd "${2:?--root needs a folder}" && pwd) && shift ;;
    --no-gpu) gpu=no ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && die "unknown option $1" ;;
  esac
  shift
done
[ "$root" != / ] || root=''
case "$models" in hub | cached | none | s3://?*) ;; *) die "--models is hub, s3://bucket/prefix, cached or none, not $models" ;; esac
[ "$(id -u)" -eq 0 ] || die 'run this script as root: it creates a user and writes to /opt, /etc and /usr/lib'
for tool in systemctl systemd-sysusers systemd-tmpfiles setpriv; do
  command -v "$tool" > /dev/null || die "$tool is missing: transcriptd needs systemd and util-linux"
done

lock=$source_dir/deploy/requirements.lock
[ -f "$lock" ] || die "$lock is missing: --source must name an unpacked release that contains deploy/"
wheel=$(find "$source_dir" -maxdepth 1 -name 'transcriptd-*.whl' -print -quit)
[ -n "$wheel" ] || die "no transcriptd-*.whl in $source_dir: make a release with deploy/release.sh"
if [ -z "$wheelhouse" ] && [ -d "$source_dir/wheelhouse" ]; then wheelhouse=$source_dir/wheelhouse; fi

# --- The GPU -----------------------------------------------------------------------------------------------------------

# CUDA 13.x, which PyTorch is built for, runs on this driver and newer, by minor version compatibility:
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
least_driver=580.65.06

check_driver() {
  local driver
  command -v nvidia-smi > /dev/null \
    || die 'nvidia-smi is missing: use an AMI with the NVIDIA driver, or --no-gpu for a machine without a GPU'
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1) \
    || die "the NVIDIA driver does not respond (nvidia-smi): $driver; reboot, or replace the instance"
  [ "$(printf '%s\n' "$least_driver" "$driver" | sort --version-sort | head -n 1)" = "$least_driver" ] \
    || die "the NVIDIA driver is $driver; CUDA 13 needs $least_driver or newer: use a newer AMI"
  say "NVIDIA driver $driver"
}

if [ "$gpu" = yes ] && [ -z "$root" ]; then check_driver; fi

# --- System files ------------------------------------------------------------------------------------------------------

# put MODE SOURCE TARGET: write atomically, and only if the content differs.
put() {
  local target=$root$3
  if cmp --silent "$2" "$target"; then return; fi
  mkdir -p "$(dirname "$target")"
  install -m "$1" "$2" "$target.new"
  mv -f "$target.new" "$target"
  say "wrote $target"
}

units=$source_dir/deploy/systemd
put 644 "$units/sysusers.conf" /usr/lib/sysusers.d/transcriptd.conf
put 644 "$units/tmpfiles.conf" /usr/lib/tmpfiles.d/transcriptd.conf
put 644 "$units/transcriptd.service" /usr/lib/systemd/system/transcriptd.service
if [ ! -e "$root/etc/transcriptd/transcriptd.env" ]; then
  put 600 "$units/transcriptd.env.example" /etc/transcriptd/transcriptd.env
  say "edit $root/etc/transcriptd/transcriptd.env, and the secrets in $root/etc/transcriptd/credentials, before starting transcriptd"
fi
systemd-sysusers ${root:+--root="$root"} transcriptd.conf
# Name only our file: other rules of the system may fail in an image.
systemd-tmpfiles ${root:+--root="$root"} --create transcriptd.conf

# --- The virtual environment -------------------------------------------------------------------------------------------

# One folder per release and a link to the current one: upgrades are atomic and rollbacks quick.
digest=$(cat "$lock" "$wheel" | sha256sum | cut -c -12)
version=$(basename "$wheel" | cut -d- -f2)
base=/opt/transcriptd
venv=$root$base/releases/$version-$digest

newest_python() {
  local candidate
  for candidate in ${python:-python3.13 python3.12 python3.11 python3}; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "${python:-python3 on the PATH} is not Python 3.11, 3.12 or 3.13 with venv and ensurepip: install python3-venv, or use --python"
}

make_venv() {
  local interpreter uv=${UV:-$venv/bin/uv} from=() pip_from=()
  if [ -n "$wheelhouse" ]; then
    from=(--offline --no-index --find-links "$wheelhouse")
    pip_from=(--no-index --find-links "$wheelhouse")
  fi
  interpreter=$(newest_python)
  say "building $venv with $interpreter"
  rm -rf "$venv"
  "$interpreter" -m venv ${UV:+--without-pip} "$venv"
  if [ -z "${UV:-}" ]; then
    sed -n '/^uv==/,/[^\\]$/p' "$lock" > "$venv/uv.lock"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes "${pip_from[@]}" --requirement "$venv/uv.lock"
  fi
  # The service may not write into its virtual environment: without bytecode each start would compile all that it imports.
  export UV_COMPILE_BYTECODE="${UV_COMPILE_BYTECODE:-1}"
  "$uv" pip sync --quiet --python "$venv/bin/python" --require-hashes "${from[@]}" "$lock"
  "$uv" pip install --quiet --python "$venv/bin/python" --no-deps "${from[@]}" "$wheel"
  touch "$venv/.complete"
}

[ -e "$venv/.complete" ] || make_venv
if [ "$(readlink "$root$base/venv" || true)" != "releases/$version-$digest" ]; then
  ln -sfn "releases/$version-$digest" "$root$base/venv.new"
  mv -fT "$root$base/venv.new" "$root$base/venv"
  say "in use: $root$base/venv -> releases/$version-$digest"
fi
# Keep the current release and the two before it.
find "$root$base/releases" -mindepth 1 -maxdepth 1 ! -name "$version-$digest" -printf '%T@ %p\0' \
  | sort --zero-terminated --numeric-sort --reverse | tail --zero-terminated --lines +3 | cut --zero-terminated -d' ' -f2- \
  | xargs --null --no-run-if-empty rm -rf

# --- Model weights -----------------------------------------------------------------------------------------------------

cache=$root/var/cache/transcriptd

# models_as_their_owner COMMAND …: run `transcriptd models` as the user who owns the cache. Never as root, because the cache and
# what is fetched are not trusted, and never as the daemon's user, who must not be able to change what the daemon loads.
models_as_their_owner() {
  local user group credentials=$root/etc/transcriptd/credentials
  # The numeric IDs of the target root.
  user=$(awk -F: '$1 == "transcriptd-models" { print $3 }' "$root/etc/passwd")
  group=$(awk -F: '$1 == "transcriptd-models" { print $4 }' "$root/etc/passwd")
  {
    cat "$root/etc/transcriptd/transcriptd.env"
    if [ -s "$credentials/HF_TOKEN" ]; then printf '\nHF_TOKEN=%s\n' "$(cat "$credentials/HF_TOKEN")"; fi
  } | (
    cd "$cache"
    exec setpriv --reuid "$user" --regid "$group" --clear-groups --no-new-privs \
      env HOME="$cache" HF_HOME="$cache/huggingface" TORCH_HOME="$cache/torch" \
      "$venv/bin/transcriptd" models "$@" --env-file -
  )
}

prepare_models() {
  local from=()
  case "$models" in s3://*) from=(--from "$models") ;; esac
  if [ "$models" != cached ]; then models_as_their_owner fetch "${from[@]}"; fi
  models_as_their_owner verify
}

if [ "$models" != none ]; then prepare_models; fi

# --- The unit ----------------------------------------------------------------------------------------------------------

if [ -z "$root" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
systemctl ${root:+--root="$root"} --quiet enable transcriptd.service
say "transcriptd $version is installed"
