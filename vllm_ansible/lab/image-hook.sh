#!/bin/sh
# mmdebstrap's customise hook: makes a fresh root ($1) one that many machines can share.
# LAB_PIP: requirements for /opt/venv, one a line. LAB_CA: this computer's CA bundle.
set -eu
root=$1

# What tells machines apart is made per machine, never shared through the image.
rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/dbus/machine-id"
: >"$root/etc/machine-id"

chroot "$root" systemctl --quiet enable systemd-networkd.service ssh.service

if [ -n "${LAB_PIP:-}" ]; then
  bundle=/etc/ssl/certs/ca-certificates.crt
  [ -z "${LAB_CA:-}" ] || cp "$LAB_CA" "$root$bundle"
  printf '%s\n' "$LAB_PIP" >"$root/tmp/requirements.txt"
  # pip's settings on this computer may name paths that the new root does not have.
  for name in PIP_CONFIG_FILE PIP_FIND_LINKS PIP_CACHE_DIR PIP_CONSTRAINT PIP_REQUIREMENT PIP_TARGET \
    PIP_PREFIX PIP_USER VIRTUAL_ENV PYTHONPATH PYTHONHOME; do
    unset "$name"
  done
  export HOME=/root PIP_CERT="$bundle" SSL_CERT_FILE="$bundle" REQUESTS_CA_BUNDLE="$bundle"
  export PIP_DISABLE_PIP_VERSION_CHECK=1
  chroot "$root" python3 -m venv /opt/venv
  chroot "$root" /opt/venv/bin/python -m pip install --quiet --no-cache-dir \
    --requirement /tmp/requirements.txt
  rm -f "$root/tmp/requirements.txt"
fi
