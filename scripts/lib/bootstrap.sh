# shellcheck shell=bash
# Sourced by the programs in scripts/: makes the controller's Python environment and puts it on PATH.
#
# The environment is .venv in the project, filled from requirements.lock with every hash checked.
# It is remade when the lock changes and left alone otherwise, so that a second start costs nothing.

project=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
export ANSIBLE_CONFIG="${ANSIBLE_CONFIG:-$project/ansible.cfg}"
export PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}"

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

# Debian and Ubuntu keep the venv module in a package of its own.
ensure_venv_module() {
  "$1" -c 'import ensurepip, venv' 2>/dev/null && return
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
  else
    fail "$1 has no venv module: install it (Debian, Ubuntu: apt-get install python3-venv)"
  fi
}

ensure_environment() {
  local wanted python log
  wanted=$(sha256sum <"$project/requirements.lock" | cut -d' ' -f1)
  if [ "$(cat "$project/.venv/.lock-sha256" 2>/dev/null)" = "$wanted" ] &&
    "$project/.venv/bin/python" -c '' 2>/dev/null; then
    return
  fi
  python=$(find_python) ||
    fail "no Python 3.11, 3.12 or 3.13 on PATH (Debian 12 and later: apt-get install python3 python3-venv)"
  ensure_venv_module "$python"
  printf 'Making the controller environment in .venv (half a minute, once) ...\n' >&2
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
  printf '%s\n' "$wanted" >"$project/.venv/.lock-sha256"
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
