# shellcheck shell=bash
# Sourced by the programs in scripts/: makes the controller's Python environment and puts it on PATH.
#
# The environment is .venv in the project, filled from requirements.lock with every hash checked.
# It is remade when the lock changes and left alone otherwise, so that a second start costs nothing.

project=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
export ANSIBLE_CONFIG="${ANSIBLE_CONFIG:-$project/ansible.cfg}"
export PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}"
# uv trusts what this computer trusts, as pip does: behind a company's proxy that is more than its own list.
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}"

fail() {
  printf '%s: %s\n' "$(basename -- "$0")" "$*" >&2
  exit 1
}

# Prints the first interpreter that is new enough for ansible-core.
find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 14)))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# Installs Debian packages, or says which are missing where that cannot be done.
install_packages() {
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    fail "missing on this computer: $* (Debian, Ubuntu: apt-get install $*)"
  fi
  printf 'Installing %s ...\n' "$*" >&2
  if ! apt-get update -qq >&2 || ! DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null; then
    fail "apt-get could not install $*: see its message above"
  fi
}

# Debian and Ubuntu keep the venv module in a package of its own.
ensure_venv_module() {
  "$1" -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
}

ensure_environment() {
  local wanted python log
  # An environment knows its own path, so one that was moved or copied is made anew as well.
  wanted="$(sha256sum <"$project/requirements.lock" | cut -d' ' -f1) $project"
  if [ "$(cat "$project/.venv/.made-from" 2>/dev/null)" = "$wanted" ] &&
    "$project/.venv/bin/python" -c '' 2>/dev/null; then
    return
  fi
  python=$(find_python) || { install_packages python3 python3-venv && python=$(find_python); } ||
    fail "no Python 3.11, 3.12 or 3.13 on PATH, and this system's own is another"
  ensure_venv_module "$python"
  printf 'Making the controller environment in .venv (half a minute, once) ...\n' >&2
  # Of a link, what it leads to would be emptied, which may be another clone's.
  [ ! -L "$project/.venv" ] || rm "$project/.venv"
  "$python" -m venv --clear "$project/.venv" || fail "could not make $project/.venv"
  log=$project/.venv/install.log
  if ! "$project/.venv/bin/python" -m pip install --disable-pip-version-check --require-hashes \
    --requirement "$project/requirements.lock" >"$log" 2>&1; then
    tail -20 "$log" >&2
    fail "could not install requirements.lock; pip's whole output is in $log"
  fi
  # The plugins and "from vllm_ansible import provision" find the package without being told where.
  printf '%s\n' "$project" >"$("$project/.venv/bin/python" -c \
    'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm_ansible.pth"
  printf '%s\n' "$wanted" >"$project/.venv/.made-from"
}

(
  # Two programs started at once must not fill one environment.
  if command -v flock >/dev/null 2>&1; then
    exec 9>"$project/.venv.lock"
    flock 9
  fi
  ensure_environment
) || exit 1
export PATH="$project/.venv/bin:$PATH"
