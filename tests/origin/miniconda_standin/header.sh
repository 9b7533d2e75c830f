#!/bin/sh
#
# NAME:  Miniconda3
# VER:   @VERSION@
# PLAT:  linux-64
# MD5:   @MD5@
#
# A stand-in for the genuine installer, for the lab only (tests/origin of vllm-ansible): the same
# options, refusals and statuses, a base environment from the lab's own channel.

set -eu
unset LD_LIBRARY_PATH LD_PRELOAD LD_AUDIT CONDARC PYTHONPATH PYTHONHOME

case "$0" in
  *.sh) ;;
  *)
    echo 'Please run using "bash"/"dash"/"sh"/"zsh", but not "." or "source".' >&2
    exit 1
    ;;
esac

installer=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
prefix=${HOME:-/opt}/miniconda3
batch=0
force=0
needed=@MEGABYTES@ # MB

usage() {
  cat <<TEXT

usage: $0 [options]

Installs Miniconda3 @VERSION@ (a stand-in made for the lab)

-b           run install in batch mode (without manual intervention),
             it is expected the license terms (if any) are agreed upon
-h           print this help message and exit
-p PREFIX    install prefix, defaults to $prefix, must not contain spaces.
-u           update an existing installation

TEXT
}

while getopts "bhp:u" option; do
  case "$option" in
    # The genuine installer ends with 2 here.
    h) usage; exit 2 ;;
    b) batch=1 ;;
    p) prefix=$OPTARG ;;
    u) force=1 ;;
    *) printf "ERROR: did not recognize option '%s', please try -h\n" "$option"; exit 1 ;;
  esac
done

if [ "$batch" -eq 0 ]; then
  echo "ERROR: this stand-in asks no questions: run it with -b" >&2
  exit 1
fi
case "$prefix" in
  *\ *) echo "ERROR: Cannot install into directories with spaces" >&2; exit 1 ;;
esac
if [ "$force" -eq 0 ] && [ -e "$prefix" ]; then
  printf "ERROR: File or directory already exists: '%s'\n" "$prefix" >&2
  echo "If you want to update an existing installation, use the -u option." >&2
  exit 1
fi
if ! mkdir -p "$prefix"; then
  printf "ERROR: Could not create directory: '%s'.\n" "$prefix" >&2
  echo "Check permissions and available disk space ($needed MB needed)." >&2
  exit 1
fi
free=$(df -Pk "$prefix" | tail -n 1 | awk '{print int($4 / 1024)}')
if [ "$((free - 50))" -lt "$needed" ]; then
  printf 'ERROR: Not enough free disk space. Only %s MB are available, but %s MB are required (leaving a 50 MB buffer).\n' \
    "$((free - 50))" "$needed" >&2
  exit 1
fi
prefix=$(cd "$prefix" && pwd)
printf 'PREFIX=%s\n' "$prefix"

lines=$(grep -anm 1 '^@@END_HEADER@@' "$installer" | sed 's/:.*//')
payload() {
  tail -n "+$((lines + 1))" "$installer"
}

md5=$(payload | md5sum - | cut -d' ' -f1)
if [ "$md5" != @MD5@ ]; then
  # As the genuine one: it warns and goes on, and a cut payload then fails to unpack.
  echo "WARNING: md5sum mismatch of tar archive" >&2
  echo "expected: @MD5@" >&2
  printf '     got: %s\n' "$md5" >&2
fi

echo "Unpacking payload..."
rm -rf "$prefix/install_tmp"
payload | tar -xzf - -C "$prefix"

printf '\nInstalling base environment...\n\n'
python=$prefix/pkgs/@PYTHON@/bin/python
PYTHONPATH=$prefix/install_tmp/site-packages "$python" -s -B -m conda_standin.bootstrap "$prefix"
rm -rf "$prefix/install_tmp"
echo "installation finished."
exit 0
# shellcheck disable=SC2317  # the payload follows; the shell has left
@@END_HEADER@@
